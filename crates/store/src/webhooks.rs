use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use domain::{
    DisabledReason, EventPattern, GateChange, GateSettings, Invalid, SecretBytes, SecretUnreadable,
    SessionId, TenantId, Webhook, WebhookId, WebhookUrl,
};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tracing::error;
use uuid::Uuid;

use crate::sealing::Place;
use crate::{Keyring, Store, StoreError};

/// What [`parse_webhook`] reads.
macro_rules! webhook_columns {
    () => {
        "id, tenant_id, url, events, session_ids, secret, secret_key_id, is_active, disabled_reason, disabled_at, \
         rate_limit, concurrency, drain_rate, is_ordered, paused_at, created_at, updated_at"
    };
}

/// What a tenant says of a new webhook.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Where deliveries go.
    pub url: WebhookUrl,
    /// Wanted event types.
    pub events: Vec<EventPattern>,
    /// Wanted sessions; `None` wants all.
    pub session_ids: Option<Vec<SessionId>>,
    /// Signs the deliveries.
    pub secret: SecretBytes,
    /// Whether it is on from the start.
    pub is_active: bool,
    /// How it is delivered to.
    pub gate: GateSettings,
}

/// What a tenant changes of a webhook; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    /// Where deliveries go.
    pub url: Option<WebhookUrl>,
    /// Wanted event types.
    pub events: Option<Vec<EventPattern>>,
    /// Wanted sessions; `Some(None)` wants all again.
    pub session_ids: Option<Option<Vec<SessionId>>>,
    /// Signs the deliveries from now on.
    pub secret: Option<SecretBytes>,
    /// Whether it is on.
    pub is_active: Option<bool>,
    /// How it is delivered to.
    pub gate: GateChange,
}

/// Why a webhook was not created or changed.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The tenant has a webhook of the same URL and events.
    #[error("a webhook with this URL and these events exists")]
    Duplicate,
    /// The tenant's plan allows no more webhooks.
    #[error("the plan allows {max} webhooks")]
    LimitReached {
        /// How many it allows.
        max: i32,
    },
    /// The tenant is not known.
    #[error("the tenant is not known")]
    UnknownTenant,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<tokio_postgres::Error> for CreateError {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
            return Self::Duplicate;
        }
        Self::Store(error.into())
    }
}

// Creations of one tenant wait for each other here, so that the limit holds exactly. The webhooks are counted by a
// statement of its own: this one would count those of before the wait.
const LOCK_TENANT: &str = "-- lock_tenant
SELECT p.max_webhooks FROM tenants t JOIN plans p ON p.name = t.plan WHERE t.id = $1 FOR UPDATE OF t";

const COUNT_WEBHOOKS: &str = "-- count_webhooks
SELECT count(*) FROM webhooks WHERE tenant_id = $1";

const BUMP_VERSION: &str = "-- bump_webhooks_version
UPDATE tenants SET webhooks_version = webhooks_version + 1 WHERE id = $1";

const INSERT_WEBHOOK: &str = concat!(
    "-- insert_webhook
INSERT INTO webhooks (id, tenant_id, url, events, session_ids, secret, is_active, duplicate_key, created_at, updated_at,
    rate_limit, concurrency, drain_rate, is_ordered, secret_key_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, md5($8), $9, $9, $10, $11, $12, $13, $14)
RETURNING ",
    webhook_columns!()
);

const GET_WEBHOOK: &str = concat!(
    "-- get_webhook
SELECT ",
    webhook_columns!(),
    "
FROM webhooks WHERE tenant_id = $1 AND id = $2"
);

const GET_WEBHOOK_FOR_UPDATE: &str = concat!(
    "-- get_webhook_for_update
SELECT ",
    webhook_columns!(),
    "
FROM webhooks WHERE tenant_id = $1 AND id = $2 FOR UPDATE"
);

const LIST_WEBHOOKS: &str = concat!(
    "-- list_webhooks
SELECT ",
    webhook_columns!(),
    "
FROM webhooks WHERE tenant_id = $1 ORDER BY created_at, id"
);

const WEBHOOKS_OF_TENANTS: &str = concat!(
    "-- webhooks_of_tenants
SELECT ",
    webhook_columns!(),
    "
FROM webhooks WHERE tenant_id = ANY($1)"
);

const UPDATE_WEBHOOK: &str = concat!(
    "-- update_webhook
UPDATE webhooks SET url = $3, events = $4, session_ids = $5, is_active = $7,
    secret = COALESCE($6, secret), secret_key_id = CASE WHEN $6 IS NULL THEN secret_key_id ELSE $14 END,
    disabled_reason = CASE WHEN $7 THEN NULL ELSE disabled_reason END,
    disabled_at = CASE WHEN $7 THEN NULL ELSE disabled_at END,
    duplicate_key = md5($8), updated_at = $9, rate_limit = $10, concurrency = $11, drain_rate = $12, is_ordered = $13
WHERE tenant_id = $1 AND id = $2
RETURNING ",
    webhook_columns!()
);

