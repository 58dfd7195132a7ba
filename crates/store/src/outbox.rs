use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use domain::{DomainEvent, EventId, FailedDelivery, TenantId};
use ring::digest::{SHA256, digest};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{AttemptRecord, Lease, Store, StoreError, Trigger};

/// What there is to tell, and whether a webhook of the tenant's wants to hear it.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// For [`Store::clear_outbox`].
    pub sequence: i64,
    /// What there is to tell.
    pub event: DomainEvent,
    /// Whether it is to be delivered, as of the moment it was written down.
    pub is_wanted: bool,
}

// The changes to one tenant's webhooks wait for each other before this, so their order is that of the sequence.
const ANNOUNCE: &str = "-- announce
INSERT INTO outbox (tenant_id, id, type, occurred_at, data, is_wanted)
SELECT g.*, EXISTS (SELECT FROM webhooks w WHERE w.tenant_id = g.tenant_id AND w.is_active
    AND w.events && ARRAY[g.type, split_part(g.type, '.', 1) || '.*'])
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[])
    AS g (tenant_id, id, type, occurred_at, data)
ON CONFLICT (tenant_id, id) DO NOTHING";

const HAS_OUTBOX: &str = "-- has_outbox
SELECT EXISTS (SELECT FROM outbox)";

const LEASE_OUTBOX: &str = "-- lease_outbox
INSERT INTO outbox_relay AS r (leased_by, leased_until) VALUES ($1, $2)
ON CONFLICT (is_only_row) DO UPDATE SET leased_by = $1, leased_until = $2
    WHERE r.leased_until < $3 OR r.leased_by = $1";

const RELEASE_OUTBOX: &str = "-- release_outbox
UPDATE outbox_relay SET leased_until = 'epoch' WHERE leased_by = $1";

const READ_OUTBOX: &str = "-- read_outbox
SELECT sequence, tenant_id, id, type, occurred_at, data, is_wanted FROM outbox ORDER BY sequence LIMIT $1";

const CLEAR_OUTBOX: &str = "-- clear_outbox
DELETE FROM outbox WHERE sequence = ANY($1)";

/// Writes down what is to be told, with the change it tells of.
pub(crate) async fn announce(
    client: &impl GenericClient,
    events: &[DomainEvent],
) -> Result<(), tokio_postgres::Error> {
    let tenants: Vec<Uuid> = events.iter().map(|event| event.tenant_id.0).collect();
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    let occurred_at: Vec<DateTime<Utc>> = events.iter().map(|event| event.occurred_at).collect();
    let data: Vec<&str> = events.iter().map(|event| event.data.get()).collect();
    let statement = client.prepare_cached(ANNOUNCE).await?;
    client.execute(&statement, &[&tenants, &ids, &types, &occurred_at, &data]).await?;
    Ok(())
}

/// What a failed attempt tells of, if it was the last one of its delivery.
pub(crate) fn exhausted(attempt: &AttemptRecord) -> Option<DomainEvent> {
    let error = attempt.error.filter(|error| *error != "cancelled")?;
    let is_test = attempt.trigger == Some(Trigger::Test);
    if attempt.next_attempt_at.is_some() || attempt.event_type.is_about_deliveries() || is_test {
        return None;
    }
    let delivery = FailedDelivery {
        webhook_id: attempt.key.webhook_id,
        event_id: &attempt.key.event_id,
        event_type: &attempt.event_type,
        attempts: attempt.attempt,
        status_code: attempt.status_code,
        error,
    };
    Some(DomainEvent::exhausted(attempt.tenant_id, id_of(attempt), &delivery, attempt.started_at))
}

/// The same whenever the same attempt is written down again.
fn id_of(attempt: &AttemptRecord) -> EventId {
    let (webhook, event) = (attempt.key.webhook_id, &attempt.key.event_id);
    let attempt = format!("{webhook} {} {event}", attempt.started_at.timestamp_micros());
    let digest = digest(&SHA256, attempt.as_bytes());
    let hex: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("evt_{hex}").parse().expect("hexadecimal digits make an id")
}

impl Store {
    /// Whether there is something to tell.
    pub async fn has_outbox(&self) -> Result<bool, StoreError> {
        let client = self.connection().await?;
        Ok(client.query_one(&client.prepare_cached(HAS_OUTBOX).await?, &[]).await?.get(0))
    }

    /// Makes the holder the only one to tell, unless another is.
    pub async fn lease_outbox(&self, lease: Lease, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(LEASE_OUTBOX).await?;
        Ok(client.execute(&statement, &[&lease.holder, &lease.until, &now]).await? > 0)
    }

    /// Lets others tell.
    pub async fn release_outbox(&self, holder: Uuid) -> Result<(), StoreError> {
        let client = self.connection().await?;
        client.execute(&client.prepare_cached(RELEASE_OUTBOX).await?, &[&holder]).await?;
        Ok(())
    }

    /// What is to be told first.
    pub async fn read_outbox(&self, limit: u32) -> Result<Vec<Outgoing>, StoreError> {
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(READ_OUTBOX).await?, &[&i64::from(limit)]).await?;
        rows.iter().map(read_row).collect()
    }

    /// These are told.
    pub async fn clear_outbox(&self, told: &[i64]) -> Result<(), StoreError> {
        let client = self.connection().await?;
        client.execute(&client.prepare_cached(CLEAR_OUTBOX).await?, &[&told]).await?;
        Ok(())
    }
}

fn read_row(row: &Row) -> Result<Outgoing, StoreError> {
    let parse = || {
        Ok(DomainEvent {
            tenant_id: TenantId(row.get("tenant_id")),
            id: row.get::<_, &str>("id").parse()?,
            event_type: row.get::<_, &str>("type").parse()?,
            occurred_at: row.get("occurred_at"),
            data: DomainEvent::parse_data(row.get("data"))?,
        })
    };
    let event = parse().map_err(StoreError::unreadable("outbox"))?;
    Ok(Outgoing { sequence: row.get("sequence"), event, is_wanted: row.get("is_wanted") })
}
