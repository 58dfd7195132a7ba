use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use domain::{Invalid, SecretBytes, TenantId, Webhook, WebhookId, replaced_secrets};
use tokio_postgres::Row;

use super::change::{GET_WEBHOOK_FOR_UPDATE, UPDATE_WEBHOOK};
use super::row::{Columns, SealedParts};
use super::{BUMP_VERSION, CreateError, WebhookNews, tell};
use crate::audit_log::Changes;
use crate::{Store, StoreError};

impl Store {
    /// Gives a webhook a new secret. The one that it replaces signs beside it for `overlap`. `None` when the tenant has no such
    /// webhook.
    pub async fn replace_secret(
        &self,
        tenant: TenantId,
        id: WebhookId,
        secret: &SecretBytes,
        overlap: Duration,
        now: DateTime<Utc>,
    ) -> Result<Option<Webhook>, CreateError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let Some((row, before)) = self.lock_webhook(&transaction, tenant, id).await? else { return Ok(None) };
        let current = before.secret.clone().map_err(StoreError::Sealed)?;
        let previous = before.previous_secrets.clone().map_err(StoreError::Sealed)?;
        if current == *secret {
            let problem = Invalid::new("secret is the one that signs already");
            return Err(CreateError::Invalid { field: "secret", problem });
        }
        let previous =
            replaced_secrets(current, &previous, overlap, now).ok_or(CreateError::TooManySecrets)?;
        let after =
            Webhook { secret: Ok(secret.clone()), previous_secrets: Ok(previous), updated_at: now, ..before };
        let sealed = SealedParts {
            secret: self.seal_secret(&after)?,
            previous_secrets: self.seal_previous_secrets(&after)?,
            ..SealedParts::of(&row)
        };
        let webhook = self.write_rotated(&transaction, &after, sealed, "secret").await?;
        transaction.commit().await?;
        Ok(Some(webhook))
    }

    /// The same for the private key of a webhook that has one.
    pub async fn replace_signing_key(
        &self,
        tenant: TenantId,
        id: WebhookId,
        key: &SecretBytes,
        overlap: Duration,
        now: DateTime<Utc>,
    ) -> Result<Option<Webhook>, CreateError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let Some((row, before)) = self.lock_webhook(&transaction, tenant, id).await? else { return Ok(None) };
        let Some(keys) = before.signing_keys.clone().map_err(StoreError::Sealed)? else { return Ok(None) };
        let keys = keys.replace(key.clone(), overlap, now).ok_or(CreateError::TooManySecrets)?;
        let after = Webhook { signing_keys: Ok(Some(keys)), updated_at: now, ..before };
        let sealed = SealedParts { signing_keys: self.seal_signing_keys(&after)?, ..SealedParts::of(&row) };
        let webhook = self.write_rotated(&transaction, &after, sealed, "signingKey").await?;
        transaction.commit().await?;
        Ok(Some(webhook))
    }

    async fn lock_webhook(
        &self,
        transaction: &Transaction<'_>,
        tenant: TenantId,
        id: WebhookId,
    ) -> Result<Option<(Row, Webhook)>, StoreError> {
        let statement = transaction.prepare_cached(GET_WEBHOOK_FOR_UPDATE).await?;
        let Some(row) = transaction.query_opt(&statement, &[&tenant.0, &id.0]).await? else {
            return Ok(None);
        };
        let webhook = self.read_webhook(&row)?;
        Ok(Some((row, webhook)))
    }

    async fn write_rotated(
        &self,
        transaction: &Transaction<'_>,
        after: &Webhook,
        sealed: SealedParts,
        what: &str,
    ) -> Result<Webhook, CreateError> {
        let statement = transaction.prepare_cached(UPDATE_WEBHOOK).await?;
        let row = transaction.query_one(&statement, &Columns::new(after, sealed).parameters()).await?;
        let statement = transaction.prepare_cached(BUMP_VERSION).await?;
        transaction.execute(&statement, &[&after.tenant_id.0]).await?;
        tell(transaction, &[WebhookNews::SecretRotated], after, after.updated_at).await?;
        let changes = Changes::default().and_secret(what);
        self.log(transaction, "webhook.secret_rotated", after.id, changes).await?;
        Ok(self.read_webhook(&row)?)
    }
}
