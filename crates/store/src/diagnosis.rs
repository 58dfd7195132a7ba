//! What an operator asks of a database that may be wrong.

use crate::{Store, StoreError};

/// The secrets that are stored under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretsOfKey {
    /// The key's name; `None` for secrets from before there were keys.
    pub key_id: Option<String>,
    /// How many.
    pub secrets: i64,
}

const SECRETS_BY_KEY: &str = "-- secrets_by_key
SELECT k.key_id, count(*)
FROM webhooks w CROSS JOIN LATERAL (VALUES
    (true, w.secret_key_id),
    (w.headers IS NOT NULL, w.headers_key_id),
    (w.previous_secrets IS NOT NULL, w.previous_secrets_key_id),
    (w.signing_keys IS NOT NULL, w.signing_keys_key_id)
) AS k (is_there, key_id)
WHERE k.is_there GROUP BY 1 ORDER BY 1";

const SERVER_VERSION: &str = "-- server_version
SELECT current_setting('server_version_num')::integer, current_setting('server_version')";

impl Store {
    /// The server's version, as a number like 150018 and in its own words.
    pub async fn server_version(&self) -> Result<(i32, String), StoreError> {
        let row = self.connection().await?.query_one(SERVER_VERSION, &[]).await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Which keys the secrets are encrypted with.
    pub async fn secrets_by_key(&self) -> Result<Vec<SecretsOfKey>, StoreError> {
        let rows = self.connection().await?.query(SECRETS_BY_KEY, &[]).await?;
        Ok(rows.iter().map(|row| SecretsOfKey { key_id: row.get(0), secrets: row.get(1) }).collect())
    }
}
