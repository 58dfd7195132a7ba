//! Audits by itself what was handed over, and schedules again what should be and is not. One dispatcher at a time does it.
//!
//! Nothing should ever be found: every step puts a delivery into its next place before it leaves the one before. This is for
//! the mistake in that, and for a database that was restored or edited.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use store::{AuditReport, Pace, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::upkeep::rest;

/// How often.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long an event may take until it is looked at: its first attempt is made, or its delivery is parked, long before.
const SETTLED_AFTER: TimeDelta = TimeDelta::minutes(2);
/// How far the very first audit looks back.
const FIRST_LOOK_BACK: TimeDelta = TimeDelta::hours(1);
/// The longest range of one audit.
const LONGEST_RANGE: TimeDelta = TimeDelta::minutes(10);
/// For how long nobody else audits.
const LEASE: TimeDelta = TimeDelta::minutes(10);
/// Findings that are logged one by one.
const LOGGED: usize = 20;

/// Audits until told to stop.
pub(crate) async fn run(
    store: Store,
    engine: std::sync::Arc<Engine>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let is_behind = match sweep(&store, engine.clock.now(), &stop).await {
            Ok(is_behind) => is_behind,
            Err(error) => {
                warn!(%error, "the audit waits for the database");
                false
            }
        };
        match store.audit_progress().await {
            Ok(Some(progress)) => metrics.set_audit(&progress),
            Ok(None) => {}
            Err(error) => warn!(%error, "what the audit came to could not be read"),
        }
        if !is_behind {
            rest(INTERVAL, &stop).await;
        }
    }
}

/// Says whether there is more to look at.
async fn sweep(store: &Store, now: DateTime<Utc>, stop: &CancellationToken) -> Result<bool, StoreError> {
    let Some(from) = store.begin_audit(now, now + LEASE, now - FIRST_LOOK_BACK).await? else {
        return Ok(false);
    };
    let newest = now - SETTLED_AFTER;
    let to = newest.min(from + LONGEST_RANGE).max(from);
    let audited = tokio::select! {
        audited = store.audit(from, to, Pace::Gentle) => audited.map(Some),
        () = stop.cancelled() => Ok(None),
    };
    let Ok(Some(report)) = audited else {
        // For another to begin it again at once, and not when the lease has run out.
        store.end_audit(from, &AuditReport::default(), 0).await?;
        return audited.map(|_| false);
    };
    let mut repaired = 0;
    if report.lost > 0 {
        for finding in report.findings.iter().take(LOGGED) {
            error!(
                tenant = %finding.tenant_id,
                webhook = %finding.key.webhook_id,
                event = %finding.key.event_id,
                problem = finding.problem.explanation(),
                "a delivery was lost and is scheduled again"
            );
        }
        repaired = store.repair(&report.findings, now).await?;
        error!(lost = report.lost, repaired, "the audit found lost deliveries");
    }
    // What one report has no room for is found again by the next.
    let until = if report.lost > repaired && repaired > 0 { from } else { to };
    store.end_audit(until, &report, repaired).await?;
    if report.events > 0 {
        info!(events = report.events, lost = report.lost, "audited");
    }
    Ok(until < newest)
}
