//! Work in many small statements, beside others who need the database.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The longest rest after a statement.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How work of many statements deals with others who need the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can.
    Full,
    /// Rests after each statement for as long as that took.
    Gentle,
}

impl Pace {
    pub(crate) async fn keep<T>(self, statement: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let done = statement.await;
        match self {
            Self::Full => {}
            Self::Gentle => sleep(began.elapsed().min(LONGEST_REST)).await,
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gentle_pace_rests_as_long_as_it_worked_but_not_for_long() {
        let took = async |pace: Pace, milliseconds| {
            let began = Instant::now();
            pace.keep(sleep(Duration::from_millis(milliseconds))).await;
            began.elapsed().as_millis()
        };
        assert_eq!(took(Pace::Full, 200).await, 200);
        assert_eq!(took(Pace::Gentle, 200).await, 400);
        assert_eq!(took(Pace::Gentle, 5_000).await, 6_000);
    }
}
