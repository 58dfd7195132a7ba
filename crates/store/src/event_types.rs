use crate::{Store, StoreError};

/// An entry of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypeRow {
    /// The type, for example `message.received`.
    pub name: String,
    /// What it means.
    pub description: String,
}

const LIST_EVENT_TYPES: &str = "-- list_event_types
SELECT name, description FROM event_types ORDER BY position";

impl Store {
    /// The catalogue, in the order of the public list.
    pub async fn event_types(&self) -> Result<Vec<EventTypeRow>, StoreError> {
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(LIST_EVENT_TYPES).await?, &[]).await?;
        Ok(rows.iter().map(|row| EventTypeRow { name: row.get(0), description: row.get(1) }).collect())
    }
}