// Its receiver gets a fresh start, and the dispatchers learn of it.
const RESET_HEALTH: &str = "-- reset_health
UPDATE webhook_health
SET failing_since = NULL, open_until = NULL, consecutive_failures = 0, times_opened = 0, is_draining = false,
    updated_at = $2
WHERE webhook_id = $1";

// Neither changes what the webhook wants, so `updated_at` stays.
const PAUSE_WEBHOOK: &str = concat!(
    "-- pause_webhook
UPDATE webhooks SET paused_at = coalesce(paused_at, $3) WHERE tenant_id = $1 AND id = $2
RETURNING ",
    webhook_columns!()
);

const RESUME_WEBHOOK: &str = concat!(
    "-- resume_webhook
UPDATE webhooks SET paused_at = NULL, drain_rate = coalesce($3, drain_rate) WHERE tenant_id = $1 AND id = $2
RETURNING ",
    webhook_columns!()
);

const START_DRAINING: &str = "-- start_draining
INSERT INTO webhook_health AS h (webhook_id, updated_at, consecutive_failures, times_opened, is_draining)
SELECT id, $3, 0, 0, true FROM webhooks WHERE tenant_id = $1 AND id = $2 AND paused_at IS NOT NULL
ON CONFLICT (webhook_id) DO UPDATE SET is_draining = true, updated_at = excluded.updated_at";

const TENANTS_WITH_ORDER: &str = "-- tenants_with_order
SELECT DISTINCT tenant_id FROM webhooks WHERE is_ordered";

const DISABLE_WEBHOOK: &str = "-- disable_webhook
UPDATE webhooks SET is_active = false, disabled_reason = $3, disabled_at = $4, updated_at = $4
WHERE tenant_id = $1 AND id = $2 AND is_active";

const DELETE_WEBHOOK: &str = "-- delete_webhook
DELETE FROM webhooks WHERE tenant_id = $1 AND id = $2";

// What waits for a webhook that is deleted or off ends here, and the history says so.
const CANCEL_DELIVERIES: &str = "-- cancel_deliveries
WITH cancelled AS (
    DELETE FROM deliveries WHERE tenant_id = $1 AND webhook_id = $2
    RETURNING tenant_id, webhook_id, event_id, event_day, attempts
)
INSERT INTO delivery_attempts
    (started_at, duration_ms, attempt, event_day, tenant_id, webhook_id, event_id, event_type, error)
SELECT $3, 0, c.attempts, c.event_day, c.tenant_id, c.webhook_id, c.event_id, e.type, 'cancelled'
FROM cancelled c JOIN events e ON e.tenant_id = c.tenant_id AND e.id = c.event_id AND e.day = c.event_day
ON CONFLICT DO NOTHING";

impl Store {
    /// Creates a webhook.
    pub async fn create_webhook(
        &self,
        tenant: TenantId,
        new: &NewWebhook,
        now: DateTime<Utc>,
    ) -> Result<Webhook, CreateError> {
        let mut client = self.connection().await?;
        let transaction = client.transaction().await.map_err(StoreError::from)?;
        let statement = transaction.prepare_cached(LOCK_TENANT).await.map_err(StoreError::from)?;
        let Some(limit) = transaction.query_opt(&statement, &[&tenant.0]).await.map_err(StoreError::from)?
        else {
            return Err(CreateError::UnknownTenant);
        };
        let max: i32 = limit.get(0);
        let statement = transaction.prepare_cached(COUNT_WEBHOOKS).await?;
        let count: i64 = transaction.query_one(&statement, &[&tenant.0]).await?.get(0);
        if count >= i64::from(max) {
            return Err(CreateError::LimitReached { max });
        }
        let id = WebhookId::generate();
        let secret = self.keys.seal(&new.secret, Place { tenant, webhook: id }).map_err(StoreError::from)?;
        let statement = transaction.prepare_cached(INSERT_WEBHOOK).await?;
        let row = transaction
            .query_one(
                &statement,
                &[
                    &id.0,
                    &tenant.0,
                    &new.url.as_str(),
                    &texts(&new.events),
                    &new.session_ids.as_deref().map(texts),
                    &secret.bytes,
                    &new.is_active,
                    &duplicate_key(&new.url, &new.events),
                    &now,
                    &integer(new.gate.rate_limit),
                    &integer(new.gate.concurrency),
                    &integer(new.gate.drain_rate),
                    &new.gate.is_ordered,
                    &secret.key_id,
                ],
            )
            .await?;
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        transaction.commit().await?;
        Ok(self.read_webhook(&row)?)
    }

