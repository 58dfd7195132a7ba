//! How long a webhook's history takes to show when there is much of it.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

use crate::arrivals::percentiles;
use crate::bench::{Answer, Bench, Scale};
use crate::http::Connection;
use crate::output::progress;
use crate::report::{short, thousands};
use crate::results::Results;

const WEBHOOKS: usize = 100;
const DAYS: i32 = 29;
const CALLS: usize = 2000;

pub(crate) async fn run(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let count = match bench.scale {
        Scale::Small => 1_000_000,
        Scale::Full => 10_000_000,
    };
    let tenant = bench.tenant(WEBHOOKS, Answer::AtOnce).await?;
    bench.database.insert_history(tenant.id, &tenant.webhooks, count, DAYS).await?;
    bench.database.analyze().await?;
    progress("statistics are up to date");
    let mut connection = Connection::open(bench.product.gateway_address).await?;
    let mut micros = Vec::with_capacity(CALLS);
    let mut bytes = 0;
    for webhook in tenant.webhooks.iter().cycle().take(CALLS) {
        let request = bench.product.history_request(&tenant.token, *webhook);
        let began = Instant::now();
        let (status, body) = connection.exchange(&request).await?;
        micros.push(whole_micros(began.elapsed()));
        ensure!(status == 200, "the history answers {status}");
        bytes = body.len();
    }
    let latency = percentiles(micros)?;
    results.find(format!(
        "history of {} attempts over {DAYS} days: a page of {bytes} bytes takes p50 {} ms, p99 {} ms, p99.9 {} ms ({CALLS} calls)",
        thousands(f64::from(count)),
        short(latency.p50),
        short(latency.p99),
        short(latency.p999)
    ));
    Ok(())
}

fn whole_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
