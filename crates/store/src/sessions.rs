use chrono::{DateTime, Utc};
use domain::{Event, SessionId, SessionState, TenantId};
use uuid::Uuid;

use crate::{Store, StoreError};

// Of events that occurred at one moment, and of those from the future, the one handed over last counts. Rows are written in
// one order, so that hand-overs do not lock each other out.
const NOTE_SESSIONS: &str = "-- note_sessions
INSERT INTO sessions AS s (tenant_id, session_id, is_connected, at)
SELECT DISTINCT ON (g.tenant_id, g.session_id) g.tenant_id, g.session_id, g.is_connected, least(g.at, $5)
FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::timestamptz[])
    WITH ORDINALITY AS g (tenant_id, session_id, is_connected, at, place)
JOIN tenants t ON t.id = g.tenant_id
ORDER BY g.tenant_id, g.session_id, least(g.at, $5) DESC, g.place DESC
ON CONFLICT (tenant_id, session_id) DO UPDATE SET is_connected = excluded.is_connected, at = excluded.at
    WHERE s.at <= excluded.at";

const SESSION_STATE: &str = "-- session_state
SELECT is_connected, at FROM sessions WHERE tenant_id = $1 AND session_id = $2";

const FORGET_SESSIONS: &str = "-- forget_sessions
DELETE FROM sessions WHERE at < $1";

impl Store {
    /// Keeps what events say of their sessions. Those that say nothing cost nothing.
    pub(crate) async fn note_sessions(
        &self,
        events: &[&Event],
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let told = |event: &&Event| {
            let state = SessionState::told_by(&event.event_type)?;
            let session = event.session_id.as_ref()?.as_str().to_owned();
            Some((event.tenant_id.0, session, state == SessionState::Connected, event.occurred_at))
        };
        let told: Vec<(Uuid, String, bool, DateTime<Utc>)> = events.iter().filter_map(told).collect();
        if told.is_empty() {
            return Ok(());
        }
        let tenants: Vec<Uuid> = told.iter().map(|(tenant, ..)| *tenant).collect();
        let sessions: Vec<&str> = told.iter().map(|(_, session, ..)| session.as_str()).collect();
        let connected: Vec<bool> = told.iter().map(|(_, _, is_connected, _)| *is_connected).collect();
        let at: Vec<DateTime<Utc>> = told.iter().map(|(.., at)| *at).collect();
        let client = self.connection().await?;
        let statement = client.prepare_cached(NOTE_SESSIONS).await?;
        client.execute(&statement, &[&tenants, &sessions, &connected, &at, &now]).await?;
        Ok(())
    }

    /// The last known state of a session, and since when; `None` where no event has told of it. Written by
    /// [`Store::hand_over`].
    pub async fn session_state(
        &self,
        tenant: TenantId,
        session: &SessionId,
    ) -> Result<Option<(SessionState, DateTime<Utc>)>, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let row = client.query_opt(SESSION_STATE, &[&tenant.0, &session.as_str()]).await?;
        Ok(row.map(|row| {
            let state = if row.get(0) { SessionState::Connected } else { SessionState::Disconnected };
            (state, row.get(1))
        }))
    }

    /// Forgets sessions of which nothing was heard since a moment.
    pub async fn forget_sessions(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let client = self.connection().await?;
        Ok(client.execute(&client.prepare_cached(FORGET_SESSIONS).await?, &[&before]).await?)
    }
}
