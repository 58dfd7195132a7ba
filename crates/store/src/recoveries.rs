//! Jobs that make deliveries again, as they stand. What they do is in [`crate::recovery_steps`].

use std::str::FromStr;

use chrono::{DateTime, Utc};
use domain::{EventType, Invalid, TenantId, WebhookId};
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::audit_log::Changes;
use crate::error::is_duplicate;
use crate::{Lease, Store, StoreError};

/// Recoveries of one tenant that can run at a time.
pub const MAX_RECOVERIES_PER_TENANT: i64 = 5;

/// Which deliveries are to be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Of which kind.
    pub kind: RecoveryKind,
    /// Failed attempts begun, or events accepted, at this time or later.
    pub from: DateTime<Utc>,
    /// And before this time.
    pub to: DateTime<Utc>,
    /// Only events of this type.
    pub event_type: Option<EventType>,
    /// Deliveries a second.
    pub rate: u32,
}

/// Which kind of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryKind {
    /// Those that have failed for good, and have not succeeded since.
    Failed,
    /// Those of events that the webhook wants, and that were never made, or were cancelled when it was switched off.
    Missing,
}

/// How many deliveries there are to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoveryEstimate {
    /// So many; at least, if that is not exact.
    pub deliveries: u64,
    /// Whether all of the range was looked at.
    pub is_exact: bool,
}

/// A recovery as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Names it.
    pub id: Uuid,
    /// What it does.
    pub plan: RecoveryPlan,
    /// How many deliveries there were to be made when it was asked for.
    pub estimate: RecoveryEstimate,
    /// How far it is.
    pub state: RecoveryState,
    /// Deliveries it has made due.
    pub scheduled: i64,
    /// Deliveries it has found that needed it no more, or were not finished.
    pub skipped: i64,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    pub(crate) position: Position,
}

/// How far a recovery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryState {
    /// It has more to do.
    Running,
    /// It has done all.
    Done,
    /// It was told to stop.
    Cancelled,
    /// It could not go on, for this reason.
    Failed(String),
}

/// Why a recovery cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryEnd {
    /// The webhook is gone.
    WebhookDeleted,
    /// The webhook is switched off.
    WebhookDisabled,
    /// The tenant is suspended, or its trial has ended.
    SubscriptionInactive,
}

/// Why no recovery was begun.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// One of the webhook's is running.
    #[error("a recovery of the webhook is running")]
    OneIsRunning,
    /// The tenant has as many as can run at a time.
    #[error("{MAX_RECOVERIES_PER_TENANT} recoveries are running")]
    TooMany,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Up to where a recovery has come: which of it counts depends on the kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) at: DateTime<Utc>,
    pub(crate) event: String,
    pub(crate) batch: i64,
    pub(crate) in_batch: i32,
}

impl Position {
    pub(crate) fn start(plan: &RecoveryPlan) -> Self {
        Self { at: plan.from, event: String::new(), batch: 0, in_batch: -1 }
    }
}

impl RecoveryKind {
    /// Its name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }
}

impl FromStr for RecoveryKind {
    type Err = Invalid;

    fn from_str(code: &str) -> Result<Self, Invalid> {
        match code {
            "failed" => Ok(Self::Failed),
            "missing" => Ok(Self::Missing),
            _ => Err(Invalid::new("kind must be failed or missing")),
        }
    }
}

impl RecoveryState {
    /// Its name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }
}

impl RecoveryEnd {
    /// Its name.
    pub fn code(self) -> &'static str {
        match self {
            Self::WebhookDeleted => "webhook_deleted",
            Self::WebhookDisabled => "webhook_disabled",
            Self::SubscriptionInactive => "subscription_inactive",
        }
    }
}

/// What [`read_recovery`] reads.
macro_rules! recovery_columns {
    () => {
        "id, tenant_id, webhook_id, kind, range_from, range_to, event_type, rate, estimated, is_estimate_exact, state, reason,
    scheduled, skipped, created_at, ended_at, position_at, position_event, position_batch, position_in_batch"
    };
}

// Those of one tenant wait for each other here, so that the limit holds. They are counted by a statement of its own: this one
// would count those of before the wait.
const LOCK_TENANT: &str = "-- lock_tenant_for_recovery
SELECT id FROM tenants WHERE id = $1 FOR UPDATE";

const COUNT_RUNNING: &str = "-- count_running_recoveries
SELECT count(*) FROM recoveries WHERE tenant_id = $1 AND state = 'running'";

const INSERT_RECOVERY: &str = concat!(
    "-- insert_recovery
INSERT INTO recoveries (id, tenant_id, webhook_id, kind, range_from, range_to, event_type, rate, estimated,
    is_estimate_exact, created_at, next_at, position_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $5)
RETURNING ",
    recovery_columns!()
);

const GET_RECOVERY: &str = concat!(
    "-- get_recovery
SELECT ",
    recovery_columns!(),
    " FROM recoveries WHERE tenant_id = $1 AND webhook_id = $2 AND id = $3"
);

const LIST_RECOVERIES: &str = concat!(
    "-- list_recoveries
SELECT ",
    recovery_columns!(),
    " FROM recoveries WHERE tenant_id = $1 AND webhook_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4"
);

const CANCEL_RECOVERY: &str = "-- cancel_recovery
UPDATE recoveries SET state = 'cancelled', ended_at = $4
WHERE tenant_id = $1 AND webhook_id = $2 AND id = $3 AND state = 'running'";

const FORGET_RECOVERIES: &str = "-- forget_recoveries
DELETE FROM recoveries WHERE state <> 'running' AND ended_at < $1";

