use domain::{SecretUnreadable, TenantId, WebhookId};
use uuid::Uuid;

use crate::sealing::Place;
use crate::webhooks::open_secret;
use crate::{Store, StoreError};

/// Secrets in one transaction: few enough that nobody waits long for the rows.
const SECRETS_PER_STEP: i64 = 200;

/// What one step of a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationStep {
    /// Secrets that are now encrypted with the first key.
    pub sealed: usize,
    /// Secrets that none of the keys opens. They are left as they are.
    pub unreadable: Vec<(WebhookId, SecretUnreadable)>,
    /// Where the next step goes on; `None` after the last.
    pub next: Option<WebhookId>,
}

const LOCK_STALE_SECRETS: &str = "-- lock_stale_secrets
SELECT id, tenant_id, secret, secret_key_id FROM webhooks
WHERE id > $1 AND secret_key_id IS DISTINCT FROM $2 ORDER BY id LIMIT $3 FOR UPDATE";

const WRITE_SECRETS: &str = "-- write_secrets
UPDATE webhooks w SET secret = g.secret, secret_key_id = $1
FROM unnest($2::uuid[], $3::bytea[]) AS g (id, secret) WHERE w.id = g.id";

// A dispatcher that could not open a secret takes another look. In order, so that two rotations cannot deadlock.
const BUMP_VERSIONS: &str = "-- bump_webhooks_versions
UPDATE tenants t SET webhooks_version = webhooks_version + 1
FROM (SELECT id FROM tenants WHERE id = ANY($1) ORDER BY id FOR UPDATE) locked WHERE t.id = locked.id";

impl Store {
    /// Encrypts some of the secrets that are not encrypted with the first key, those of webhooks above `after`. Each step
    /// is a transaction, so that a rotation may be broken off and begun again, while everything else goes on.
    pub async fn rotate_secrets(&self, after: Option<WebhookId>) -> Result<RotationStep, StoreError> {
        let first_id = self.keys.first_id().ok_or(StoreError::NoKey)?;
        let mut client = self.connection().await?;
        let transaction = client.transaction().await?;
        let after = after.map_or(Uuid::nil(), |webhook| webhook.0);
        let rows = transaction
            .query(
                &transaction.prepare_cached(LOCK_STALE_SECRETS).await?,
                &[&after, &first_id, &SECRETS_PER_STEP],
            )
            .await?;
        let mut step = RotationStep { sealed: 0, unreadable: Vec::new(), next: None };
        let (mut ids, mut tenants, mut secrets): (Vec<Uuid>, Vec<Uuid>, Vec<Vec<u8>>) = Default::default();
        for row in &rows {
            let place = Place { tenant: TenantId(row.get("tenant_id")), webhook: WebhookId(row.get("id")) };
            match open_secret(row, &self.keys, place) {
                Ok(secret) => {
                    ids.push(place.webhook.0);
                    tenants.push(place.tenant.0);
                    secrets.push(self.keys.seal(&secret, place)?.bytes);
                }
                Err(reason) => step.unreadable.push((place.webhook, reason)),
            }
        }
        if !ids.is_empty() {
            let statement = transaction.prepare_cached(WRITE_SECRETS).await?;
            transaction.execute(&statement, &[&first_id, &ids, &secrets]).await?;
            transaction.execute(&transaction.prepare_cached(BUMP_VERSIONS).await?, &[&tenants]).await?;
        }
        transaction.commit().await?;
        step.sealed = ids.len();
        let is_full = i64::try_from(rows.len()).is_ok_and(|count| count == SECRETS_PER_STEP);
        step.next = rows.last().filter(|_| is_full).map(|row| WebhookId(row.get("id")));
        Ok(step)
    }
}
