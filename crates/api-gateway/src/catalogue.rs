//! The event types, remembered for a moment, so that events are accepted while the database is away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{EventPattern, EventType};
use store::{EventTypeRow, Store, StoreError};
use tokio::time::{Instant, timeout};
use tracing::warn;

/// How long the list is used before it is read again.
const FRESH_FOR: Duration = Duration::from_secs(5);
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
    last: Mutex<Option<(Instant, Arc<[EventTypeRow]>)>>,
}

impl Catalogue {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, last: Mutex::default() }
    }

    /// The event types; a list read before where the database does not answer.
    pub(crate) async fn event_types(&self) -> Result<Arc<[EventTypeRow]>, StoreError> {
        let last = self.lock().clone();
        match last {
            Some((read_at, types)) if read_at.elapsed() < FRESH_FOR => Ok(types),
            Some((_, types)) => {
                // One request reads the list anew; the others go on with the last one meanwhile.
                *self.lock() = Some((Instant::now(), Arc::clone(&types)));
                match timeout(PATIENCE, self.read()).await {
                    Ok(Ok(fresh)) => Ok(fresh),
                    Ok(Err(error)) => {
                        warn!(%error, "the event types could not be read; the last ones are used");
                        Ok(types)
                    }
                    Err(_) => Ok(types),
                }
            }
            None => self.read().await,
        }
    }

    /// What is known of the types for who publishes. Nothing while they were never read: then the dispatcher judges.
    pub(crate) async fn known(&self) -> Option<Arc<[EventTypeRow]>> {
        timeout(PATIENCE, self.event_types()).await.ok()?.ok()
    }

    /// The names of the types, without those that only Postrider publishes, or with them.
    pub(crate) fn names(types: &[EventTypeRow], include: Include) -> Vec<&str> {
        let is_listed = |name: &&str| {
            include == Include::Domain || name.parse().is_ok_and(|known: EventType| !known.is_reserved())
        };
        types.iter().map(|known| known.name.as_str()).filter(is_listed).collect()
    }

    /// Whether a pattern can ever match: a type must be in the catalogue, a wildcard must have one below it.
    pub(crate) fn covers(types: &[EventTypeRow], pattern: &EventPattern) -> bool {
        let matches = |known: &EventTypeRow| known.name.parse().is_ok_and(|known| pattern.matches(&known));
        types.iter().any(matches)
    }

    /// The first type of the catalogue that one of the patterns matches.
    pub(crate) fn first_wanted(types: &[EventTypeRow], patterns: &[EventPattern]) -> Option<EventType> {
        let known = types.iter().filter_map(|known| known.name.parse::<EventType>().ok());
        known.into_iter().find(|known| patterns.iter().any(|pattern| pattern.matches(known)))
    }

    async fn read(&self) -> Result<Arc<[EventTypeRow]>, StoreError> {
        let types: Arc<[EventTypeRow]> = self.store.event_types().await?.into();
        *self.lock() = Some((Instant::now(), Arc::clone(&types)));
        Ok(types)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Arc<[EventTypeRow]>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
