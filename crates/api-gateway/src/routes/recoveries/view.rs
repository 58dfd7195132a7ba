use serde::Serialize;
use store::{Recovery, RecoveryEstimate, RecoveryState};
use utoipa::ToSchema;

use crate::routes::webhooks::timestamp;

/// How many deliveries there are to be made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RecoveryEstimate)]
pub(crate) struct EstimateView {
    #[schema(example = 1042)]
    deliveries: u64,
    /// False: only the beginning of a long range was looked at, and there are so many at least.
    is_exact: bool,
}

/// A job that makes deliveries again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Recovery)]
pub(crate) struct RecoveryView {
    #[schema(format = Uuid)]
    id: String,
    #[schema(format = Uuid)]
    webhook_id: String,
    #[schema(example = "failed")]
    kind: &'static str,
    /// `running`, `done`, `cancelled`, or `failed`: see `reason`. Done means that all deliveries are scheduled; what becomes of
    /// each is in the history.
    #[schema(example = "running")]
    state: &'static str,
    /// Why it failed: `webhook_deleted`, `webhook_disabled` or `subscription_inactive`.
    reason: Option<String>,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    event_type: Option<String>,
    /// Deliveries a second.
    rate: u32,
    /// How many deliveries there were to be made when it was asked for.
    estimate: EstimateView,
    /// Deliveries that it has scheduled so far.
    scheduled: i64,
    /// Deliveries that it has looked at and left alone: made since, or not finished.
    skipped: i64,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
}

impl From<RecoveryEstimate> for EstimateView {
    fn from(estimate: RecoveryEstimate) -> Self {
        Self { deliveries: estimate.deliveries, is_exact: estimate.is_exact }
    }
}

impl From<Recovery> for RecoveryView {
    fn from(recovery: Recovery) -> Self {
        let plan = recovery.plan;
        Self {
            id: recovery.id.to_string(),
            webhook_id: plan.webhook_id.to_string(),
            kind: plan.kind.code(),
            state: recovery.state.code(),
            reason: match recovery.state {
                RecoveryState::Failed(reason) => Some(reason),
                RecoveryState::Running | RecoveryState::Done | RecoveryState::Cancelled => None,
            },
            from: timestamp(plan.from),
            to: timestamp(plan.to),
            event_type: plan.event_type.map(|event_type| event_type.to_string()),
            rate: plan.rate,
            estimate: recovery.estimate.into(),
            scheduled: recovery.scheduled,
            skipped: recovery.skipped,
            created_at: timestamp(recovery.created_at),
            ended_at: recovery.ended_at.map(timestamp),
        }
    }
}
