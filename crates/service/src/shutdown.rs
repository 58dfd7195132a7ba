//! One token that says stop, from the first signal on.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A token that is cancelled by SIGTERM or SIGINT. A second signal ends the process at once.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping; a second signal ends the process at once");
        stop.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        warn!("ended by a second signal");
        std::process::exit(1);
    });
    Ok(token)
}

/// Waits for a task to end after it was told to, but not longer than `limit`. Says whether it ended well in time.
pub async fn join_within(name: &str, task: JoinHandle<()>, limit: Duration) -> bool {
    let abort = task.abort_handle();
    match timeout(limit, task).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(task = name, %error, "a task failed");
            false
        }
        Err(_) => {
            warn!(task = name, limit_ms = limit.as_millis(), "a task did not end in time");
            abort.abort();
            false
        }
    }
}
