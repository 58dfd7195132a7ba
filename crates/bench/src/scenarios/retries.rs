//! Many unfinished deliveries, of which one in a hundred falls due while new events come in: what does taking them on cost,
//! and does it slow first attempts? These are compared with the mean of the phases before, and after all is forgotten.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::sleep;

use crate::arrivals::{Arrival, median};
use crate::bench::{Answer, Bench, Scale, Tenant, variable};
use crate::database::{Database, Unfinished};
use crate::load::open;
use crate::output::progress;
use crate::report::{Measured, short, thousands};
use crate::results::Results;

/// Whose deliveries wait, one webhook each.
const TENANTS: u32 = 10;
const RATE: u32 = 300;
const CONNECTIONS: usize = 64;
const PHASE: Duration = Duration::from_secs(15);
/// Phases before, beside, and after.
const ROUNDS: usize = 3;
/// How long Postgres logs the duration of each statement.
const LOG_TIME: Duration = Duration::from_secs(5);
/// Over how long the due ones fall due: longer than all that is measured.
const DUE_OVER_SECONDS: f64 = 60.0;
const LATER_SECONDS: f64 = 7200.0;

pub(crate) async fn run(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let count = match bench.scale {
        Scale::Small => 100_000,
        Scale::Full => 1_000_000,
    };
    let good = bench.tenant(1, Answer::AtOnce).await?;
    let before = phases(bench, &good, "retries, before").await?;
    let mut waiting = Vec::new();
    for _ in 0..TENANTS {
        waiting.push(bench.tenant(1, Answer::AtOnce).await?);
    }
    let each = count / TENANTS;
    for tenant in &waiting {
        insert(bench, tenant, "later-", each - each / 100, LATER_SECONDS).await?;
    }
    bench.database.analyze().await?;
    // As many events in so short a time are only here: their audit is not to be measured.
    bench.until_audited().await?;
    for tenant in &waiting {
        insert(bench, tenant, "soon-", each / 100, 0.0).await?;
    }
    // What the preparation left to be written is not to be measured.
    bench.checkpoint().await?;
    progress(&format!(
        "{count} unfinished deliveries inserted, of which 1 % fall due over {DUE_OVER_SECONDS} s"
    ));
    let beside = phases(bench, &good, "retries, beside").await?;
    let claims = claim_durations(bench).await?;
    for tenant in &waiting {
        bench.database.forget_deliveries(tenant.id).await?;
    }
    bench.rest().await?;
    bench.database.analyze().await?;
    let after = phases(bench, &good, "retries, after").await?;
    results.find(format!(
        "{} unfinished deliveries, 1 % due: a claim takes {} ms (median of {}), p99 of first attempts {}× of before and after",
        thousands(f64::from(count)),
        short(median(&claims)),
        claims.len(),
        short(beside.p99_ms / f64::midpoint(before.p99_ms, after.p99_ms))
    ));
    for row in [before, beside, after] {
        results.add(row);
    }
    Ok(())
}

async fn insert(
    bench: &mut Bench,
    tenant: &Tenant,
    prefix: &str,
    count: u32,
    due_in: f64,
) -> anyhow::Result<()> {
    let first = bench.take_sequence(count);
    let rows = Unfinished {
        tenant: tenant.id,
        webhook: tenant.webhooks[0],
        prefix,
        first,
        count,
        due_in_seconds: due_in,
        due_over_seconds: DUE_OVER_SECONDS,
    };
    bench.database.insert_unfinished(&rows).await
}

async fn phases(bench: &mut Bench, good: &Tenant, name: &str) -> anyhow::Result<Measured> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let publisher = bench.publisher(good)?;
        let publishing = open(publisher, Arc::clone(&bench.sequence), RATE, PHASE, CONNECTIONS);
        let is_good = |arrival: &Arrival| good.hooks.contains(&arrival.hook);
        rounds.push(bench.measure_some(name, 1, publishing, is_good).await?.0);
    }
    Ok(Measured::median_of(&rounds))
}

/// How long each claim of due deliveries took Postgres, in milliseconds, by its own log.
async fn claim_durations(bench: &Bench) -> anyhow::Result<Vec<f64>> {
    let superuser = Database::connect(&variable("POSTRIDER_TEST_DATABASE_URL")?).await?;
    let log = bench.product.places.directory.join("log/postgres.log");
    let before = fs::metadata(&log).with_context(|| format!("there is no {}", log.display()))?.len();
    superuser.log_durations(true).await?;
    sleep(LOG_TIME).await;
    superuser.log_durations(false).await?;
    let text = fs::read(&log)?;
    let new = String::from_utf8_lossy(text.get(usize::try_from(before)?..).unwrap_or_default()).into_owned();
    let claims: Vec<f64> = new.lines().filter_map(duration_of_claim).collect();
    ensure!(!claims.is_empty(), "{} tells of no claim", log.display());
    Ok(claims)
}

/// Reads a line like `… LOG:  duration: 0.529 ms  execute s5: -- claim_due`.
fn duration_of_claim(line: &str) -> Option<f64> {
    let (before, statement) = line.split_once(" ms  execute ")?;
    if !statement.ends_with("-- claim_due") {
        return None;
    }
    before.rsplit_once(' ')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_claims_are_timed() {
        let line =
            "2026-01-01 00:00:00.000 UTC [7] postrider LOG:  duration: 0.529 ms  execute s5: -- claim_due";
        assert_eq!(duration_of_claim(line), Some(0.529));
        assert_eq!(duration_of_claim(&line.replace("claim_due", "record")), None);
        assert_eq!(duration_of_claim(&line.replace("execute", "bind")), None);
    }
}
