use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::audit_log::Changes;
use crate::{Store, StoreError};

/// An entry of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypeRow {
    /// The type, for example `message.received`.
    pub name: String,
    /// What it means.
    pub description: String,
    /// A JSON Schema that the data of such events has; `None`: any data.
    pub schema: Option<String>,
    /// The data of such an event, JSON.
    pub example: Option<String>,
}

/// What became of a type that was to be put into the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTypePut {
    /// It is new.
    Created,
    /// It was there, and is changed.
    Changed,
    /// There is no room for another one.
    Full,
}

/// What became of a type that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTypeDeletion {
    /// It is gone.
    Deleted,
    /// There is none of that name.
    Unknown,
    /// Webhooks want it by its name.
    InUse,
}

const LIST_EVENT_TYPES: &str = "-- list_event_types
SELECT name, description, schema, example FROM event_types ORDER BY position";

const EVENT_TYPES_VERSION: &str = "-- event_types_version
SELECT version FROM event_types_version";

/// First of all in each transaction that changes the catalogue, so that the versions are in the order of the changes.
const BUMP_VERSION: &str = "-- bump_event_types_version
UPDATE event_types_version SET version = version + 1";

const EVENT_TYPE: &str = "-- event_type
SELECT name, description, schema, example FROM event_types WHERE name = $1";

const PUT_EVENT_TYPE: &str = "-- put_event_type
INSERT INTO event_types (name, description, schema, example)
SELECT $1, $2, $3, $4
WHERE EXISTS (SELECT FROM event_types WHERE name = $1) OR (SELECT count(*) FROM event_types) < $5
ON CONFLICT (name) DO UPDATE
SET description = excluded.description, schema = excluded.schema, example = excluded.example
RETURNING (xmax = 0) AS is_new";

const DELETE_EVENT_TYPE: &str = "-- delete_event_type
WITH found AS (
    SELECT name, EXISTS (SELECT FROM webhooks WHERE events @> ARRAY[$1]) AS in_use FROM event_types WHERE name = $1
), deleted AS (
    DELETE FROM event_types t USING found f WHERE t.name = f.name AND NOT f.in_use
)
SELECT in_use FROM found";

impl Store {
    /// The catalogue, in the order of the public list.
    pub async fn event_types(&self) -> Result<Vec<EventTypeRow>, StoreError> {
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(LIST_EVENT_TYPES).await?, &[]).await?;
        Ok(rows.iter().map(read_event_type).collect())
    }

    /// A number that every change of the catalogue raises.
    pub async fn event_types_version(&self) -> Result<i64, StoreError> {
        let client = self.connection().await?;
        let row = client.query_one(&client.prepare_cached(EVENT_TYPES_VERSION).await?, &[]).await?;
        Ok(row.get(0))
    }

    /// Puts a type into the catalogue, which has room for `most`, or changes it.
    pub async fn put_event_type(
        &self,
        event_type: &EventTypeRow,
        most: i64,
    ) -> Result<EventTypePut, StoreError> {
        let EventTypeRow { name, description, schema, example } = event_type;
        let mut client = self.over_tenants().await?;
        let transaction = client.transaction().await?;
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[]).await?;
        let statement = transaction.prepare_cached(EVENT_TYPE).await?;
        let before = transaction.query_opt(&statement, &[name]).await?.as_ref().map(read_event_type);
        let statement = transaction.prepare_cached(PUT_EVENT_TYPE).await?;
        let row = transaction.query_opt(&statement, &[name, description, schema, example, &most]).await?;
        let Some(row) = row else { return Ok(EventTypePut::Full) };
        let changes = Changes::between(&state(before.as_ref()), &state(Some(event_type)));
        self.log(&transaction, "event_type.put", name, changes).await?;
        transaction.commit().await?;
        Ok(if row.get("is_new") { EventTypePut::Created } else { EventTypePut::Changed })
    }

    /// Deletes a type that no webhook wants by its name.
    pub async fn delete_event_type(&self, name: &str) -> Result<EventTypeDeletion, StoreError> {
        let mut client = self.over_tenants().await?;
        let transaction = client.transaction().await?;
        transaction.execute(&transaction.prepare_cached(BUMP_VERSION).await?, &[]).await?;
        let statement = transaction.prepare_cached(DELETE_EVENT_TYPE).await?;
        let Some(row) = transaction.query_opt(&statement, &[&name]).await? else {
            return Ok(EventTypeDeletion::Unknown);
        };
        if row.get("in_use") {
            return Ok(EventTypeDeletion::InUse);
        }
        self.log(&transaction, "event_type.deleted", name, Changes::default()).await?;
        transaction.commit().await?;
        Ok(EventTypeDeletion::Deleted)
    }
}

/// As the API calls it.
fn state(event_type: Option<&EventTypeRow>) -> Value {
    event_type.map_or(Value::Null, |EventTypeRow { name: _, description, schema, example }| {
        json!({"description": description, "schema": schema, "example": example})
    })
}

fn read_event_type(row: &Row) -> EventTypeRow {
    EventTypeRow {
        name: row.get("name"),
        description: row.get("description"),
        schema: row.get("schema"),
        example: row.get("example"),
    }
}
