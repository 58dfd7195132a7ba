//! As many requests under way as one dispatcher makes at a time, all to receivers that never answer: what it needs of memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::bench::{Answer, Bench};
use crate::broker::Publishing;
use crate::output::progress;
use crate::report::{Measured, short, thousands};
use crate::results::Results;
use crate::usage::difference;

/// `POSTRIDER_MAX_IN_FLIGHT`, as it is shipped.
const MOST: usize = 10_000;
const TENANTS: usize = 40;
const WEBHOOKS: usize = 10;
/// After an event of each tenant: their requests then come no faster than a dispatcher finds them to be slow.
const PAUSE: Duration = Duration::from_millis(200);
/// With [`SETTLING`] less than the deadline of an attempt, so that whatever has arrived is still under way.
const LIMIT: Duration = Duration::from_secs(12);
/// Until the dispatcher knows of all that they are stuck, and its memory has been looked at.
const SETTLING: Duration = Duration::from_millis(2_500);
/// What a dispatcher may need, in MiB.
const MEMORY_LIMIT: f64 = 200.0;

pub(crate) async fn run(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let mut tenants = Vec::with_capacity(TENANTS);
    for _ in 0..TENANTS {
        tenants.push(bench.tenant(WEBHOOKS, Answer::Never).await?);
    }
    // A fresh one: what others left in its memory does not count.
    bench.set_dispatchers(0).await?;
    bench.set_dispatchers(1).await?;
    bench.receiver.take().await?;
    bench.usage.reset_peak();
    let before = bench.usage.cpu_milliseconds();
    let began = Instant::now();
    let broker = bench.broker_for_publishing().await?;
    let (mut published, mut arrivals) = (0, Vec::new());
    while arrivals.len() < MOST && began.elapsed() < LIMIT {
        let publishing = Publishing {
            tenants: tenants.iter().map(|tenant| tenant.id).collect(),
            events_per_message: 1,
            outstanding: TENANTS,
            duration: LIMIT,
            most: TENANTS,
            sequence: Arc::clone(&bench.sequence),
        };
        published += broker.publish(publishing).await?.accepted.len();
        sleep(PAUSE).await;
        arrivals.extend(bench.receiver.take().await?);
    }
    let took = began.elapsed();
    sleep(SETTLING).await;
    progress(&format!("{} requests under way after {:.1} s", arrivals.len(), took.as_secs_f64()));
    let mut row = Measured {
        scenario: "in flight".to_owned(),
        events: published,
        deliveries: arrivals.len(),
        seconds: took.as_secs_f64(),
        ..Measured::default()
    };
    let peak = bench.usage.peak_megabytes();
    let megabytes = peak.get("dispatcher").copied().unwrap_or_default();
    row.set_usage(&difference(&bench.usage.cpu_milliseconds(), &before), 0, 0, peak);
    row.note("under_way", arrivals.len());
    results.add(row);
    let kept = arrivals.len() >= MOST && megabytes <= MEMORY_LIMIT;
    results.find(format!(
        "{} requests under way at once: dispatcher at most {} MiB (limit {MEMORY_LIMIT}): {}",
        thousands(arrivals.len() as f64),
        short(megabytes),
        if kept { "kept" } else { "NOT kept" }
    ));
    bench.put_away(&tenants, Answer::Never).await
}
