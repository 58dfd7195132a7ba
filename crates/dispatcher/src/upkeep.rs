//! What has to be done now and then: leases renewed, overlong waits ended, partitions made and dropped.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use domain::Clock;
use store::{Lease, Store};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::recorder::OpenBatches;

/// How often deliveries that wait in memory are looked at.
const PARK_INTERVAL: Duration = Duration::from_millis(100);
/// How often the health of webhooks is read.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// How far back each time.
const HEALTH_OVERLAP: TimeDelta = TimeDelta::seconds(30);
/// How long it is kept that a webhook has recovered.
const HEALTHY_KEPT: TimeDelta = TimeDelta::days(1);
/// How often what waits is counted.
const WATCH_INTERVAL: Duration = Duration::from_secs(15);
/// How long the state of a session is kept of which nothing is heard.
const SESSIONS_KEPT: TimeDelta = TimeDelta::days(365);
/// How long the audit log is kept.
const AUDIT_LOG_KEPT: TimeDelta = TimeDelta::days(400);
/// How often partitions are looked at.
const PARTITION_INTERVAL: Duration = Duration::from_secs(3600);
/// How soon again after that failed.
const PARTITION_RETRY: Duration = Duration::from_secs(30);
/// Partitions made ahead.
const DAYS_AHEAD: u32 = 7;

/// Parks what has waited in memory for too long.
pub(crate) async fn park_overdue(engine: Arc<Engine>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        engine.park_overdue().await;
        rest(PARK_INTERVAL, &stop).await;
    }
}

/// Keeps the leases of batches that stay open for long, which they do while the database is away.
///
/// Holds no engine: it outlives it, until the last result is written down.
pub(crate) async fn renew_leases(
    store: Store,
    holder: Uuid,
    clock: Arc<dyn Clock>,
    open_batches: Arc<OpenBatches>,
    lease: Duration,
    end: CancellationToken,
) {
    while !end.is_cancelled() {
        rest(lease / 6, &end).await;
        let old = Instant::now().checked_sub(lease / 6).map(|since| open_batches.older_than(since));
        let batches = old.unwrap_or_default();
        if batches.is_empty() {
            continue;
        }
        let until = clock.now() + lease;
        if let Err(error) = store.renew_batches(&batches, Lease { holder, until }).await {
            warn!(%error, batches = batches.len(), "leases could not be renewed");
        }
    }
}

/// Learns from the other dispatchers how webhooks are doing.
pub(crate) async fn follow_health(store: Store, engine: Arc<Engine>, stop: CancellationToken) {
    // At first everything that is known, then what is new; some of it twice, because clocks and commits differ.
    let mut since = DateTime::UNIX_EPOCH;
    while !stop.is_cancelled() {
        let now = engine.clock.now();
        match store.health_since(since).await {
            Ok(changes) => {
                engine.gates.learn(changes);
                let _ = engine.health_known.set(()); // it may be already
                since = now - HEALTH_OVERLAP;
            }
            Err(error) => debug!(%error, "how webhooks are doing could not be read"),
        }
        rest(HEALTH_INTERVAL, &stop).await;
    }
}

/// Reads for the metrics what waits in the database, and for how many days there are partitions.
pub(crate) async fn watch_database(
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let now = clock.now();
        let backlog = store.backlog(now).await;
        metrics.set_backlog(backlog.as_ref().ok(), now);
        let days = store.partition_days_ahead(now.date_naive()).await;
        metrics.set_partitions_ahead(days.as_ref().ok().copied());
        if let Some(error) = backlog.err().or(days.err()) {
            debug!(%error, "what waits in the database could not be read");
        }
        rest(WATCH_INTERVAL, &stop).await;
    }
}

/// Makes partitions ahead of their days and drops those past retention.
pub(crate) async fn maintain_partitions(
    store: Store,
    engine: Arc<Engine>,
    retention_days: u32,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let now = engine.clock.now();
        let today = now.date_naive();
        if let Err(error) = store.forget_healthy(now - HEALTHY_KEPT).await {
            warn!(%error, "old health could not be dropped");
        }
        if let Err(error) = store.forget_sessions(now - SESSIONS_KEPT).await {
            warn!(%error, "old sessions could not be dropped");
        }
        if let Err(error) = store.forget_audit_log(now - AUDIT_LOG_KEPT).await {
            warn!(%error, "old entries of the audit log could not be dropped");
        }
        if let Err(error) = store.forget_idempotency_keys(now - domain::IDEMPOTENCY_KEYS_KEPT).await {
            warn!(%error, "old idempotency keys could not be dropped");
        }
        // With the days of the events they were about.
        if let Err(error) = store.forget_recoveries(now - TimeDelta::days(retention_days.into())).await {
            warn!(%error, "old recoveries could not be dropped");
        }
        let wait = match store.maintain_partitions(today, DAYS_AHEAD, retention_days).await {
            Ok(report) => {
                if report.created + report.dropped > 0 {
                    info!(created = report.created, dropped = report.dropped, "partitions maintained");
                }
                if report.default_in_use {
                    warn!("rows are in a default partition: a day's partition was missing");
                }
                PARTITION_INTERVAL
            }
            Err(error) => {
                warn!(%error, "partitions could not be maintained");
                PARTITION_RETRY
            }
        };
        rest(wait, &stop).await;
    }
}

/// Waits, but not beyond being told to stop.
pub(crate) async fn rest(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = sleep(time) => {}
        () = stop.cancelled() => {}
    }
}
