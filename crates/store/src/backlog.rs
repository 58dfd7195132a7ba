//! What operators watch: how much waits, since when, and how far ahead partitions reach.

use chrono::{DateTime, NaiveDate, Utc};

use crate::partitions::{PARTITIONED, day_of};
use crate::{Store, StoreError};

/// Most deliveries that are counted: the answer must not take longer the worse things are.
pub const MOST_COUNTED: i64 = 10_000;

/// The deliveries that have a row. Each number is at most [`MOST_COUNTED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Since when the longest due one is due; `None` when none is.
    pub oldest_due_at: Option<DateTime<Utc>>,
    /// Due now, and not taken on.
    pub due: i64,
    /// Waiting for their webhook's gate.
    pub waiting: i64,
    /// To be tried later, or leased.
    pub later: i64,
}

const BACKLOG: &str = "-- backlog
SELECT (SELECT min(due_at) FROM deliveries WHERE due_at <= $1),
    (SELECT count(*) FROM (SELECT FROM deliveries WHERE due_at <= $1 LIMIT $2) d),
    (SELECT count(*) FROM (SELECT FROM deliveries WHERE due_at IS NULL LIMIT $2) w),
    (SELECT count(*) FROM (SELECT FROM deliveries WHERE due_at > $1 LIMIT $2) l)";

const PARTITION_NAMES: &str = "-- partition_names
SELECT i.inhparent::regclass::text, c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = ANY ($1::text[]::regclass[])";

impl Store {
    /// How much waits at this moment.
    pub async fn backlog(&self, now: DateTime<Utc>) -> Result<Backlog, StoreError> {
        let client = self.connection().await?;
        let row = client.query_one(&client.prepare_cached(BACKLOG).await?, &[&now, &MOST_COUNTED]).await?;
        Ok(Backlog { oldest_due_at: row.get(0), due: row.get(1), waiting: row.get(2), later: row.get(3) })
    }

    /// For how many days after `today` every table that needs one has a partition, without a gap; -1 when today has none.
    pub async fn partition_days_ahead(&self, today: NaiveDate) -> Result<i64, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(PARTITION_NAMES).await?;
        let rows = client.query(&statement, &[&PARTITIONED.as_slice()]).await?;
        let has = |table: &str, day: NaiveDate| {
            rows.iter().any(|row| row.get::<_, &str>(0) == table && day_of(table, row.get(1)) == Some(day))
        };
        let whole_days = today.iter_days().take_while(|day| PARTITIONED.iter().all(|table| has(table, *day)));
        Ok(i64::try_from(whole_days.count()).unwrap_or(i64::MAX) - 1)
    }
}
