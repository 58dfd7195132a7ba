use chrono::{DateTime, TimeDelta, Utc};
use domain::{ApiKeyId, ApiKeyName, Invalid, Rate, Scope, Scopes, TenantId};
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::audit_log::Changes;
use crate::{Store, StoreError};

/// Most keys of a tenant that work at a time.
const MAX_LIVE: i64 = 100;
/// Most keys of a tenant, with those that have ended and are still listed.
const MAX_ALL: i64 = 1_000;
/// How long keys that have ended are listed.
const LISTED_AFTER_END: TimeDelta = TimeDelta::days(90);

/// A key as it is kept: without what opens anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Names it.
    pub id: ApiKeyId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// What it is called.
    pub name: ApiKeyName,
    /// How it begins.
    pub prefix: String,
    /// What it allows.
    pub scopes: Scopes,
    /// How many requests it may make; `None`: as many as the plan allows.
    pub rate: Option<Rate>,
    /// When it ends; `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When its owner ended it.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// By whom.
    pub created_by: String,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// What it is called.
    pub name: ApiKeyName,
    /// How it begins.
    pub prefix: String,
    /// Its SHA-256.
    pub hash: [u8; 32],
    /// What it allows.
    pub scopes: Scopes,
    /// How many requests it may make; `None`: as many as the plan allows.
    pub rate: Option<Rate>,
    /// When it ends; `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Who makes it.
    pub created_by: String,
}

/// Why a key was not made.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The tenant has as many as it can.
    #[error("a tenant can have {max} API keys{}", if *.are_live { " that work" } else { "" })]
    LimitReached {
        /// How many that is.
        max: i64,
        /// Whether only those that work count.
        are_live: bool,
    },
    /// The tenant is not known.
    #[error("the tenant is not known")]
    UnknownTenant,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<tokio_postgres::Error> for ApiKeyError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

impl ApiKeyRow {
    /// Whether it opens anything at a moment.
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// What [`parse`] reads.
macro_rules! columns {
    () => {
        "id, tenant_id, name, prefix, scopes, requests_per_minute, expires_at, last_used_at, revoked_at, created_at, created_by"
    };
}

// Keys of one tenant are made one after the other, so that the limits hold exactly.
const LOCK_TENANT: &str = "-- lock_tenant_for_api_key
SELECT 1 FROM tenants WHERE id = $1 FOR UPDATE";

const FORGET_ENDED: &str = "-- forget_ended_api_keys
DELETE FROM api_keys WHERE tenant_id = $1 AND (revoked_at < $2 OR expires_at < $2)";

const COUNT: &str = "-- count_api_keys
SELECT count(*), count(*) FILTER (WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2))
FROM api_keys WHERE tenant_id = $1";

