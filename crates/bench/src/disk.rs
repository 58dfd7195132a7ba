//! The disk by itself. RabbitMQ confirms and Postgres commits once what they wrote is on it: nothing arrives sooner than
//! that, and while the disk stalls nothing arrives at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::spawn_blocking;

/// How long it is measured.
const TIME: Duration = Duration::from_secs(10);
/// Between two writes: some 300 a second, as in the middle one of the steady rates.
const PAUSE: Duration = Duration::from_millis(3);
const BLOCK: [u8; 4096] = [0; 4096];

/// How long each of many small writes took to be on the disk that this directory is on, in microseconds.
pub(crate) async fn synced_writes(directory: &Path) -> anyhow::Result<Vec<u64>> {
    let path = directory.join("synced-writes");
    spawn_blocking(move || {
        let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let end = Instant::now() + TIME;
        let mut took = Vec::new();
        while Instant::now() < end {
            let began = Instant::now();
            file.write_all(&BLOCK)?;
            file.sync_data()?;
            took.push(began.elapsed().as_micros().try_into()?);
            sleep(PAUSE);
        }
        fs::remove_file(&path)?;
        Ok(took)
    })
    .await?
}