    /// One webhook of the tenant's.
    pub async fn webhook(&self, tenant: TenantId, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let client = self.connection().await?;
        let row = client.query_opt(&client.prepare_cached(GET_WEBHOOK).await?, &[&tenant.0, &id.0]).await?;
        row.as_ref().map(|row| self.read_webhook(row)).transpose()
    }

    /// All webhooks of the tenant's, oldest first. Bounded by the plan.
    pub async fn webhooks(&self, tenant: TenantId) -> Result<Vec<Webhook>, StoreError> {
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(LIST_WEBHOOKS).await?, &[&tenant.0]).await?;
        rows.iter().map(|row| self.read_webhook(row)).collect()
    }

    /// All webhooks of several tenants, for routing.
    pub async fn webhooks_of_tenants(
        &self,
        tenants: &[TenantId],
    ) -> Result<HashMap<TenantId, Vec<Webhook>>, StoreError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(WEBHOOKS_OF_TENANTS).await?, &[&ids]).await?;
        let mut webhooks: HashMap<TenantId, Vec<Webhook>> =
            tenants.iter().map(|id| (*id, Vec::new())).collect();
        for row in &rows {
            // One that only a later version can read must not stop the delivery of all others.
            match self.read_webhook(row) {
                Ok(webhook) => webhooks.entry(webhook.tenant_id).or_default().push(webhook),
                Err(error) => error!(webhook = %row.get::<_, Uuid>("id"), %error, "a webhook is passed over"),
            }
        }
        Ok(webhooks)
    }

    /// Changes a webhook; `None` when the tenant has no such webhook. Switching it off cancels what waits for it,
    /// switching it on forgets why it was off.
    pub async fn change_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        change: &WebhookChange,
        now: DateTime<Utc>,
    ) -> Result<Option<Webhook>, CreateError> {
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(GET_WEBHOOK_FOR_UPDATE).await?;
        let Some(row) = transaction.query_opt(&statement, &[&tenant.0, &id.0]).await? else {
            return Ok(None);
        };
        let before = self.read_webhook(&row)?;
        let url = change.url.as_ref().unwrap_or(&before.url);
        let events = change.events.as_ref().unwrap_or(&before.events);
        let session_ids = change.session_ids.as_ref().unwrap_or(&before.session_ids);
        let is_active = change.is_active.unwrap_or(before.is_active);
        let gate = change.gate.apply(before.gate);
        // A secret that is not changed stays as it is stored, whether or not it can be opened here.
        let place = Place { tenant, webhook: id };
        let secret = change.secret.as_ref().map(|secret| self.keys.seal(secret, place)).transpose();
        let secret = secret.map_err(StoreError::from)?;
        let statement = transaction.prepare_cached(UPDATE_WEBHOOK).await?;
        let row = transaction
            .query_one(
                &statement,
                &[
                    &tenant.0,
                    &id.0,
                    &url.as_str(),
                    &texts(events),
                    &session_ids.as_deref().map(texts),
                    &secret.as_ref().map(|secret| &secret.bytes),
                    &is_active,
                    &duplicate_key(url, events),
                    &now,
                    &integer(gate.rate_limit),
                    &integer(gate.concurrency),
                    &integer(gate.drain_rate),
                    &gate.is_ordered,
                    &secret.as_ref().map(|secret| &secret.key_id),
                ],
            )
            .await?;
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        if !is_active {
            cancel_deliveries(&transaction, tenant, id, now).await?;
        } else if !before.is_active {
            transaction.execute(&transaction.prepare_cached(RESET_HEALTH).await?, &[&id.0, &now]).await?;
        }
        transaction.commit().await?;
        Ok(Some(self.read_webhook(&row)?))
    }

    /// Holds a webhook's deliveries back; they wait. `None` when the tenant has no such webhook.
    pub async fn pause_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        now: DateTime<Utc>,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(PAUSE_WEBHOOK).await?;
        let Some(row) = transaction.query_opt(&statement, &[&tenant.0, &id.0, &now]).await? else {
            return Ok(None);
        };
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        transaction.commit().await?;
        Ok(Some(self.read_webhook(&row)?))
    }

    /// Lets a webhook's deliveries go on; what has waited leaves at the drain rate, which can be set anew. `None` when the
    /// tenant has no such webhook.
    pub async fn resume_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        drain_rate: Option<u32>,
        now: DateTime<Utc>,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let lock = transaction.prepare_cached(GET_WEBHOOK_FOR_UPDATE).await?;
        transaction.query_opt(&lock, &[&tenant.0, &id.0]).await?;
        let statement = transaction.prepare_cached(START_DRAINING).await?;
        transaction.execute(&statement, &[&tenant.0, &id.0, &now]).await?;
        let statement = transaction.prepare_cached(RESUME_WEBHOOK).await?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&tenant.0, &id.0, &integer(drain_rate)];
        let Some(row) = transaction.query_opt(&statement, &parameters).await? else {
            return Ok(None);
        };
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        transaction.commit().await?;
        Ok(Some(self.read_webhook(&row)?))
    }

    /// The tenants that have a webhook which wants order.
    pub async fn tenants_with_order(&self) -> Result<HashSet<TenantId>, StoreError> {
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(TENANTS_WITH_ORDER).await?, &[]).await?;
        Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
    }

    /// Switches a webhook off on Postrider's own account, and cancels what waits for it. Says whether it was on.
    pub async fn disable_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        reason: DisabledReason,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(DISABLE_WEBHOOK).await?;
        let disabled = transaction.execute(&statement, &[&tenant.0, &id.0, &reason.code(), &now]).await? > 0;
        if disabled {
            transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
            cancel_deliveries(&transaction, tenant, id, now).await?;
        }
        transaction.commit().await?;
        Ok(disabled)
    }

    /// Deletes a webhook and cancels what waits for it. Says whether the tenant had it.
    pub async fn delete_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(DELETE_WEBHOOK).await?;
        let deleted = transaction.execute(&statement, &[&tenant.0, &id.0]).await? > 0;
        if deleted {
            transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
            cancel_deliveries(&transaction, tenant, id, now).await?;
        }
        transaction.commit().await?;
        Ok(deleted)
    }

    fn read_webhook(&self, row: &Row) -> Result<Webhook, StoreError> {
        parse_webhook(row, &self.keys).map_err(StoreError::unreadable("webhooks"))
    }
}

