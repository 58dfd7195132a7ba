//! The event types, remembered for a moment, so that events are accepted while the database is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use domain::{EventPattern, EventType};
use store::{EventTypeRow, Store, StoreError};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::schema::Schema;

/// How long the list is used before it is asked whether it has changed.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How long to wait for the database while there is an older list to fall back on.
const PATIENCE: Duration = Duration::from_millis(500);

/// Which types are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    /// Those that are published.
    Ordinary,
    /// Those about webhooks and deliveries themselves too.
    Domain,
}

pub(crate) struct Catalogue {
    store: Store,
    last: Mutex<Option<(Instant, Arc<Types>)>>,
}

/// The types as they were read at one moment.
#[derive(Default)]
pub(crate) struct Types {
    version: i64,
    in_order: Vec<Arc<KnownType>>,
    by_name: HashMap<String, Arc<KnownType>>,
}

/// One of them.
pub(crate) struct KnownType {
    pub(crate) row: EventTypeRow,
    /// Compiled when the first event is checked. None also where the database has one that is none.
    schema: OnceLock<Option<Schema>>,
}

impl Catalogue {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, last: Mutex::default() }
    }

    /// The event types; a list read before where the database does not answer.
    pub(crate) async fn event_types(&self) -> Result<Arc<Types>, StoreError> {
        let last = self.lock().clone();
        match last {
            Some((read_at, types)) if read_at.elapsed() < FRESH_FOR => Ok(types),
            Some((_, types)) => {
                // One request reads the list anew; the others go on with the last one meanwhile.
                *self.lock() = Some((Instant::now(), Arc::clone(&types)));
                // Boxed: others are not to be as large as this one.
                match Box::pin(timeout(PATIENCE, self.read(Some(&types)))).await {
                    Ok(Ok(fresh)) => Ok(fresh),
                    Ok(Err(error)) => {
                        warn!(%error, "the event types could not be read; the last ones are used");
                        Ok(types)
                    }
                    Err(_) => Ok(types),
                }
            }
            None => Box::pin(self.read(None)).await,
        }
    }

    /// What is known of the types for who publishes. Nothing while they were never read: then the dispatcher judges.
    pub(crate) async fn known(&self) -> Option<Arc<Types>> {
        timeout(PATIENCE, self.event_types()).await.ok()?.ok()
    }

    /// Reads the list at once when it is next asked for: it was changed here.
    pub(crate) fn expire(&self) {
        *self.lock() = None;
    }

    async fn read(&self, last: Option<&Arc<Types>>) -> Result<Arc<Types>, StoreError> {
        // Before the list itself, so that a change in between is found the next time.
        let version = self.store.event_types_version().await?;
        if let Some(last) = last.filter(|last| last.version == version) {
            return Ok(Arc::clone(last));
        }
        let types = Arc::new(Types::new(version, self.store.event_types().await?, last.map(Arc::as_ref)));
        *self.lock() = Some((Instant::now(), Arc::clone(&types)));
        Ok(types)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Arc<Types>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Types {
    fn new(version: i64, rows: Vec<EventTypeRow>, last: Option<&Self>) -> Self {
        let mut types = Self { version, ..Self::default() };
        for row in rows {
            // What has not changed keeps its compiled schema.
            let unchanged = last.and_then(|last| last.get(&row.name)).filter(|known| known.row == row);
            let known = match unchanged {
                Some(known) => Arc::clone(known),
                None => Arc::new(KnownType { row, schema: OnceLock::new() }),
            };
            types.by_name.insert(known.row.name.clone(), Arc::clone(&known));
            types.in_order.push(known);
        }
        types
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<KnownType>> {
        self.by_name.get(name)
    }

    /// The names of the types, without those that only Postrider publishes, or with them.
    pub(crate) fn names(&self, include: Include) -> Vec<&str> {
        let is_listed = |name: &&str| {
            include == Include::Domain || name.parse().is_ok_and(|known: EventType| !known.is_reserved())
        };
        self.in_order.iter().map(|known| known.row.name.as_str()).filter(is_listed).collect()
    }

    /// Whether a pattern can ever match: a type must be in the catalogue, a wildcard must have one below it.
    pub(crate) fn covers(&self, pattern: &EventPattern) -> bool {
        self.in_order.iter().any(|known| known.row.name.parse().is_ok_and(|known| pattern.matches(&known)))
    }

    /// The first type of the catalogue that one of the patterns matches.
    pub(crate) fn first_wanted(&self, patterns: &[EventPattern]) -> Option<EventType> {
        let mut known = self.in_order.iter().filter_map(|known| known.row.name.parse::<EventType>().ok());
        known.find(|known| patterns.iter().any(|pattern| pattern.matches(known)))
    }
}

impl KnownType {
    /// What the data of such events must be like, if anything is said.
    pub(crate) fn schema(&self) -> Option<&Schema> {
        let compile = || {
            let compiled = Schema::compile(self.row.schema.as_deref()?);
            compiled
                .inspect_err(|error| warn!(event_type = self.row.name, %error, "a schema is ignored"))
                .ok()
        };
        self.schema.get_or_init(compile).as_ref()
    }
}
