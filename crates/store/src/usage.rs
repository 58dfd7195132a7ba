use chrono::{DateTime, NaiveDate, Utc};
use domain::TenantId;
use uuid::Uuid;

use crate::{Store, StoreError};

/// How much of what a plan limits was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Events accepted over REST.
    pub events: i64,
    /// Requests to the API that published nothing.
    pub requests: i64,
}

/// What a gateway has counted since it last wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageCount {
    /// Counts up with every count a gateway writes. One that is written again under the same number counts once.
    pub sequence: i64,
    /// Each tenant's use of a day.
    pub used: Vec<(TenantId, NaiveDate, Usage)>,
}

const RECORD_USAGE: &str = "-- record_usage
WITH first_time AS (
    INSERT INTO usage_writers AS writer (gateway_id, sequence, written_at) VALUES ($1, $2, $3)
    ON CONFLICT (gateway_id) DO UPDATE SET sequence = excluded.sequence, written_at = excluded.written_at
    WHERE writer.sequence < excluded.sequence
    RETURNING 1
)
INSERT INTO tenant_usage AS total (tenant_id, day, events, requests)
SELECT counted.* FROM unnest($4::uuid[], $5::date[], $6::bigint[], $7::bigint[]) AS counted
WHERE EXISTS (SELECT FROM first_time)
ON CONFLICT (tenant_id, day) DO UPDATE
SET events = total.events + excluded.events, requests = total.requests + excluded.requests";

const FORGET_USAGE: &str = "-- forget_usage
DELETE FROM tenant_usage WHERE day < $1";

const FORGET_WRITERS: &str = "-- forget_usage_writers
DELETE FROM usage_writers WHERE written_at < $1";

impl Store {
    /// Adds a gateway's count to the totals, once.
    pub async fn record_usage(
        &self,
        gateway: Uuid,
        count: &UsageCount,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut used = count.used.clone();
        // Gateways that write at once lock the rows in one order.
        used.sort_unstable_by_key(|(tenant, day, _)| (tenant.0, *day));
        let tenants: Vec<Uuid> = used.iter().map(|(tenant, _, _)| tenant.0).collect();
        let days: Vec<NaiveDate> = used.iter().map(|(_, day, _)| *day).collect();
        let events: Vec<i64> = used.iter().map(|(_, _, usage)| usage.events).collect();
        let requests: Vec<i64> = used.iter().map(|(_, _, usage)| usage.requests).collect();
        let client = self.over_tenants().await?;
        client
            .query(RECORD_USAGE, &[&gateway, &count.sequence, &now, &tenants, &days, &events, &requests])
            .await?;
        Ok(())
    }

    /// Deletes totals of days before `day`, and what is known of gateways that have not written since `written_since`.
    pub async fn forget_usage(&self, day: NaiveDate, written_since: DateTime<Utc>) -> Result<(), StoreError> {
        let client = self.over_tenants().await?;
        client.query(FORGET_USAGE, &[&day]).await?;
        client.query(FORGET_WRITERS, &[&written_since]).await?;
        Ok(())
    }
}
