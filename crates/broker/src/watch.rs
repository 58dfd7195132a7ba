use std::time::Duration;

use domain::Backoff;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::BrokerConfig;

/// How often the queues are looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long that may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps the metrics of the queues current, over a connection of its own, until told to stop: for a process that consumes
/// nothing. Consumers do it by themselves.
pub async fn watch_queues(config: BrokerConfig, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        if let Ok((connection, channel)) = config.connect("monitor").await {
            backoff.reset();
            while let Ok(Ok(())) = timeout(TIMEOUT, config.declare(&channel)).await {
                tokio::select! {
                    () = sleep(INTERVAL) => {}
                    () = stop.cancelled() => break,
                }
            }
            let _ = timeout(TIMEOUT, connection.close(200, "done".into())).await;
        }
        config.metrics.forget_queues();
        let wait = backoff.next(rand::random());
        debug!(wait_ms = wait.as_millis(), "the queues are not looked at");
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
}
