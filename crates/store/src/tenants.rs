use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use domain::{Invalid, PlanName, Subscription, TenantId, TenantStatus};
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::audit_log::Changes;
use crate::plans::parse_limits;
use crate::{Store, StoreError, Usage};

/// A tenant as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Names it.
    pub id: TenantId,
    /// Its subscription.
    pub subscription: Subscription,
    /// What it has used on the day that was asked for.
    pub usage: Usage,
    /// When it became known.
    pub created_at: DateTime<Utc>,
}

const ENSURE_TENANTS: &str = "-- ensure_tenants
INSERT INTO tenants (id) SELECT DISTINCT unnest($1::uuid[]) ON CONFLICT DO NOTHING";

const WEBHOOKS_VERSIONS: &str = "-- webhooks_versions
SELECT id, webhooks_version FROM tenants WHERE id = ANY($1)";

const TENANTS_BY_ID: &str = "-- tenants_by_id
SELECT t.id, t.plan, t.status, t.trial_ends_at, t.created_at, p.max_webhooks, p.events_per_minute, p.events_per_day,
    p.requests_per_minute, coalesce(u.events, 0) AS events, coalesce(u.requests, 0) AS requests
FROM tenants t JOIN plans p ON p.name = t.plan LEFT JOIN tenant_usage u ON u.tenant_id = t.id AND u.day = $2
WHERE t.id = ANY($1)";

const LIST_TENANTS: &str = "-- list_tenants
SELECT t.id, t.plan, t.status, t.trial_ends_at, t.created_at, p.max_webhooks, p.events_per_minute, p.events_per_day,
    p.requests_per_minute, coalesce(u.events, 0) AS events, coalesce(u.requests, 0) AS requests
FROM tenants t JOIN plans p ON p.name = t.plan LEFT JOIN tenant_usage u ON u.tenant_id = t.id AND u.day = $2
WHERE t.id > $1
ORDER BY t.id
LIMIT $3";

const LOCK_TENANT: &str = "-- lock_subscription
SELECT plan, status, trial_ends_at FROM tenants WHERE id = $1 FOR UPDATE";

const PUT_TENANT: &str = "-- put_tenant
INSERT INTO tenants (id, plan, status, trial_ends_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET plan = excluded.plan, status = excluded.status, trial_ends_at = excluded.trial_ends_at";

impl Store {
    /// Makes tenants known, on the trial plan. Those that are known stay as they are.
    pub async fn ensure_tenants(&self, tenants: &[TenantId]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        self.over_tenants().await?.query(ENSURE_TENANTS, &[&ids]).await?;
        Ok(())
    }

    /// How often the webhooks of each of these tenants have changed so far.
    pub async fn webhooks_versions(
        &self,
        tenants: &[TenantId],
    ) -> Result<HashMap<TenantId, i64>, StoreError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(WEBHOOKS_VERSIONS).await?, &[&ids]).await?;
        Ok(rows.iter().map(|row| (TenantId(row.get(0)), row.get(1))).collect())
    }

    /// Those of these tenants that are known, with what they have used that day.
    pub async fn tenants(&self, tenants: &[TenantId], day: NaiveDate) -> Result<Vec<Tenant>, StoreError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let rows = self.over_tenants().await?.query(TENANTS_BY_ID, &[&ids, &day]).await?;
        rows.iter().map(read_tenant).collect()
    }

    /// Every tenant, by id, from the one after `after`.
    pub async fn list_tenants(
        &self,
        after: Option<TenantId>,
        day: NaiveDate,
        limit: usize,
    ) -> Result<Vec<Tenant>, StoreError> {
        let after = after.map_or(Uuid::nil(), |tenant| tenant.0);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.over_tenants().await?.query(LIST_TENANTS, &[&after, &day, &limit]).await?;
        rows.iter().map(read_tenant).collect()
    }

    /// Makes a tenant known, or changes its subscription. Says whether there is a plan of that name.
    pub async fn put_tenant(
        &self,
        tenant: TenantId,
        plan: &PlanName,
        status: TenantStatus,
        trial_ends_at: Option<DateTime<Utc>>,
    ) -> Result<bool, StoreError> {
        let mut client = self.over_tenants().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(LOCK_TENANT).await?;
        let before = transaction.query_opt(&statement, &[&tenant.0]).await?;
        let before = before.map(|row| state(row.get(0), row.get(1), row.get(2))).unwrap_or_default();
        let after = state(plan.as_str(), status.code(), trial_ends_at);
        let statement = transaction.prepare_cached(PUT_TENANT).await?;
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&tenant.0, &plan.as_str(), &status.code(), &trial_ends_at];
        match transaction.execute(&statement, &parameters).await {
            Ok(_) => {
                self.log(&transaction, "tenant.put", tenant, Changes::between(&before, &after)).await?;
                transaction.commit().await?;
                Ok(true)
            }
            Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// As the API calls it.
fn state(plan: &str, status: &str, trial_ends_at: Option<DateTime<Utc>>) -> Value {
    json!({"plan": plan, "status": status, "trialEndsAt": trial_ends_at})
}

fn read_tenant(row: &Row) -> Result<Tenant, StoreError> {
    parse_tenant(row).map_err(StoreError::unreadable("tenants"))
}

fn parse_tenant(row: &Row) -> Result<Tenant, Invalid> {
    let plan: &str = row.get("plan");
    let status: &str = row.get("status");
    Ok(Tenant {
        id: TenantId(row.get("id")),
        subscription: Subscription {
            plan: plan.parse()?,
            status: status.parse()?,
            trial_ends_at: row.get("trial_ends_at"),
            limits: parse_limits(row),
        },
        usage: Usage { events: row.get("events"), requests: row.get("requests") },
        created_at: row.get("created_at"),
    })
}
