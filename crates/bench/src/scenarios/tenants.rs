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
use crate::scenarios::throughput::rounds_over_amqp;

const WEBHOOKS_PER_TENANT: usize = 10;
const PUBLISH_TIME: Duration = Duration::from_secs(60);
/// Those that publish in the empty system, to as many webhooks each: their receivers are on all hosts that there are.
const FEW: usize = 16;
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
    let publishing = |tenants: &[Uuid], sequence| Publishing {
        tenants: tenants.to_vec(),
        events_per_message: 64,
        outstanding: 16,
        duration: PUBLISH_TIME,
        most: count,
        sequence,
    };
    let of_few = publishing(&few, Arc::clone(&bench.sequence));
    let empty =
        rounds_over_amqp(bench, "tenants, few in the empty system", WEBHOOKS_PER_TENANT, &of_few).await?;

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
    let broker = bench.broker_for_publishing().await?;
    let first = once(bench, "tenants, first event of each", &broker, &of_all).await?;
    let second = once(bench, "tenants, second event of each", &broker, &of_all).await?;
    let full =
        rounds_over_amqp(bench, "tenants, few in the full system", WEBHOOKS_PER_TENANT, &of_few).await?;
    for (row, is_judged) in [(first, false), (second, true), (full, true)] {
        // By the floor of its time: minutes lie in between, and the machine's speed drifts.
        let ratio = row.floor_ratio.unwrap_or_default() / empty.floor_ratio.unwrap_or(f64::INFINITY);
        results.find(format!(
            "{}: {} deliveries/s, of the floor {}× the empty system's part; dispatcher at most {} MiB{}",
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

/// Each of the tenants publishes once. There is no second first time, so this is one round.
async fn once(
    bench: &mut Bench,
    name: &str,
    broker: &Broker,
    publishing: &Publishing,
) -> anyhow::Result<Measured> {
    let publishing = broker.publish(publishing.clone());
    let measured = bench.measure_by_floor(name, WEBHOOKS_PER_TENANT, publishing).await?;
    bench.rest().await?;
    Ok(measured)
}