async fn cancel_deliveries(
    transaction: &deadpool_postgres::Transaction<'_>,
    tenant: TenantId,
    id: WebhookId,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let statement = transaction.prepare_cached(CANCEL_DELIVERIES).await?;
    transaction.execute(&statement, &[&tenant.0, &id.0, &now]).await?;
    Ok(())
}

/// The same for the same URL and the same set of events, in whatever order they were given.
fn duplicate_key(url: &WebhookUrl, events: &[EventPattern]) -> String {
    let mut events = texts(events);
    events.sort_unstable();
    events.dedup();
    format!("{} {}", url.url(), events.join(" "))
}

fn integer(value: Option<u32>) -> Option<i32> {
    value.map(|value| i32::try_from(value).unwrap_or(i32::MAX))
}

fn count(row: &Row, column: &str) -> Option<u32> {
    row.get::<_, Option<i32>>(column).and_then(|value| u32::try_from(value).ok())
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// The secret in a row of webhooks; one without a key is from before secrets were encrypted.
pub(crate) fn open_secret(row: &Row, keys: &Keyring, place: Place) -> Result<SecretBytes, SecretUnreadable> {
    let stored: &[u8] = row.get("secret");
    match row.get("secret_key_id") {
        Some(key_id) => keys.open(key_id, stored, place),
        None => Ok(SecretBytes::new(stored)),
    }
}

fn parse_webhook(row: &Row, keys: &Keyring) -> Result<Webhook, Invalid> {
    let place = Place { tenant: TenantId(row.get("tenant_id")), webhook: WebhookId(row.get("id")) };
    let events: Vec<&str> = row.get("events");
    let session_ids: Option<Vec<&str>> = row.get("session_ids");
    let reason: Option<&str> = row.get("disabled_reason");
    let disabled_at: Option<DateTime<Utc>> = row.get("disabled_at");
    Ok(Webhook {
        id: place.webhook,
        tenant_id: place.tenant,
        url: WebhookUrl::parse_stored(row.get("url"))?,
        events: events.into_iter().map(str::parse).collect::<Result<_, _>>()?,
        session_ids: session_ids
            .map(|ids| ids.into_iter().map(str::parse).collect::<Result<_, _>>())
            .transpose()?,
        secret: open_secret(row, keys, place),
        is_active: row.get("is_active"),
        disabled: reason.map(str::parse).transpose()?.zip(disabled_at),
        gate: GateSettings {
            rate_limit: count(row, "rate_limit"),
            concurrency: count(row, "concurrency"),
            drain_rate: count(row, "drain_rate"),
            is_ordered: row.get("is_ordered"),
        },
        paused_at: row.get("paused_at"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    })
}
