//! The webhooks themselves: what is asked of them. How they are made and changed is in files of their own.

mod change;
mod create;
mod log;
mod pause;
mod row;
mod secret;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use domain::{DomainEvent, TenantId, Webhook, WebhookId, WebhookNews};
use tokio_postgres::Row;
use tracing::error;
use uuid::Uuid;

pub use change::WebhookChange;
pub use create::{CreateError, NewWebhook};
use row::{
    headers_to_bytes, parse_webhook, previous_secrets_to_bytes, signing_keys_to_bytes, webhook_columns,
};

use crate::outbox::announce;
use crate::sealing::{Content, Place, Stored};
use crate::{Store, StoreError};

const GET_WEBHOOK: &str = concat!(
    "-- get_webhook
SELECT ",
    webhook_columns!(),
    "
FROM webhooks WHERE tenant_id = $1 AND id = $2"
);

const GET_WEBHOOK_OF_ANY_TENANT: &str = concat!(
    "-- get_webhook_of_any_tenant
SELECT ",
    webhook_columns!(),
    "
FROM webhooks WHERE id = $1"
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

const TENANTS_WITH_ORDER: &str = "-- tenants_with_order
SELECT DISTINCT tenant_id FROM webhooks WHERE is_ordered";

/// So that each dispatcher knows its copy of the webhooks is stale.
const BUMP_VERSION: &str = "-- bump_webhooks_version
UPDATE tenants SET webhooks_version = webhooks_version + 1 WHERE id = $1";

impl Store {
    /// One webhook of the tenant's.
    pub async fn webhook(&self, tenant: TenantId, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let row = client.query_opt(GET_WEBHOOK, &[&tenant.0, &id.0]).await?;
        row.as_ref().map(|row| self.read_webhook(row)).transpose()
    }

    /// A webhook, whosever it is: for what of it is public.
    pub async fn webhook_of_any_tenant(&self, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let row = self.over_tenants().await?.query_opt(GET_WEBHOOK_OF_ANY_TENANT, &[&id.0]).await?;
        row.as_ref().map(|row| self.read_webhook(row)).transpose()
    }

    /// All webhooks of the tenant's, oldest first. Bounded by the plan.
    pub async fn webhooks(&self, tenant: TenantId) -> Result<Vec<Webhook>, StoreError> {
        let rows = self.of_tenant(tenant).await?.query(LIST_WEBHOOKS, &[&tenant.0]).await?;
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

    /// The tenants that have a webhook which wants order.
    pub async fn tenants_with_order(&self) -> Result<HashSet<TenantId>, StoreError> {
        let rows = self.over_tenants().await?.query(TENANTS_WITH_ORDER, &[]).await?;
        Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
    }

    fn seal_secret(&self, webhook: &Webhook) -> Result<Stored, StoreError> {
        let secret = webhook.secret.as_ref().map_err(|reason| StoreError::Sealed(reason.clone()))?;
        Ok(self.keys().seal(secret, place(webhook).of(Content::Secret))?)
    }

    fn seal_previous_secrets(&self, webhook: &Webhook) -> Result<Stored, StoreError> {
        let previous =
            webhook.previous_secrets.as_ref().map_err(|reason| StoreError::Sealed(reason.clone()))?;
        let Some(bytes) = previous_secrets_to_bytes(previous) else { return Ok(Stored::default()) };
        Ok(self.keys().seal(&bytes, place(webhook).of(Content::PreviousSecrets))?)
    }

    fn seal_signing_keys(&self, webhook: &Webhook) -> Result<Stored, StoreError> {
        let keys = webhook.signing_keys.as_ref().map_err(|reason| StoreError::Sealed(reason.clone()))?;
        let Some(keys) = keys else { return Ok(Stored::default()) };
        Ok(self.keys().seal(&signing_keys_to_bytes(keys), place(webhook).of(Content::SigningKeys))?)
    }

    fn seal_headers(&self, webhook: &Webhook) -> Result<Stored, StoreError> {
        let headers =
            webhook.delivery.headers.as_ref().map_err(|reason| StoreError::Sealed(reason.clone()))?;
        let Some(bytes) = headers_to_bytes(headers) else { return Ok(Stored::default()) };
        Ok(self.keys().seal(&bytes, place(webhook).of(Content::Headers))?)
    }

    fn read_webhook(&self, row: &Row) -> Result<Webhook, StoreError> {
        parse_webhook(row, &self.keys()).map_err(StoreError::unreadable("webhooks"))
    }
}

/// Tells of a webhook, with the change it tells of, and in the order of the tenant's changes: after the version.
async fn tell(
    transaction: &deadpool_postgres::Transaction<'_>,
    news: &[WebhookNews],
    webhook: &Webhook,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let events: Vec<DomainEvent> =
        news.iter().map(|news| DomainEvent::of_webhook(*news, webhook, now)).collect();
    if !events.is_empty() {
        announce(transaction, &events).await?;
    }
    Ok(())
}

fn place(webhook: &Webhook) -> Place {
    Place { tenant: webhook.tenant_id, webhook: webhook.id }
}
