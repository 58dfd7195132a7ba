use domain::{SecretBytes, SecretUnreadable, TenantId, WebhookId};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::sealing::{Content, Place, Stored};
use crate::{Store, StoreError};

/// Secrets in one transaction: few enough that nobody waits long for the rows.
const SECRETS_PER_STEP: i64 = 200;

/// What one step of a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationStep {
    /// Secrets that are now encrypted with the first key: what signs and signed, private keys, and custom headers.
    pub sealed: usize,
    /// Secrets that none of the keys opens. They are left as they are.
    pub unreadable: Vec<(WebhookId, SecretUnreadable)>,
    /// Where the next step goes on; `None` after the last.
    pub next: Option<WebhookId>,
}

const LOCK_STALE_SECRETS: &str = "-- lock_stale_secrets
SELECT id, tenant_id, secret, secret_key_id, headers, headers_key_id, previous_secrets, previous_secrets_key_id,
    signing_keys, signing_keys_key_id
FROM webhooks
WHERE id > $1 AND (secret_key_id IS DISTINCT FROM $2 OR headers_key_id <> $2 OR previous_secrets_key_id <> $2
    OR signing_keys_key_id <> $2)
ORDER BY id LIMIT $3 FOR UPDATE";

const WRITE_SECRETS: &str = "-- write_secrets
UPDATE webhooks w
SET secret = g.secret, secret_key_id = g.secret_key_id, headers = g.headers, headers_key_id = g.headers_key_id,
    previous_secrets = g.previous_secrets, previous_secrets_key_id = g.previous_secrets_key_id,
    signing_keys = g.signing_keys, signing_keys_key_id = g.signing_keys_key_id
FROM unnest($1::uuid[], $2::bytea[], $3::text[], $4::bytea[], $5::text[], $6::bytea[], $7::text[], $8::bytea[], $9::text[])
    AS g (id, secret, secret_key_id, headers, headers_key_id, previous_secrets, previous_secrets_key_id, signing_keys,
        signing_keys_key_id)
WHERE w.id = g.id";

// A dispatcher that could not open a secret takes another look. In order, so that two rotations cannot deadlock.
const BUMP_VERSIONS: &str = "-- bump_webhooks_versions
UPDATE tenants t SET webhooks_version = webhooks_version + 1
FROM (SELECT id FROM tenants WHERE id = ANY($1) ORDER BY id FOR UPDATE) locked WHERE t.id = locked.id";

impl Store {
    /// Encrypts some of the secrets that are not encrypted with the first key, those of webhooks above `after`. Each step
    /// is a transaction, so that a rotation may be broken off and begun again, while everything else goes on.
    pub async fn rotate_secrets(&self, after: Option<WebhookId>) -> Result<RotationStep, StoreError> {
        let keys = self.keys();
        let first_id = keys.first_id().ok_or(StoreError::NoKey)?;
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
        let (mut ids, mut tenants): (Vec<Uuid>, Vec<Uuid>) = Default::default();
        let [mut secrets, mut headers, mut previous, mut signing] =
            std::array::from_fn(|_| Columns::default());
        for row in &rows {
            let place = Place { tenant: TenantId(row.get("tenant_id")), webhook: WebhookId(row.get("id")) };
            let sealed_before = step.sealed;
            let read = |bytes, key_id| Stored { bytes: row.get(bytes), key_id: row.get(key_id) };
            let secret = self.renew(read("secret", "secret_key_id"), place, Content::Secret, &mut step)?;
            let header = self.renew(read("headers", "headers_key_id"), place, Content::Headers, &mut step)?;
            let before = read("previous_secrets", "previous_secrets_key_id");
            let before = self.renew(before, place, Content::PreviousSecrets, &mut step)?;
            let keys = read("signing_keys", "signing_keys_key_id");
            let keys = self.renew(keys, place, Content::SigningKeys, &mut step)?;
            if step.sealed > sealed_before {
                ids.push(place.webhook.0);
                tenants.push(place.tenant.0);
                secrets.push(secret);
                headers.push(header);
                previous.push(before);
                signing.push(keys);
            }
        }
        if !ids.is_empty() {
            let statement = transaction.prepare_cached(WRITE_SECRETS).await?;
            let parameters: [&(dyn ToSql + Sync); 9] = [
                &ids,
                &secrets.bytes,
                &secrets.key_ids,
                &headers.bytes,
                &headers.key_ids,
                &previous.bytes,
                &previous.key_ids,
                &signing.bytes,
                &signing.key_ids,
            ];
            transaction.execute(&statement, &parameters).await?;
            transaction.execute(&transaction.prepare_cached(BUMP_VERSIONS).await?, &[&tenants]).await?;
        }
        transaction.commit().await?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|count| count == SECRETS_PER_STEP);
        step.next = rows.last().filter(|_| is_full).map(|row| WebhookId(row.get("id")));
        Ok(step)
    }
    /// Encrypts something with the first key, unless there is nothing, or it is so already, or none of the keys opens it.
    fn renew(
        &self,
        stored: Stored,
        place: Place,
        content: Content,
        step: &mut RotationStep,
    ) -> Result<Stored, StoreError> {
        let Some(bytes) = &stored.bytes else { return Ok(stored) };
        if stored.key_id.as_deref() == self.keys().first_id() {
            return Ok(stored);
        }
        let opened = match &stored.key_id {
            Some(key_id) => self.keys().open(key_id, bytes, place.of(content)),
            None => Ok(SecretBytes::new(bytes.as_slice())),
        };
        match opened {
            Ok(secret) => {
                step.sealed += 1;
                Ok(self.keys().seal(&secret, place.of(content))?)
            }
            Err(reason) => {
                step.unreadable.push((place.webhook, reason));
                Ok(stored)
            }
        }
    }
}

/// Two columns of several rows.
#[derive(Default)]
struct Columns {
    bytes: Vec<Option<Vec<u8>>>,
    key_ids: Vec<Option<String>>,
}

impl Columns {
    fn push(&mut self, stored: Stored) {
        self.bytes.push(stored.bytes);
        self.key_ids.push(stored.key_id);
    }
}
