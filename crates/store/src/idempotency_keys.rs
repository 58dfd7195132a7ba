use chrono::{DateTime, Utc};
use domain::TenantId;

use crate::{Store, StoreError};

// Two requests at once meet at the row: the second waits for the first, and finds what it wrote.
const USE_KEY: &str = "-- use_idempotency_key
INSERT INTO idempotency_keys AS known (tenant_id, key, body_digest, used_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, key) DO UPDATE SET
    body_digest = CASE WHEN known.used_at < $5 THEN excluded.body_digest ELSE known.body_digest END,
    used_at = CASE WHEN known.used_at < $5 THEN excluded.used_at ELSE known.used_at END
RETURNING body_digest = $3";

const FORGET_KEYS: &str = "-- forget_idempotency_keys
DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency_keys WHERE used_at < $1 LIMIT $2))";

impl Store {
    /// Notes the body that a tenant uses a key for. Says whether it is the one that the key was used for since `since`.
    pub async fn use_idempotency_key(
        &self,
        tenant: TenantId,
        key: &str,
        body_digest: &[u8],
        now: DateTime<Utc>,
        since: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let row = client.query_opt(USE_KEY, &[&tenant.0, &key, &body_digest, &now, &since]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Deletes the keys that were used before `before`. Says how many are gone.
    pub async fn forget_idempotency_keys(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.forget(FORGET_KEYS, before).await
    }
}
