//! Work in many small statements, beside others who need the database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};

use crate::{Store, StoreError};

/// Old rows deleted by one statement.
const FORGOTTEN_AT_ONCE: u32 = 500;
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

impl Store {
    /// Deletes the rows from before `before`, with a statement that takes this time and how many to delete at most. Says how
    /// many are gone.
    pub(crate) async fn forget(&self, statement: &str, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut gone = 0;
        loop {
            // A connection each time: others may need it while this rests.
            let some = async {
                let client = self.connection().await?;
                let statement = client.prepare_cached(statement).await?;
                Ok(client.execute(&statement, &[&before, &i64::from(FORGOTTEN_AT_ONCE)]).await?)
            };
            let deleted: Result<_, StoreError> = Pace::Gentle.keep(some).await;
            let deleted = deleted?;
            gone += deleted;
            if deleted < FORGOTTEN_AT_ONCE.into() {
                return Ok(gone);
            }
        }
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
