use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a test waits for something that must come. Machines can be slow; a test that passes never waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until `look` gives something. For states that nothing announces, such as rows of a table.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not seen within {} s: {what}", PATIENCE.as_secs());
        sleep(Duration::from_millis(20)).await;
    }
}
