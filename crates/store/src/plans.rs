use domain::{Invalid, Limits, PlanName, Rate};
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::audit_log::Changes;
use crate::{Store, StoreError};

/// A plan, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Names it.
    pub name: PlanName,
    /// What it allows.
    pub limits: Limits,
    /// Tenants that are on it.
    pub tenants: i64,
}

/// What became of a plan that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanDeletion {
    /// It is gone.
    Deleted,
    /// There is none of that name.
    Unknown,
    /// Tenants are on it.
    InUse,
}

const LIST_PLANS: &str = "-- list_plans
SELECT p.*, (SELECT count(*) FROM tenants t WHERE t.plan = p.name) AS tenants FROM plans p ORDER BY p.name";

const PUT_PLAN: &str = "-- put_plan
INSERT INTO plans (name, max_webhooks, events_per_minute, events_per_day, requests_per_minute) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO UPDATE SET max_webhooks = excluded.max_webhooks, events_per_minute = excluded.events_per_minute,
    events_per_day = excluded.events_per_day, requests_per_minute = excluded.requests_per_minute
RETURNING (xmax = 0) AS is_new";

const LOCK_PLAN: &str = "-- lock_plan
SELECT * FROM plans WHERE name = $1 FOR UPDATE";

const DELETE_PLAN: &str = "-- delete_plan
DELETE FROM plans WHERE name = $1";

impl Store {
    /// Every plan, by name.
    pub async fn plans(&self) -> Result<Vec<Plan>, StoreError> {
        let rows = self.over_tenants().await?.query(LIST_PLANS, &[]).await?;
        rows.iter().map(|row| parse_plan(row).map_err(StoreError::unreadable("plans"))).collect()
    }

    /// Makes a plan, or changes what it allows. Says whether it is new.
    pub async fn put_plan(&self, name: &PlanName, limits: &Limits) -> Result<bool, StoreError> {
        let rate = |rate: Option<Rate>| rate.map(|rate| saturated(rate.calls_per_minute()));
        let per_day = limits.events_per_day.map(|events| i64::try_from(events).unwrap_or(i64::MAX));
        let mut client = self.over_tenants().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(LOCK_PLAN).await?;
        let before = transaction.query_opt(&statement, &[&name.as_str()]).await?;
        let row = transaction
            .query_one(
                &transaction.prepare_cached(PUT_PLAN).await?,
                &[
                    &name.as_str(),
                    &saturated(limits.webhooks),
                    &rate(limits.events_per_minute),
                    &per_day,
                    &rate(limits.requests_per_minute),
                ],
            )
            .await?;
        let before = before.as_ref().map(parse_limits);
        self.log(&transaction, "plan.put", name, Changes::between(&state(before), &state(Some(*limits))))
            .await?;
        transaction.commit().await?;
        Ok(row.get("is_new"))
    }

    /// Deletes a plan that no tenant is on.
    pub async fn delete_plan(&self, name: &PlanName) -> Result<PlanDeletion, StoreError> {
        let mut client = self.over_tenants().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(DELETE_PLAN).await?;
        match transaction.execute(&statement, &[&name.as_str()]).await {
            Ok(0) => Ok(PlanDeletion::Unknown),
            Ok(_) => {
                self.log(&transaction, "plan.deleted", name, Changes::default()).await?;
                transaction.commit().await?;
                Ok(PlanDeletion::Deleted)
            }
            Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => Ok(PlanDeletion::InUse),
            Err(error) => Err(error.into()),
        }
    }
}

/// As the API calls it.
fn state(limits: Option<Limits>) -> Value {
    limits.map_or(Value::Null, |limits| {
        json!({
            "maxWebhooks": limits.webhooks,
            "eventsPerMinute": limits.events_per_minute.map(Rate::calls_per_minute),
            "eventsPerDay": limits.events_per_day,
            "requestsPerMinute": limits.requests_per_minute.map(Rate::calls_per_minute),
        })
    })
}

fn saturated(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn parse_plan(row: &Row) -> Result<Plan, Invalid> {
    let name: &str = row.get("name");
    Ok(Plan { name: name.parse()?, limits: parse_limits(row), tenants: row.get("tenants") })
}

/// The limits in a row that has the columns of a plan.
pub(crate) fn parse_limits(row: &Row) -> Limits {
    let count = |column| row.get::<_, Option<i32>>(column).and_then(|value| u32::try_from(value).ok());
    Limits {
        webhooks: count("max_webhooks").unwrap_or(0),
        events_per_minute: count("events_per_minute").map(Rate::per_minute),
        events_per_day: row
            .get::<_, Option<i64>>("events_per_day")
            .and_then(|value| u64::try_from(value).ok()),
        requests_per_minute: count("requests_per_minute").map(Rate::per_minute),
    }
}
