//! Many tenants with many webhooks: how long a dispatcher takes to start, what it needs, and how fast it is when every
//! event is of another tenant, the first time and once it knows them.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::bench::{Answer, Bench, Scale};
use crate::broker::Publishing;
use crate::output::progress;
use crate::report::{short, thousands};
use crate::results::Results;

const WEBHOOKS_PER_TENANT: usize = 10;
const PUBLISH_TIME: Duration = Duration::from_secs(60);

pub(crate) async fn run(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let count = match bench.scale {
        Scale::Small => 1_000,
        Scale::Full => 10_000,
    };
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
    let publishing = Publishing {
        tenants,
        events_per_message: 64,
        outstanding: 16,
        duration: PUBLISH_TIME,
        most: count,
        sequence: Arc::clone(&bench.sequence),
    };
    let broker = bench.broker_for_publishing().await?;
    for name in ["tenants, first event of each", "tenants, second event of each"] {
        let (row, _) = bench.measure(name, WEBHOOKS_PER_TENANT, broker.publish(publishing.clone())).await?;
        let megabytes = row.peak_rss_mb.get("dispatcher").copied().unwrap_or_default();
        results.find(format!(
            "{name}: {} deliveries/s, dispatcher at most {} MB",
            thousands(row.deliveries_per_second),
            short(megabytes)
        ));
        results.add(row);
        bench.rest().await?;
    }
    results.find(format!(
        "{} tenants with {} webhooks: a dispatcher is ready after {} ms",
        thousands(count as f64),
        thousands((count * WEBHOOKS_PER_TENANT) as f64),
        took.as_millis()
    ));
    Ok(())
}
