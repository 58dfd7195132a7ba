use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Invalid, SecretBytes, TenantId, Webhook, WebhookId, replaced_secrets};

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
        let statement = transaction.prepare_cached(GET_WEBHOOK_FOR_UPDATE).await?;
        let Some(row) = transaction.query_opt(&statement, &[&tenant.0, &id.0]).await? else {
            return Ok(None);
        };
        let before = self.read_webhook(&row)?;
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
        let statement = transaction.prepare_cached(UPDATE_WEBHOOK).await?;
        let row = transaction.query_one(&statement, &Columns::new(&after, sealed).parameters()).await?;
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[&tenant.0]).await?;
        tell(&transaction, &[WebhookNews::SecretRotated], &after, now).await?;
        let changes = Changes::default().and_secret("secret");
        self.log(&transaction, "webhook.secret_rotated", id, changes).await?;
        transaction.commit().await?;
        Ok(Some(self.read_webhook(&row)?))
    }
}
