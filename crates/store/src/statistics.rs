use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::{TenantId, WebhookId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::{Store, StoreError};

/// What became of a webhook's attempts in a time range.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// All of the range.
    pub total: AttemptCounts,
    /// By the beginning of each hour or day in which there were any.
    pub buckets: BTreeMap<DateTime<Utc>, AttemptCounts>,
    /// From when attempts are counted, where there are more in the range than are looked at.
    pub counted_from: Option<DateTime<Utc>>,
}

/// Some attempts, counted. Neither tests nor what was cancelled without a request are among them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AttemptCounts {
    /// Those that succeeded.
    pub delivered: i64,
    /// Those that failed, by error class.
    pub failures: BTreeMap<String, i64>,
    /// How long half of them took at most, in milliseconds.
    pub p50_ms: Option<i32>,
    /// How long 95 of 100 took at most.
    pub p95_ms: Option<i32>,
}

impl AttemptCounts {
    /// Those that failed.
    pub fn failed(&self) -> i64 {
        self.failures.values().sum()
    }
}

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// From full hour to full hour, UTC.
    Hour,
    /// A day, UTC.
    Day,
}

impl Interval {
    /// The name the API and the database have for it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// Most attempts that are looked at, the newest first.
const LOOKS_AT: i64 = 200_000;

// The rows come out of the index that the history is read by, no more of them than are looked at.
const STATISTICS: &str = "-- statistics
WITH looked_at AS MATERIALIZED (
    SELECT started_at, duration_ms, error, trigger FROM delivery_attempts
    WHERE tenant_id = $1 AND webhook_id = $2 AND started_at >= $3 AND started_at < $4
    ORDER BY started_at DESC LIMIT $6
), counted AS (
    SELECT date_trunc($5, started_at, 'UTC') AS bucket, duration_ms, error FROM looked_at
    WHERE error IS DISTINCT FROM 'cancelled' AND trigger IS DISTINCT FROM 'test'
), grouped AS (
    SELECT bucket, error, grouping(error) = 0 AS is_of_class, count(*) AS attempts,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50,
        percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95
    FROM counted GROUP BY GROUPING SETS ((), (error), (bucket), (bucket, error))
)
SELECT g.*, n.looked_at, n.oldest
FROM grouped g CROSS JOIN (SELECT count(*) AS looked_at, min(started_at) AS oldest FROM looked_at) n";

impl Store {
    /// What became of a webhook's attempts begun from `from` up to `to`.
    pub async fn statistics(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        interval: Interval,
    ) -> Result<Statistics, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&tenant.0, &webhook.0, &from, &to, &interval.code(), &LOOKS_AT];
        let mut statistics = Statistics::default();
        for row in &client.query(STATISTICS, &parameters).await? {
            statistics.add(row);
        }
        Ok(statistics)
    }
}

impl Statistics {
    /// A row counts one class of a bucket, or all of it; a row without a bucket, of the whole range.
    fn add(&mut self, row: &Row) {
        if row.get::<_, i64>("looked_at") == LOOKS_AT {
            self.counted_from = row.get("oldest");
        }
        let attempts: i64 = row.get("attempts");
        let bucket: Option<DateTime<Utc>> = row.get("bucket");
        let counts = match bucket {
            Some(bucket) => self.buckets.entry(bucket).or_default(),
            None => &mut self.total,
        };
        match (row.get("is_of_class"), row.get::<_, Option<String>>("error")) {
            (true, Some(error)) => _ = counts.failures.insert(error, attempts),
            (true, None) => counts.delivered = attempts,
            (false, _) => (counts.p50_ms, counts.p95_ms) = (row.get("p50"), row.get("p95")),
        }
    }
}
