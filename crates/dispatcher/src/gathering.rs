//! Larger transactions while there is much to write, at no cost in latency while there is little.

use std::time::Duration;

use tokio::time::sleep;

/// From this many in one transaction on there is much to write: some 10,000 a second.
const BUSY: usize = 32;
/// How long more is waited for then.
const WAIT: Duration = Duration::from_millis(3);

/// Whether to wait a moment for more before a transaction. Each costs the broker, the database and its disk something of
/// its own, whatever is in it.
#[derive(Default)]
pub(crate) struct Gathering {
    is_busy: bool,
}

impl Gathering {
    /// Waits, if that is worth it for a transaction that has so many so far, of the `most` it may have.
    pub(crate) async fn wait(&self, have: usize, most: usize) {
        if self.is_worth_waiting(have, most) {
            sleep(WAIT).await;
        }
    }

    /// A transaction has so many.
    pub(crate) fn gathered(&mut self, count: usize) {
        self.is_busy = count >= BUSY;
    }

    fn is_worth_waiting(&self, have: usize, most: usize) -> bool {
        self.is_busy && have < most / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_only_after_much_and_with_room_for_more() {
        let mut gathering = Gathering::default();
        assert!(!gathering.is_worth_waiting(1, 500));
        gathering.gathered(BUSY - 1);
        assert!(!gathering.is_worth_waiting(1, 500));
        gathering.gathered(BUSY);
        assert!(gathering.is_worth_waiting(1, 500));
        assert!(!gathering.is_worth_waiting(250, 500));
        gathering.gathered(1);
        assert!(!gathering.is_worth_waiting(1, 500));
    }
}
