//! Connections that nobody uses for the moment, kept for the next request to the same receiver.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

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
        Some(lock(&self.0).by_origin.get_mut(origin)?.pop_back()?.connection)
    }

    /// Keeps one whose last answer has been read to its end, if it can be used again.
    pub(crate) fn put(&self, origin: &Arc<str>, mut connection: Box<Connection>) {
        if !connection.is_free() {
            return;
        }
        let mut kept = lock(&self.0);
        let of_origin = match kept.by_origin.get_mut(origin) {
            Some(of_origin) => of_origin,
            None => kept.by_origin.entry(Arc::clone(origin)).or_default(),
        };
        if of_origin.len() < MAX_IDLE_PER_ORIGIN {
            of_origin.push_back(Idle { connection, since: Instant::now() });
        }
        if !kept.is_swept {
            kept.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

/// Closes those that were not used for long, or that their receivers have closed, for as long as anyone uses the rest.
async fn sweep(kept: Weak<Mutex<Kept>>) {
    loop {
        sleep(SWEEP_EVERY).await;
        let Some(kept) = kept.upgrade() else { return };
        let mut ended = Vec::new();
        lock(&kept).by_origin.retain(|_, of_origin| {
            for mut idle in std::mem::take(of_origin) {
                if idle.since.elapsed() < IDLE_TIMEOUT && idle.connection.is_free() {
                    of_origin.push_back(idle);
                } else {
                    ended.push(idle.connection);
                }
            }
            !of_origin.is_empty()
        });
        for connection in ended {
            connection.close();
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