const INSERT: &str = concat!(
    "-- insert_api_key
INSERT INTO api_keys (id, tenant_id, hash, name, prefix, scopes, requests_per_minute, expires_at, created_at, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
RETURNING ",
    columns!()
);

const LIST: &str = concat!(
    "-- list_api_keys
SELECT ",
    columns!(),
    "
FROM api_keys WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3"
);

const FIND: &str = concat!(
    "-- find_api_key
SELECT ",
    columns!(),
    "
FROM api_keys WHERE hash = $1"
);

const REVOKE: &str = concat!(
    "-- revoke_api_key
UPDATE api_keys SET revoked_at = coalesce(revoked_at, $3) WHERE tenant_id = $1 AND id = $2
RETURNING ",
    columns!()
);

// In order, so that gateways that write at once cannot deadlock. One that has written a later time is not set back.
const RECORD_USE: &str = "-- record_api_key_use
UPDATE api_keys k SET last_used_at = used.at
FROM (
    SELECT l.id, g.at FROM unnest($1::uuid[], $2::timestamptz[]) AS g (id, at) JOIN api_keys l ON l.id = g.id
    WHERE l.last_used_at IS NULL OR l.last_used_at < g.at ORDER BY l.id FOR UPDATE OF l
) used
WHERE k.id = used.id";

impl Store {
    /// Makes a key.
    pub async fn create_api_key(
        &self,
        tenant: TenantId,
        new: &NewApiKey,
        now: DateTime<Utc>,
    ) -> Result<ApiKeyRow, ApiKeyError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(LOCK_TENANT).await?;
        if transaction.query_opt(&statement, &[&tenant.0]).await?.is_none() {
            return Err(ApiKeyError::UnknownTenant);
        }
        let statement = transaction.prepare_cached(FORGET_ENDED).await?;
        transaction.execute(&statement, &[&tenant.0, &(now - LISTED_AFTER_END)]).await?;
        let statement = transaction.prepare_cached(COUNT).await?;
        let counts = transaction.query_one(&statement, &[&tenant.0, &now]).await?;
        for (count, max, are_live) in [(counts.get(1), MAX_LIVE, true), (counts.get(0), MAX_ALL, false)] {
            let count: i64 = count;
            if count >= max {
                return Err(ApiKeyError::LimitReached { max, are_live });
            }
        }
        let statement = transaction.prepare_cached(INSERT).await?;
        let row = transaction
            .query_one(
                &statement,
                &[
                    &ApiKeyId::generate().0,
                    &tenant.0,
                    &&new.hash[..],
                    &new.name.as_str(),
                    &new.prefix,
                    &new.scopes.to_string(),
                    &new.rate.map(|rate| i32::try_from(rate.calls_per_minute()).unwrap_or(i32::MAX)),
                    &new.expires_at,
                    &now,
                    &new.created_by,
                ],
            )
            .await?;
        let row = read(&row)?;
        self.log(&transaction, "api_key.created", row.id, Changes::between(&Value::Null, &state(&row)))
            .await?;
        transaction.commit().await?;
        Ok(row)
    }

    /// The tenant's keys, the newest first, from the one after `before`. Those that ended long ago may be missing.
    pub async fn api_keys(
        &self,
        tenant: TenantId,
        before: Option<ApiKeyId>,
        limit: usize,
    ) -> Result<Vec<ApiKeyRow>, StoreError> {
        let before = before.map_or(Uuid::max(), |id| id.0);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.of_tenant(tenant).await?.query(LIST, &[&tenant.0, &before, &limit]).await?;
        rows.iter().map(read).collect()
    }

    /// The key of a hash, whether or not it still opens anything.
    pub async fn api_key(&self, hash: &[u8; 32]) -> Result<Option<ApiKeyRow>, StoreError> {
        let row = self.over_tenants().await?.query_opt(FIND, &[&&hash[..]]).await?;
        row.as_ref().map(read).transpose()
    }

    /// Ends a key. One that has ended keeps the time of its end. `None` when the tenant has no such key.
    pub async fn revoke_api_key(
        &self,
        tenant: TenantId,
        id: ApiKeyId,
        now: DateTime<Utc>,
    ) -> Result<Option<ApiKeyRow>, StoreError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(REVOKE).await?;
        let row = transaction.query_opt(&statement, &[&tenant.0, &id.0, &now]).await?;
        let row = row.as_ref().map(read).transpose()?;
        if row.is_some() {
            self.log(&transaction, "api_key.revoked", id, Changes::default()).await?;
        }
        transaction.commit().await?;
        Ok(row)
    }

    /// Writes down when keys were last used.
    pub async fn record_api_key_use(&self, used: &[(ApiKeyId, DateTime<Utc>)]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = used.iter().map(|(id, _)| id.0).collect();
        let times: Vec<DateTime<Utc>> = used.iter().map(|(_, at)| *at).collect();
        self.over_tenants().await?.query(RECORD_USE, &[&ids, &times]).await?;
        Ok(())
    }
}

/// As the API calls it.
fn state(key: &ApiKeyRow) -> Value {
    json!({
        "name": key.name.as_str(),
        "prefix": key.prefix,
        "scopes": key.scopes.iter().map(Scope::as_str).collect::<Vec<_>>(),
        "requestsPerMinute": key.rate.map(Rate::calls_per_minute),
        "expiresAt": key.expires_at,
    })
}

fn read(row: &Row) -> Result<ApiKeyRow, StoreError> {
    parse(row).map_err(StoreError::unreadable("api_keys"))
}

fn parse(row: &Row) -> Result<ApiKeyRow, Invalid> {
    let per_minute = row.get::<_, Option<i32>>("requests_per_minute");
    Ok(ApiKeyRow {
        id: ApiKeyId(row.get("id")),
        tenant_id: TenantId(row.get("tenant_id")),
        name: row.get::<_, &str>("name").parse()?,
        prefix: row.get("prefix"),
        scopes: Scopes::from_claim(row.get("scopes")),
        rate: per_minute.and_then(|requests| u32::try_from(requests).ok()).map(Rate::per_minute),
        expires_at: row.get("expires_at"),
        last_used_at: row.get("last_used_at"),
        revoked_at: row.get("revoked_at"),
        created_at: row.get("created_at"),
        created_by: row.get("created_by"),
    })
}
