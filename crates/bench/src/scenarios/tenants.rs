//! Many tenants with many webhooks: how long a dispatcher takes to start, what it needs, and how fast it is. Few tenants
//! publish in the empty system, and again in the full one; in between each of the many publishes once that the dispatcher
//! does not know it yet, and then once more.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::bench::{Answer, Bench, Scale};
use crate::broker::{Broker, Publishing};
use crate::output::progress;
use crate::report::{Measured, short, thousands};
use crate::results::Results;

const WEBHOOKS_PER_TENANT: usize = 10;
const PUBLISH_TIME: Duration = Duration::from_secs(60);
/// Those that publish in the empty system, to as many webhooks each: their receivers are on all hosts that there are.
const FEW: usize = 16;
const ROUNDS: usize = 3;
/// What the rate may fall by from the empty system's.
const RATE_LIMIT: f64 = 0.15;

pub(crate) async fn run(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let count = match bench.scale {
        Scale::Small => 1_000,
        Scale::Full => 10_000,
    };
    let mut few = Vec::with_capacity(FEW);
    for _ in 0..FEW {
        few.push(bench.tenant(WEBHOOKS_PER_TENANT, Answer::AtOnce).await?.id);
    }
    let broker = bench.broker_for_publishing().await?;
    let publishing = |tenants: &[Uuid], sequence| Publishing {
        tenants: tenants.to_vec(),
        events_per_message: 64,
        outstanding: 16,
        duration: PUBLISH_TIME,
        most: count,
        sequence,
    };
    let of_few = publishing(&few, Arc::clone(&bench.sequence));
    let empty = rounds(bench, "tenants, few in the empty system", &broker, &of_few, ROUNDS).await?;

    let tenants: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    let mut urls = Vec::with_capacity(count * WEBHOOKS_PER_TENANT);
    for _ in 0..count * WEBHOOKS_PER_TENANT {
        let hook = bench.next_hook();
        urls.push(bench.hook_url(hook, Answer::AtOnce));
    }
    bench.database.insert_tenants(&tenants, &urls).await?;
    bench.database.analyze().await?;
    progress(&format!("{count} tenants with {} webhooks inserted", urls.len()));
    bench.set_dispatchers(0).await?;
    let took = bench.set_dispatchers(1).await?;
    let of_all = publishing(&tenants, Arc::clone(&bench.sequence));
    let first = rounds(bench, "tenants, first event of each", &broker, &of_all, 1).await?;
    let second = rounds(bench, "tenants, second event of each", &broker, &of_all, 1).await?;
    let full = rounds(bench, "tenants, few in the full system", &broker, &of_few, ROUNDS).await?;
    for (row, is_judged) in [(first, false), (second, true), (full, true)] {
        let ratio = row.deliveries_per_second / empty.deliveries_per_second;
        results.find(format!(
            "{}: {} deliveries/s, {} of the empty system's; dispatcher at most {} MB{}",
            row.scenario,
            thousands(row.deliveries_per_second),
            short(ratio),
            short(row.peak_rss_mb.get("dispatcher").copied().unwrap_or_default()),
            match (is_judged, ratio >= 1.0 - RATE_LIMIT) {
                (false, _) => "",
                (true, true) => "; limit 0.85: kept",
                (true, false) => "; limit 0.85: NOT kept",
            }
        ));
        results.add(row);
    }
    results.add(empty);
    results.find(format!(
        "{} tenants with {} webhooks: a dispatcher is ready after {} ms",
        thousands(count as f64),
        thousands((count * WEBHOOKS_PER_TENANT) as f64),
        took.as_millis()
    ));
    Ok(())
}

/// The median of some rounds, after one that is not counted if there are several.
async fn rounds(
    bench: &mut Bench,
    name: &str,
    broker: &Broker,
    publishing: &Publishing,
    count: usize,
) -> anyhow::Result<Measured> {
    let mut rounds = Vec::new();
    for round in 0..if count > 1 { count + 1 } else { 1 } {
        let (measured, _) =
            bench.measure(name, WEBHOOKS_PER_TENANT, broker.publish(publishing.clone())).await?;
        bench.rest().await?;
        if count == 1 || round > 0 {
            rounds.push(measured);
        }
    }
    Ok(Measured::median_of(&rounds))
}
