//! The time as all dispatchers see it, whatever happens to the clock of this machine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::Clock;
use store::Store;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

/// How often it is compared.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the database may take to say the time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two warnings that this machine's clock is wrong.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// From where on it is called wrong.
const WRONG: TimeDelta = TimeDelta::seconds(5);

/// Begins with the database's time and goes on by the monotonic clock, which nobody sets. Now and then it is set to the middle
/// one of three: itself, this machine's clock and the database's. So no single clock that jumps takes it along.
#[derive(Clone)]
pub struct SharedClock(Arc<Mutex<Anchor>>);

#[derive(Debug, Clone, Copy)]
struct Anchor {
    time: DateTime<Utc>,
    at: Instant,
}

impl Clock for SharedClock {
    fn now(&self) -> DateTime<Utc> {
        let Anchor { time, at } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        time + at.elapsed()
    }
}

impl SharedClock {
    /// Asks the database for the time, or takes this machine's if it does not answer, and keeps the clock right from then on.
    pub async fn start(store: Store) -> Self {
        let time = database_time(&store).await.unwrap_or_else(Utc::now);
        let clock = Self(Arc::new(Mutex::new(Anchor { time, at: Instant::now() })));
        tokio::spawn(clock.clone().keep(store));
        clock
    }

    async fn keep(self, store: Store) {
        let mut warned: Option<Instant> = None;
        loop {
            sleep(INTERVAL).await;
            let Some(database) = database_time(&store).await else { continue };
            let (own, machine) = (self.now(), Utc::now());
            let time = middle(own, machine, database);
            debug!(correction_ms = (time - own).num_milliseconds(), "the clock is set");
            self.set(Anchor { time, at: Instant::now() });
            for (name, other) in [("machine", machine), ("database", database)] {
                let off = other - time;
                let may_warn = warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL);
                if off.abs() > WRONG && may_warn {
                    warned = Some(Instant::now());
                    warn!(
                        seconds = off.num_seconds(),
                        "the clock of the {name} is wrong; it is not followed"
                    );
                }
            }
        }
    }

    fn set(&self, anchor: Anchor) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = anchor;
    }
}

async fn database_time(store: &Store) -> Option<DateTime<Utc>> {
    let asked = Instant::now();
    let time = timeout(PATIENCE, store.time()).await.ok()?.ok()?;
    // It was so half-way between the question and the answer.
    Some(time + asked.elapsed() / 2)
}

fn middle<T: Ord + Copy>(a: T, b: T, c: T) -> T {
    a.max(b).min(a.min(b).max(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_three_is_not_moved_by_one_that_is_far_off() {
        for (a, b, c) in [(1, 2, 3), (3, 1, 2), (2, 3, 1), (1, 3, 2), (2, 1, 3), (3, 2, 1)] {
            assert_eq!(middle(a, b, c), 2);
        }
        assert_eq!(middle(5, 5, 3600), 5);
        assert_eq!(middle(-3600, 5, 5), 5);
    }
}
