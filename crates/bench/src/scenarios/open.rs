//! Latency at steady rates. An event counts from when it should have been sent, so that a stall is seen in all of the
//! events that it held up. It begins when what other scenarios left behind is audited and written.
//!
//! A disk that others share stalls too: a tenth of a second makes the p99 of a round, by itself. So there are many rounds, of
//! which the median counts, and beside it stands what the disk did with nobody else at work, before and after.

use std::sync::Arc;
use std::time::Duration;

use crate::arrivals::{over_time, percentiles};
use crate::bench::{Answer, Bench};
use crate::disk::synced_writes;
use crate::load::open;
use crate::plot::{Chart, Line};
use crate::report::{Measured, short, thousands};
use crate::results::Results;

/// Events per second.
const RATES: [u32; 3] = [100, 300, 1000];
const ROUNDS: usize = 7;
const WARM_UP: Duration = Duration::from_secs(2);
const ROUND_TIME: Duration = Duration::from_secs(8);
const CONNECTIONS: usize = 64;

pub(crate) async fn run(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    bench.until_audited().await?;
    bench.checkpoint().await?;
    let mut disk = synced_writes(&bench.product.places.directory).await?;
    let tenant = bench.tenant(1, Answer::AtOnce).await?;
    let publisher = bench.publisher(&tenant)?;
    let mut lines = Vec::new();
    for rate in RATES {
        let publish = |bench: &Bench, time| {
            open(publisher.clone(), Arc::clone(&bench.sequence), rate, time, CONNECTIONS)
        };
        let warm_up = publish(bench, WARM_UP);
        bench.measure("warm-up", 1, warm_up).await?;
        let mut rounds = Vec::new();
        let mut points = Vec::new();
        for _ in 0..ROUNDS {
            let publishing = publish(bench, ROUND_TIME);
            let (round, arrivals) = bench.measure(&format!("open {rate}/s"), 1, publishing).await?;
            rounds.push(round);
            let from = arrivals.iter().map(|arrival| arrival.sent_at).min().unwrap_or_default();
            points = over_time(&arrivals, from)?;
        }
        results.add(Measured::median_of(&rounds));
        let points = points.iter().map(|(second, latency)| (*second as f64, latency.p99)).collect();
        lines.push(Line { label: format!("p99 at {rate}/s"), points });
    }
    disk.extend(synced_writes(&bench.product.places.directory).await?);
    let alone = percentiles(disk.iter().copied())?;
    results.find(format!(
        "the disk by itself, before and after: a synced write of 4 KiB takes p50 {} ms, p99 {} ms, p99.9 {} ms, \
         longest {} ms ({} of them)",
        short(alone.p50),
        short(alone.p99),
        short(alone.p999),
        short(disk.iter().max().copied().unwrap_or_default() as f64 / 1e3),
        thousands(disk.len() as f64)
    ));
    results.chart(Chart {
        name: "open".to_owned(),
        title: "Latency from publish to arrival, at steady rates".to_owned(),
        x_label: "second of the last round".to_owned(),
        y_label: "milliseconds".to_owned(),
        is_logarithmic: true,
        lines,
    });
    Ok(())
}
