use chrono::{Days, NaiveDate};

use crate::{Store, StoreError};

/// Tables that have a partition for each day.
pub(crate) const PARTITIONED: [&str; 3] = ["events", "delivery_attempts", "attempt_exchanges"];

/// What the upkeep of partitions did and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionReport {
    /// Partitions made.
    pub created: usize,
    /// Partitions dropped with the days that retention no longer keeps.
    pub dropped: usize,
    /// Whether the default partitions held rows before or hold them still: a day's partition was missing.
    pub default_in_use: bool,
}

const TRY_LOCK: &str = "-- partition_lock
SELECT pg_try_advisory_xact_lock(7235419184)";

const CREATE_PARTITION: &str = "-- create_partition
SELECT create_partition($1, $2)";

const DROP_PARTITION: &str = "-- drop_partition
SELECT drop_partition($1, $2)";

const LIST_PARTITIONS: &str = "-- list_partitions
SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = $1::text::regclass AND c.relname <> $1 || '_default'";

const DEFAULT_IN_USE: &str = "-- default_partitions_in_use
SELECT EXISTS (SELECT FROM events_default) OR EXISTS (SELECT FROM delivery_attempts_default)
    OR EXISTS (SELECT FROM attempt_exchanges_default)";

impl Store {
    /// Makes the partitions from `today - 1` to `today + days_ahead`, and drops those of days more than
    /// `retention_days` ago. Does nothing while another process is at it.
    pub async fn maintain_partitions(
        &self,
        today: NaiveDate,
        days_ahead: u32,
        retention_days: u32,
    ) -> Result<PartitionReport, StoreError> {
        let mut report = PartitionReport::default();
        let mut client = self.connection().await?;
        let oldest = today - Days::new(retention_days.into());
        report.default_in_use = client.query_one(DEFAULT_IN_USE, &[]).await?.get(0);
        for table in PARTITIONED {
            let transaction = client.transaction().await?;
            // Creating and dropping lock the table for a moment. Rather fail and try later than make everybody queue.
            transaction.batch_execute("SET LOCAL lock_timeout = '2s'").await?;
            if !transaction.query_one(TRY_LOCK, &[]).await?.get::<_, bool>(0) {
                return Ok(report);
            }
            for offset in 0..=days_ahead + 1 {
                let day = today - Days::new(1) + Days::new(offset.into());
                let created: bool = transaction.query_one(CREATE_PARTITION, &[&table, &day]).await?.get(0);
                report.created += usize::from(created);
            }
            for row in transaction.query(LIST_PARTITIONS, &[&table]).await? {
                let partition: String = row.get(0);
                if let Some(day) = day_of(table, &partition).filter(|day| *day < oldest) {
                    transaction.execute(DROP_PARTITION, &[&table, &day]).await?;
                    report.dropped += 1;
                }
            }
            transaction.commit().await?;
        }
        report.default_in_use |= client.query_one(DEFAULT_IN_USE, &[]).await?.get::<_, bool>(0);
        drop(client);
        self.drop_orphaned_deliveries(oldest).await?;
        self.forget_event_tags(oldest).await?;
        Ok(report)
    }
}

/// The day in a partition's name, which is `table_YYYYMMDD`.
pub(crate) fn day_of(table: &str, partition: &str) -> Option<NaiveDate> {
    let digits = partition.strip_prefix(table)?.strip_prefix('_')?;
    NaiveDate::parse_from_str(digits, "%Y%m%d").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_making_are_days() {
        assert_eq!(day_of("events", "events_20260530"), NaiveDate::from_ymd_opt(2026, 5, 30));
        assert_eq!(day_of("events", "events_default"), None);
        assert_eq!(day_of("events", "other_20260530"), None);
        assert_eq!(day_of("events", "events_20261399"), None);
    }
}
