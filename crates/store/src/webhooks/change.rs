use chrono::{DateTime, Utc};
use domain::{
    CustomHeaders, DeliveryChange, Description, DisabledReason, EventPattern, Expected, Filter, GateChange,
    HeadersChange, MetadataChange, SecretBytes, SessionId, SigningKeys, TenantId, Webhook, WebhookId,
    WebhookUrl,
};

use super::row::{Columns, SealedParts, webhook_columns};
use super::{BUMP_VERSION, CreateError, WebhookNews, log, tell};
use crate::{Store, StoreError};

/// What a tenant changes of a webhook; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    /// Where deliveries go.
    pub url: Option<WebhookUrl>,
    /// Wanted event types.
    pub events: Option<Vec<EventPattern>>,
    /// Wanted sessions; `Some(None)` wants all again.
    pub session_ids: Option<Option<Vec<SessionId>>>,
    /// What it wants of an event's data; `Some(None)` wants all again.
    pub filter: Option<Option<Filter>>,
    /// Signs the deliveries from now on, alone.
    pub secret: Option<SecretBytes>,
    /// The private key of a webhook that is to have one, and has none yet.
    pub signing_key: Option<SecretBytes>,
    /// Whether it is on.
    pub is_active: Option<bool>,
    /// How it is delivered to.
    pub gate: GateChange,
    /// What its requests are like.
    pub delivery: DeliveryChange,
    /// What it is for; `Some(None)` takes that away.
    pub description: Option<Option<Description>>,
    /// What its owner's programs keep with it.
    pub metadata: Option<MetadataChange>,
    /// The state it must be in for the change to be made.
    pub expected: Expected,
}

pub(super) const GET_WEBHOOK_FOR_UPDATE: &str = concat!(
    "-- get_webhook_for_update
SELECT ",
    webhook_columns!(),
    "
FROM webhooks WHERE tenant_id = $1 AND id = $2 FOR UPDATE"
);

pub(super) const UPDATE_WEBHOOK: &str = concat!(
    "-- update_webhook
UPDATE webhooks SET updated_at = $3, url = $4, events = $5, session_ids = $6, duplicate_key = md5($7), secret = $8,
    secret_key_id = $9, is_active = $10,
    disabled_reason = CASE WHEN $10 THEN NULL ELSE disabled_reason END,
    disabled_at = CASE WHEN $10 THEN NULL ELSE disabled_at END,
    rate_limit = $11, concurrency = $12, drain_rate = $13, is_ordered = $14, description = $15, metadata = $16::text::jsonb,
    headers = $17, headers_key_id = $18, timeout_ms = $19, retry_schedule = $20, is_thin = $21, payload_version = $22, filter = $23, previous_secrets = $24,
    previous_secrets_key_id = $25, signature_scheme = $26, signing_keys = $27, signing_keys_key_id = $28
WHERE id = $1 AND tenant_id = $2
RETURNING ",
    webhook_columns!()
);

// Its receiver gets a fresh start, and the dispatchers learn of it.
const RESET_HEALTH: &str = "-- reset_health
UPDATE webhook_health
SET failing_since = NULL, open_until = NULL, consecutive_failures = 0, times_opened = 0, is_draining = false,
    is_announced = false, updated_at = $2
WHERE webhook_id = $1";

const DISABLE_WEBHOOK: &str = concat!(
    "-- disable_webhook
UPDATE webhooks SET is_active = false, disabled_reason = $3, disabled_at = $4, updated_at = $4
WHERE tenant_id = $1 AND id = $2 AND is_active
RETURNING ",
    webhook_columns!()
);

const DELETE_WEBHOOK: &str = concat!(
    "-- delete_webhook
DELETE FROM webhooks WHERE tenant_id = $1 AND id = $2
RETURNING ",
    webhook_columns!()
);

impl WebhookChange {
    fn apply(&self, before: &Webhook) -> Result<Webhook, CreateError> {
        let invalid = |field| move |problem| CreateError::Invalid { field, problem };
        let mut after = before.clone();
        set(&mut after.url, &self.url);
        set(&mut after.events, &self.events);
        set(&mut after.session_ids, &self.session_ids);
        set(&mut after.filter, &self.filter);
        set(&mut after.secret, &self.secret.clone().map(Ok));
        set(&mut after.previous_secrets, &self.secret.as_ref().map(|_| Ok(Vec::new())));
        set(&mut after.is_active, &self.is_active);
        set(&mut after.description, &self.description);
        after.gate = self.gate.apply(before.gate);
        if let (Ok(None), Some(key)) = (&after.signing_keys, &self.signing_key) {
            after.signing_keys = Ok(Some(SigningKeys::new(key.clone())));
        }
        let delivery = &mut after.delivery;
        set(&mut delivery.timeout, &self.delivery.timeout);
        set(&mut delivery.retry_schedule, &self.delivery.retry_schedule);
        set(&mut delivery.is_thin, &self.delivery.is_thin);
        set(&mut delivery.payload_version, &self.delivery.payload_version);
        set(&mut delivery.signature_scheme, &self.delivery.signature_scheme);
        match &self.delivery.headers {
            None => {}
            Some(HeadersChange::Clear) => delivery.headers = Ok(CustomHeaders::default()),
            Some(change @ HeadersChange::Merge(_)) => {
                let headers = delivery.headers.clone().map_err(StoreError::Sealed)?;
                delivery.headers = Ok(headers.change(change).map_err(invalid("headers"))?);
            }
        }
        if let Some(change) = &self.metadata {
            after.metadata = after.metadata.change(change).map_err(invalid("metadata"))?;
        }
        Ok(after)
    }
}

