//! The audit log: who did what, when and from where. Not to be taken for the audit, which looks for lost deliveries.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use deadpool_postgres::GenericClient;
use domain::{Invalid, TenantId};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::{Store, StoreError};

/// Whose request it is that changes something, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The tenant of the caller.
    pub tenant: TenantId,
    /// The caller.
    pub actor: Actor,
    /// The client's address, as far as it is known.
    pub address: Option<IpAddr>,
    /// What the client says that it is.
    pub user_agent: Option<String>,
    /// Finds the request in the logs.
    pub request_id: String,
    /// When the request came.
    pub at: DateTime<Utc>,
}

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// The subject of an access token.
    Token(String),
    /// The id of an API key.
    ApiKey(String),
}

impl Actor {
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Token(subject) => ("token", subject),
            Self::ApiKey(id) => ("api_key", id),
        }
    }
}

/// Of each field that was changed, what it was and what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes(Map<String, Value>);

/// Longest value that is written down, in bytes of JSON.
const MAX_VALUE_BYTES: usize = 2048;
/// Stands for a value that is longer.
const TOO_LONG: &str = "(too long to be kept)";
/// Stands for a value that is secret.
const SECRET: &str = "********";

impl Changes {
    /// What differs between two states, each an object. Where there was nothing before, or is nothing after, give null.
    pub(crate) fn between(before: &Value, after: &Value) -> Self {
        let fields = |state: &Value| state.as_object().cloned().unwrap_or_default();
        let (before, after) = (fields(before), fields(after));
        let mut changes = Map::new();
        for name in before.keys().chain(after.keys()) {
            let value = |state: &Map<String, Value>| state.get(name).cloned().unwrap_or(Value::Null);
            let (was, is) = (value(&before), value(&after));
            if was != is {
                changes.insert(name.clone(), json!({"from": shortened(was), "to": shortened(is)}));
            }
        }
        Self(changes)
    }

    /// The same, and that a secret was set anew.
    pub(crate) fn and_secret(mut self, name: &str) -> Self {
        self.0.insert(name.to_owned(), json!({"from": SECRET, "to": SECRET}));
        self
    }
}

fn shortened(value: Value) -> Value {
    if value.to_string().len() > MAX_VALUE_BYTES { Value::from(TOO_LONG) } else { value }
}

/// An entry of the audit log.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// Its place.
    pub place: AuditLogCursor,
    /// Whose request it was.
    pub origin: StoredOrigin,
    /// What was done: the kind of the resource, a dot, and what became of it.
    pub action: String,
    /// To which one.
    pub resource_id: String,
    /// The changed fields: JSON.
    pub changes: Box<RawValue>,
}

/// [`Origin`] as it was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOrigin {
    /// `token` or `api_key`.
    pub actor_kind: String,
    /// The subject of the token, or the id of the key.
    pub actor: String,
    /// The client's address.
    pub address: Option<String>,
    /// What the client says that it is.
    pub user_agent: Option<String>,
    /// Finds the request in the logs.
    pub request_id: String,
}

/// A place in the audit log: what comes after it is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditLogCursor {
    /// When it was done.
    pub at: DateTime<Utc>,
    /// Tells entries of one moment apart.
    pub sequence: i64,
}

/// Which entries are wanted. Nothing set wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditLogFilter {
    /// What was done.
    pub action: Option<String>,
    /// The kind of the resource: what is before the action's dot.
    pub resource: Option<String>,
    /// The resource.
    pub resource_id: Option<String>,
    /// Who did it.
    pub actor: Option<String>,
    /// Done at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Done before this time.
    pub to: Option<DateTime<Utc>>,
}

/// Some of the audit log.
#[derive(Debug, Clone)]
pub struct AuditLogPage {
    /// The entries, newest first.
    pub entries: Vec<AuditEntry>,
    /// Where older ones follow, if there may be any.
    pub next: Option<AuditLogCursor>,
}

/// Later than any entry.
const LATEST: DateTime<Utc> = match NaiveDate::from_ymd_opt(9999, 12, 31) {
    Some(day) => day.and_time(NaiveTime::MIN).and_utc(),
    None => DateTime::UNIX_EPOCH,
};
/// Most entries that are looked at for one page. A filter that matches few gives pages that are not full.
const LOOKS_AT: i64 = 20_000;

