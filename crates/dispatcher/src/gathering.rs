//! Larger transactions while there is much to write, or nobody waits for it, at no cost in latency else.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// From this many in one transaction on there is much to write: some 10,000 a second.
const BUSY: usize = 32;
/// How long more is waited for then, and while nobody waits for what there is. A kill makes repeats of what was delivered and
/// is not written down yet, so it is not longer.
const WAIT: Duration = Duration::from_millis(8);
/// How long is waited for more while there is much that somebody waits for.
const AWAITED_WAIT: Duration = Duration::from_millis(3);

/// Whether to wait a moment for more before a transaction. Each costs the broker, the database and its disk something of
/// its own, whatever is in it.
#[derive(Default)]
pub(crate) struct Gathering {
    is_busy: bool,
    /// How long was waited for what came together last.
    waited: Duration,
}

impl Gathering {
    /// Waits, if that is worth it for a transaction that has so many so far, of the `most` it may have.
    pub(crate) async fn wait(&mut self, have: usize, most: usize) {
        let began = Instant::now();
        if self.is_worth_waiting(have, most) {
            sleep(WAIT).await;
        }
        self.waited = began.elapsed();
    }

    /// Waits even if there is little, for a transaction that nobody waits for until `awaited` says so.
    pub(crate) async fn wait_unless(&mut self, awaited: &Notify, have: usize, most: usize) {
        let began = Instant::now();
        if have < most / 2 {
            tokio::select! {
                () = sleep(WAIT) => {}
                () = awaited.notified() => {
                    if self.is_worth_waiting(have, most) {
                        sleep_until(began + AWAITED_WAIT).await;
                    }
                }
            }
        }
        self.waited = began.elapsed();
    }

    /// A transaction has so many.
    pub(crate) fn gathered(&mut self, count: usize) {
        // Who has waited longer has more to show for it.
        let times = (self.waited.as_secs_f64() / AWAITED_WAIT.as_secs_f64()).max(1.0);
        self.is_busy = count as f64 >= BUSY as f64 * times;
    }

    fn is_worth_waiting(&self, have: usize, most: usize) -> bool {
        self.is_busy && have < most / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_is_gathered_until_somebody_does() {
        let (mut gathering, awaited) = (Gathering::default(), Notify::new());
        let waited = async |gathering: &mut Gathering, have| {
            gathering.wait_unless(&awaited, have, 500).await;
            gathering.waited
        };
        assert_eq!(waited(&mut gathering, 1).await, WAIT);
        gathering.gathered(BUSY);
        assert!(!gathering.is_busy, "so many in so long are few");
        assert_eq!(waited(&mut gathering, 250).await, Duration::ZERO, "there is enough");
        awaited.notify_one();
        assert_eq!(waited(&mut gathering, 1).await, Duration::ZERO);
        let ahead = Duration::from_millis(2);
        let somebody = async {
            sleep(ahead).await;
            awaited.notify_one();
        };
        assert_eq!(tokio::join!(waited(&mut gathering, 1), somebody).0, ahead);
        gathering.gathered(BUSY);
        awaited.notify_one();
        assert_eq!(waited(&mut gathering, 1).await, AWAITED_WAIT, "there is much");
    }

    #[tokio::test(start_paused = true)]
    async fn waits_only_after_much_and_with_room_for_more() {
        let mut gathering = Gathering::default();
        let waited = async |gathering: &mut Gathering, have| {
            gathering.wait(have, 500).await;
            gathering.waited
        };
        assert_eq!(waited(&mut gathering, 1).await, Duration::ZERO);
        gathering.gathered(BUSY - 1);
        assert_eq!(waited(&mut gathering, 1).await, Duration::ZERO);
        gathering.gathered(BUSY);
        assert_eq!(waited(&mut gathering, 1).await, WAIT);
        gathering.gathered(BUSY * 3);
        assert_eq!(waited(&mut gathering, 250).await, Duration::ZERO, "there is enough");
        gathering.gathered(BUSY);
        assert_eq!(waited(&mut gathering, 249).await, WAIT);
        gathering.gathered(BUSY);
        assert_eq!(waited(&mut gathering, 1).await, Duration::ZERO, "so many in so long were few");
    }
}
