//! Connections that nobody uses for the moment, kept for the next request to the same receiver.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::{unconstrained, yield_now};
use tokio::time::{Instant, sleep};

use crate::connection::Connection;

/// How long an unused connection to a receiver is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often those that are kept are looked after.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How many unused connections to one receiver are kept: many webhooks can share one, and a connection that is closed for
/// want of a place is opened again a moment later.
const MAX_IDLE_PER_ORIGIN: usize = 256;

#[derive(Clone, Default)]
pub(crate) struct IdleConnections(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// By scheme, host and port; the one that was used last is the last.
    by_origin: HashMap<Arc<str>, VecDeque<Idle>>,
    is_swept: bool,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl IdleConnections {
    /// One to this receiver, if there is any: the one that was used last, which is the least likely to be closed.
    pub(crate) fn take(&self, origin: &str) -> Option<Box<Connection>> {
        let mut kept = lock(&self.0);
        let last = kept.by_origin.get_mut(origin)?.pop_back_if(|idle| !idle.is_old())?;
        Some(last.connection)
    }

    /// Keeps one whose last answer has been read to its end, if it can be used again.
    pub(crate) fn put(&self, origin: &Arc<str>, mut connection: Box<Connection>) {
        let unkept = if connection.is_free() { self.keep(origin, connection) } else { Some(connection) };
        if let Some(connection) = unkept {
            connection.close();
        }
    }

    /// Gives it back if there is no place for it.
    fn keep(&self, origin: &Arc<str>, connection: Box<Connection>) -> Option<Box<Connection>> {
        let mut kept = lock(&self.0);
        if !kept.is_swept {
            kept.is_swept = true;
            // It looks at more sockets than a task can at one time, and those beyond would seem to be open.
            tokio::spawn(unconstrained(sweep(Arc::downgrade(&self.0))));
        }
        let of_origin = match kept.by_origin.get_mut(origin) {
            Some(of_origin) => of_origin,
            None => kept.by_origin.entry(Arc::clone(origin)).or_default(),
        };
        if of_origin.len() >= MAX_IDLE_PER_ORIGIN {
            return Some(connection);
        }
        of_origin.push_back(Idle { connection, since: Instant::now() });
        None
    }
}

impl Idle {
    fn is_old(&self) -> bool {
        self.since.elapsed() >= IDLE_TIMEOUT
    }
}

/// Closes those that were not used for long, or that their receivers have closed, for as long as anyone uses the rest.
async fn sweep(kept: Weak<Mutex<Kept>>) {
    loop {
        sleep(SWEEP_EVERY).await;
        let Some(kept) = kept.upgrade() else { return };
        let origins: Vec<Arc<str>> = lock(&kept).by_origin.keys().cloned().collect();
        for origin in origins {
            for ended in take_ended(&kept, &origin) {
                ended.connection.close();
            }
            yield_now().await;
        }
    }
}

fn take_ended(kept: &Mutex<Kept>, origin: &str) -> Vec<Idle> {
    let mut ended = Vec::new();
    let mut kept = lock(kept);
    let Some(of_origin) = kept.by_origin.get_mut(origin) else { return ended };
    for mut idle in std::mem::take(of_origin) {
        if !idle.is_old() && idle.connection.is_free() {
            of_origin.push_back(idle);
        } else {
            ended.push(idle);
        }
    }
    if of_origin.is_empty() {
        kept.by_origin.remove(origin);
    }
    ended
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