fn set<T: Clone>(setting: &mut T, change: &Option<T>) {
    if let Some(change) = change {
        setting.clone_from(change);
    }
}

impl Store {
    /// Changes a webhook; `None` when the tenant has no such webhook. Switching it off cancels what waits for it,
    /// switching it on forgets why it was off.
    pub async fn change_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        change: &WebhookChange,
        now: DateTime<Utc>,
    ) -> Result<Option<Webhook>, CreateError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(GET_WEBHOOK_FOR_UPDATE).await?;
        let Some(row) = transaction.query_opt(&statement, &[&tenant.0, &id.0]).await? else {
            return Ok(None);
        };
        let before = self.read_webhook(&row)?;
        if !change.expected.admits(&before) {
            return Err(CreateError::Stale);
        }
        let after = Webhook { updated_at: now, ..change.apply(&before)? };
        // What is not changed stays as it is stored, whether or not it can be opened here.
        let mut sealed = SealedParts::of(&row);
        if change.secret.is_some() {
            sealed.secret = self.seal_secret(&after)?;
            sealed.previous_secrets = self.seal_previous_secrets(&after)?;
        }
        if before.signing_keys != after.signing_keys {
            sealed.signing_keys = self.seal_signing_keys(&after)?;
        }
        if change.delivery.headers.is_some() {
            sealed.headers = self.seal_headers(&after)?;
        }
        let statement = transaction.prepare_cached(UPDATE_WEBHOOK).await?;
        let row = transaction.query_one(&statement, &Columns::new(&after, sealed).parameters()).await?;
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        if after.is_active && !before.is_active {
            transaction.execute(&transaction.prepare_cached(RESET_HEALTH).await?, &[&id.0, &now]).await?;
        }
        tell(&transaction, &WebhookNews::of_change(&before, &after), &after, now).await?;
        self.log(&transaction, "webhook.updated", id, log::changed(&before, &after, change)).await?;
        transaction.commit().await?;
        if !after.is_active {
            drop(client);
            self.cancel_all(tenant, id, now).await;
        }
        Ok(Some(self.read_webhook(&row)?))
    }

    /// Switches a webhook off on Postrider's own account, and cancels what waits for it. Says whether it was on.
    pub async fn disable_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        reason: DisabledReason,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(DISABLE_WEBHOOK).await?;
        let disabled = transaction.query_opt(&statement, &[&tenant.0, &id.0, &reason.code(), &now]).await?;
        if let Some(row) = &disabled {
            transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
            tell(&transaction, &[WebhookNews::Disabled], &self.read_webhook(row)?, now).await?;
        }
        transaction.commit().await?;
        if disabled.is_some() {
            drop(client);
            self.cancel_all(tenant, id, now).await;
        }
        Ok(disabled.is_some())
    }

    /// Deletes a webhook and cancels what waits for it. Says whether the tenant had it.
    pub async fn delete_webhook(
        &self,
        tenant: TenantId,
        id: WebhookId,
        expected: &Expected,
        now: DateTime<Utc>,
    ) -> Result<bool, CreateError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        if *expected != Expected::Any {
            let statement = transaction.prepare_cached(GET_WEBHOOK_FOR_UPDATE).await?;
            let Some(row) = transaction.query_opt(&statement, &[&tenant.0, &id.0]).await? else {
                return Ok(false);
            };
            if !expected.admits(&self.read_webhook(&row)?) {
                return Err(CreateError::Stale);
            }
        }
        let statement = transaction.prepare_cached(DELETE_WEBHOOK).await?;
        let deleted = transaction.query_opt(&statement, &[&tenant.0, &id.0]).await?;
        if let Some(row) = &deleted {
            transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
            let webhook = self.read_webhook(row)?;
            tell(&transaction, &[WebhookNews::Deleted], &webhook, now).await?;
            self.log(&transaction, "webhook.deleted", id, log::deleted(&webhook)).await?;
        }
        transaction.commit().await?;
        if deleted.is_some() {
            drop(client);
            self.cancel_all(tenant, id, now).await;
        }
        Ok(deleted.is_some())
    }
}
