use chrono::{DateTime, Utc};
use domain::{
    DeliverySettings, Description, EventPattern, Filter, GateSettings, Invalid, Metadata, SecretBytes,
    SessionId, SigningKeys, TenantId, Webhook, WebhookUrl,
};

use super::row::{Columns, SealedParts, webhook_columns};
use super::{BUMP_VERSION, WebhookNews, log, tell};
use crate::error::is_duplicate;
use crate::sealing::Stored;
use crate::{Store, StoreError};

/// What a tenant says of a new webhook.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Where deliveries go.
    pub url: WebhookUrl,
    /// Wanted event types.
    pub events: Vec<EventPattern>,
    /// Wanted sessions; `None` wants all.
    pub session_ids: Option<Vec<SessionId>>,
    /// What it wants of an event's data; `None` wants all.
    pub filter: Option<Filter>,
    /// Signs the deliveries.
    pub secret: SecretBytes,
    /// Signs in its place under that scheme.
    pub signing_key: Option<SecretBytes>,
    /// Whether it is on from the start.
    pub is_active: bool,
    /// How it is delivered to.
    pub gate: GateSettings,
    /// What its requests are like.
    pub delivery: DeliverySettings,
    /// What it is for, as people say.
    pub description: Option<Description>,
    /// What its owner's programs keep with it.
    pub metadata: Metadata,
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
    /// It is not in the state that it was to be changed in.
    #[error("the webhook has changed meanwhile")]
    Stale,
    /// As many secrets sign for it as can.
    #[error("{} secrets sign for the webhook already", domain::MAX_LIVE_SECRETS)]
    TooManySecrets,
    /// The tenant is not known.
    #[error("the tenant is not known")]
    UnknownTenant,
    /// What came out of the change is not allowed, although each part of it is.
    #[error("{problem}")]
    Invalid {
        /// What was to be changed.
        field: &'static str,
        /// What is wrong.
        problem: Invalid,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<tokio_postgres::Error> for CreateError {
    fn from(error: tokio_postgres::Error) -> Self {
        if is_duplicate(&error) {
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

const INSERT_WEBHOOK: &str = concat!(
    "-- insert_webhook
INSERT INTO webhooks (id, tenant_id, created_at, updated_at, url, events, session_ids, duplicate_key, secret, secret_key_id,
    is_active, rate_limit, concurrency, drain_rate, is_ordered, description, metadata, headers, headers_key_id, timeout_ms,
    retry_schedule, is_thin, payload_version, filter, previous_secrets,
    previous_secrets_key_id, signature_scheme, signing_keys, signing_keys_key_id)
VALUES ($1, $2, $3, $3, $4, $5, $6, md5($7), $8, $9, $10, $11, $12, $13, $14, $15, $16::text::jsonb, $17, $18, $19, $20, $21,
    $22, $23, $24, $25, $26, $27, $28)
RETURNING ",
    webhook_columns!()
);

impl NewWebhook {
    /// A webhook that is on, and all else of which is as it is when nothing is said.
    pub fn new(url: WebhookUrl, events: Vec<EventPattern>, secret: SecretBytes) -> Self {
        Self {
            url,
            events,
            session_ids: None,
            filter: None,
            secret,
            signing_key: None,
            is_active: true,
            gate: GateSettings::default(),
            delivery: DeliverySettings::default(),
            description: None,
            metadata: Metadata::default(),
        }
    }

    fn into_webhook(self, tenant: TenantId, now: DateTime<Utc>) -> Webhook {
        Webhook {
            session_ids: self.session_ids,
            signing_keys: Ok(self.signing_key.map(SigningKeys::new)),
            filter: self.filter,
            is_active: self.is_active,
            gate: self.gate,
            delivery: self.delivery,
            description: self.description,
            metadata: self.metadata,
            ..Webhook::new(tenant, self.url, self.events, self.secret, now)
        }
    }
}

impl Store {
    /// Creates a webhook.
    pub async fn create_webhook(
        &self,
        tenant: TenantId,
        new: &NewWebhook,
        now: DateTime<Utc>,
    ) -> Result<Webhook, CreateError> {
        let mut client = self.of_tenant(tenant).await?;
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
        let webhook = new.clone().into_webhook(tenant, now);
        let sealed = SealedParts {
            secret: self.seal_secret(&webhook)?,
            previous_secrets: Stored::default(),
            signing_keys: self.seal_signing_keys(&webhook)?,
            headers: self.seal_headers(&webhook)?,
        };
        let statement = transaction.prepare_cached(INSERT_WEBHOOK).await?;
        let columns = Columns::new(&webhook, sealed);
        let row = transaction.query_one(&statement, &columns.parameters()).await?;
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        let webhook = self.read_webhook(&row)?;
        tell(&transaction, &[WebhookNews::Created], &webhook, now).await?;
        self.log(&transaction, "webhook.created", webhook.id, log::created(&webhook)).await?;
        transaction.commit().await?;
        Ok(webhook)
    }
}