const CLAIM_RECOVERY: &str = concat!(
    "-- claim_recovery
UPDATE recoveries SET leased_by = $2, leased_until = $3 WHERE id = (
    SELECT id FROM recoveries WHERE state = 'running' AND next_at <= $1 AND leased_until < $1
    ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING ",
    recovery_columns!()
);

impl Store {
    /// Begins a recovery. The dispatchers do it.
    pub async fn begin_recovery(
        &self,
        plan: &RecoveryPlan,
        estimate: RecoveryEstimate,
        now: DateTime<Utc>,
    ) -> Result<Recovery, RecoveryError> {
        let mut client = self.of_tenant(plan.tenant_id).await?;
        let transaction = client.transaction().await.map_err(StoreError::from)?;
        let tenant: [&(dyn ToSql + Sync); 1] = [&plan.tenant_id.0];
        transaction.execute(LOCK_TENANT, &tenant).await.map_err(StoreError::from)?;
        let running = transaction.query_one(COUNT_RUNNING, &tenant).await.map_err(StoreError::from)?;
        if running.get::<_, i64>(0) >= MAX_RECOVERIES_PER_TENANT {
            return Err(RecoveryError::TooMany);
        }
        let row = transaction
            .query_one(
                INSERT_RECOVERY,
                &[
                    &Uuid::now_v7(),
                    &plan.tenant_id.0,
                    &plan.webhook_id.0,
                    &plan.kind.code(),
                    &plan.from,
                    &plan.to,
                    &plan.event_type.as_ref().map(EventType::as_str),
                    &i32::try_from(plan.rate).unwrap_or(i32::MAX),
                    &i64::try_from(estimate.deliveries).unwrap_or(i64::MAX),
                    &estimate.is_exact,
                    &now,
                ],
            )
            .await
            .map_err(begin_error)?;
        let begun = read_recovery(&row)?;
        let what = json!({"webhookId": plan.webhook_id.to_string(), "kind": plan.kind.code()});
        let changes = Changes::between(&Value::Null, &what);
        self.log(&transaction, "recovery.begun", &begun.id.to_string(), changes).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(begun)
    }

    /// One recovery of a webhook's.
    pub async fn recovery(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        id: Uuid,
    ) -> Result<Option<Recovery>, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let row = client.query_opt(GET_RECOVERY, &[&tenant.0, &webhook.0, &id]).await?;
        row.as_ref().map(read_recovery).transpose()
    }

    /// The recoveries of a webhook, newest first: at most `limit`, older than `before`.
    pub async fn recoveries(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<Recovery>, StoreError> {
        let before = before.unwrap_or(Uuid::max());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let client = self.of_tenant(tenant).await?;
        let rows = client.query(LIST_RECOVERIES, &[&tenant.0, &webhook.0, &before, &limit]).await?;
        rows.iter().map(read_recovery).collect()
    }

    /// Ends a recovery; what it has made due stays so. Says whether it was running.
    pub async fn cancel_recovery(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut client = self.of_tenant(tenant).await?;
        let transaction = client.transaction().await?;
        let is_cancelled =
            transaction.execute(CANCEL_RECOVERY, &[&tenant.0, &webhook.0, &id, &now]).await? > 0;
        if is_cancelled {
            let changes = Changes::between(&Value::Null, &json!({"webhookId": webhook.to_string()}));
            self.log(&transaction, "recovery.cancelled", &id.to_string(), changes).await?;
        }
        transaction.commit().await?;
        Ok(is_cancelled)
    }

    /// Drops recoveries that ended before a time.
    pub async fn forget_recoveries(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let client = self.connection().await?;
        Ok(client.execute(&client.prepare_cached(FORGET_RECOVERIES).await?, &[&before]).await?)
    }

    /// Takes the recovery on that has waited longest for its next step, if there is one that nobody is at.
    pub async fn claim_recovery(
        &self,
        now: DateTime<Utc>,
        lease: Lease,
    ) -> Result<Option<Recovery>, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(CLAIM_RECOVERY).await?;
        let row = client.query_opt(&statement, &[&now, &lease.holder, &lease.until]).await?;
        row.as_ref().map(read_recovery).transpose()
    }
}

fn begin_error(error: tokio_postgres::Error) -> RecoveryError {
    if is_duplicate(&error) {
        return RecoveryError::OneIsRunning;
    }
    RecoveryError::Store(error.into())
}

fn read_recovery(row: &Row) -> Result<Recovery, StoreError> {
    let unreadable = StoreError::unreadable("recoveries");
    let event_type: Option<&str> = row.get("event_type");
    let reason: Option<String> = row.get("reason");
    Ok(Recovery {
        id: row.get("id"),
        plan: RecoveryPlan {
            webhook_id: WebhookId(row.get("webhook_id")),
            tenant_id: TenantId(row.get("tenant_id")),
            kind: row.get::<_, &str>("kind").parse().map_err(&unreadable)?,
            from: row.get("range_from"),
            to: row.get("range_to"),
            event_type: event_type.map(str::parse).transpose().map_err(&unreadable)?,
            rate: u32::try_from(row.get::<_, i32>("rate")).unwrap_or(1),
        },
        estimate: RecoveryEstimate {
            deliveries: u64::try_from(row.get::<_, i64>("estimated")).unwrap_or_default(),
            is_exact: row.get("is_estimate_exact"),
        },
        state: match row.get("state") {
            "running" => RecoveryState::Running,
            "done" => RecoveryState::Done,
            "cancelled" => RecoveryState::Cancelled,
            _ => RecoveryState::Failed(reason.unwrap_or_default()),
        },
        scheduled: row.get("scheduled"),
        skipped: row.get("skipped"),
        created_at: row.get("created_at"),
        ended_at: row.get("ended_at"),
        position: Position {
            at: row.get("position_at"),
            event: row.get("position_event"),
            batch: row.get("position_batch"),
            in_batch: row.get("position_in_batch"),
        },
    })
}