const LOG_ACTION: &str = "-- log_action
INSERT INTO audit_log
    (at, tenant_id, actor_kind, actor, action, resource_id, changes, address, user_agent, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

const LIST_AUDIT_LOG: &str = "-- list_audit_log
SELECT * FROM (
    SELECT * FROM audit_log WHERE tenant_id = $1 AND at >= $3 AND at <= $4 AND (at, sequence) < ($4, $5)
    ORDER BY at DESC, sequence DESC LIMIT $6
) looked_at
WHERE ($7::text IS NULL OR action = $7) AND ($8::text IS NULL OR split_part(action, '.', 1) = $8)
    AND ($9::text IS NULL OR resource_id = $9) AND ($10::text IS NULL OR actor = $10)
LIMIT $2";

const LAST_ENTRY_LOOKED_AT: &str = "-- last_audit_log_entry_looked_at
SELECT at, sequence FROM audit_log WHERE tenant_id = $1 AND at >= $2 AND at <= $3 AND (at, sequence) < ($3, $4)
ORDER BY at DESC, sequence DESC OFFSET $5::bigint - 1 LIMIT 1";

const FORGET_AUDIT_LOG: &str = "-- forget_audit_log
DELETE FROM audit_log WHERE sequence = ANY (ARRAY(
    SELECT sequence FROM audit_log WHERE at < $1 ORDER BY at LIMIT $2))";

impl Store {
    /// The same store. What is changed through it is written to the audit log, as done by this request.
    #[must_use]
    pub fn on_behalf_of(&self, origin: Origin) -> Self {
        let mut store = self.clone();
        store.origin = Some(Arc::new(origin));
        store
    }

    /// Writes down what is done without a change, such as reading a secret.
    pub async fn log_use(&self, action: &'static str, resource_id: &str) -> Result<(), StoreError> {
        let Some(origin) = &self.origin else { return Ok(()) };
        let mut client = self.of_tenant(origin.tenant).await?;
        let transaction = client.transaction().await?;
        self.log(&transaction, action, resource_id, Changes::default()).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Writes down what is done, with the change itself; nothing where it is done on Postrider's own account.
    pub(crate) async fn log(
        &self,
        client: &impl GenericClient,
        action: &'static str,
        resource_id: impl ToString,
        changes: Changes,
    ) -> Result<(), StoreError> {
        let Some(origin) = &self.origin else { return Ok(()) };
        let (kind, actor) = origin.actor.parts();
        let address = origin.address.map(|address| address.to_string());
        let changes = Value::Object(changes.0).to_string();
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &origin.at,
            &origin.tenant.0,
            &kind,
            &actor,
            &action,
            &resource_id.to_string(),
            &changes,
            &address,
            &origin.user_agent,
            &origin.request_id,
        ];
        client.execute(&client.prepare_cached(LOG_ACTION).await?, &parameters).await?;
        Ok(())
    }

    /// At most `limit` entries of a tenant's, newest first, from the one after `after`.
    pub async fn audit_log(
        &self,
        tenant: TenantId,
        filter: &AuditLogFilter,
        limit: usize,
        after: Option<AuditLogCursor>,
    ) -> Result<AuditLogPage, StoreError> {
        // One more than asked for tells whether anything follows.
        let one_more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let from = filter.from.unwrap_or(DateTime::UNIX_EPOCH);
        let newest = AuditLogCursor { at: filter.to.unwrap_or(LATEST), sequence: 0 };
        let before = after.filter(|after| after.at < newest.at).unwrap_or(newest);
        let client = self.of_tenant(tenant).await?;
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &tenant.0,
            &one_more,
            &from,
            &before.at,
            &before.sequence,
            &LOOKS_AT,
            &filter.action,
            &filter.resource,
            &filter.resource_id,
            &filter.actor,
        ];
        let rows = client.query(LIST_AUDIT_LOG, &parameters).await?;
        let mut entries = rows.iter().map(read_entry).collect::<Result<Vec<_>, _>>()?;
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        if has_more {
            let next = entries.last().map(|entry| entry.place);
            return Ok(AuditLogPage { entries, next });
        }
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&tenant.0, &from, &before.at, &before.sequence, &LOOKS_AT];
        let last = client.query_opt(LAST_ENTRY_LOOKED_AT, &parameters).await?;
        Ok(AuditLogPage { entries, next: last.as_ref().map(read_place) })
    }

    /// Deletes what was done before `before`. Says how many entries are gone.
    pub async fn forget_audit_log(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.forget(FORGET_AUDIT_LOG, before).await
    }
}

fn read_place(row: &Row) -> AuditLogCursor {
    AuditLogCursor { at: row.get("at"), sequence: row.get("sequence") }
}

fn read_entry(row: &Row) -> Result<AuditEntry, StoreError> {
    let changes = RawValue::from_string(row.get("changes"));
    let changes =
        changes.map_err(|error| StoreError::unreadable("audit_log")(Invalid::new(error.to_string())))?;
    Ok(AuditEntry {
        place: read_place(row),
        origin: StoredOrigin {
            actor_kind: row.get("actor_kind"),
            actor: row.get("actor"),
            address: row.get("address"),
            user_agent: row.get("user_agent"),
            request_id: row.get("request_id"),
        },
        action: row.get("action"),
        resource_id: row.get("resource_id"),
        changes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_the_fields_that_differ() {
        let (before, after) =
            (json!({"a": 1, "b": [1], "gone": true}), json!({"a": 1, "b": [2], "new": "x"}));
        let Changes(changes) = Changes::between(&before, &after).and_secret("secret");
        assert_eq!(
            Value::Object(changes),
            json!({
                "b": {"from": [1], "to": [2]},
                "gone": {"from": true, "to": null},
                "new": {"from": null, "to": "x"},
                "secret": {"from": "********", "to": "********"},
            })
        );
        let long = json!({"a": "x".repeat(3000)});
        assert_eq!(Changes::between(&Value::Null, &long).0["a"]["to"], TOO_LONG);
    }
}
