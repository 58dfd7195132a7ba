//! Larger transactions while there is much to write, or nobody waits for it, at no cost in latency else.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

/// From this many in one transaction on there is much to write: some 10,000 a second.
const BUSY: usize = 32;
/// How long more is waited for then.
const WAIT: Duration = Duration::from_millis(3);
/// How long is waited for more while nobody waits for what there is. A kill makes repeats of what was delivered and is not
/// written down yet, so it is not longer.
const UNAWAITED_WAIT: Duration = Duration::from_millis(8);

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

    /// Waits longer, for a transaction that nobody waits for until `awaited` says so.
    pub(crate) async fn wait_unless(&self, awaited: &Notify, have: usize, most: usize) {
        if have >= most / 2 {
            return;
        }
        tokio::select! {
            () = sleep(UNAWAITED_WAIT) => {}
            () = awaited.notified() => self.wait(have, most).await,
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
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_is_gathered_until_somebody_does() {
        let (gathering, awaited) = (Gathering::default(), Notify::new());
        let waited = async |have| {
            let began = Instant::now();
            gathering.wait_unless(&awaited, have, 500).await;
            began.elapsed()
        };
        assert_eq!(waited(1).await, UNAWAITED_WAIT);
        assert_eq!(waited(250).await, Duration::ZERO, "there is enough");
        awaited.notify_one();
        assert_eq!(waited(1).await, Duration::ZERO);
        let (waited, ()) = tokio::join!(waited(1), async {
            sleep(Duration::from_millis(2)).await;
            awaited.notify_one();
        });
        assert_eq!(waited, Duration::from_millis(2));
    }

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
