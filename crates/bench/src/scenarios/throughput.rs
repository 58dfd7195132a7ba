//! How many events a second, and at what cost. Each figure is the median of short rounds; before each round the floor is
//! measured anew, so that a ratio is of one moment of the machine's.

use std::sync::Arc;
use std::time::Duration;

use crate::bench::{Answer, Bench, Tenant};
use crate::load::{Publisher, closed as closed_loop};
use crate::report::Measured;
use crate::results::Results;

const ROUNDS: usize = 3;
const FLOOR_TIME: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(2);
const ROUND_TIME: Duration = Duration::from_secs(6);
/// Publishers at a time.
const PUBLISHERS: usize = 64;
/// Tenants that publish, with a webhook each.
const TENANTS: usize = 16;

pub(crate) async fn floor(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(bench.floor(FLOOR_TIME).await?.1);
    }
    results.add(Measured::median_of(&rounds));
    Ok(())
}

pub(crate) async fn closed(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    by_tenants(bench, results, "closed", TENANTS).await
}

pub(crate) async fn single(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    by_tenants(bench, results, "single", 1).await
}

async fn by_tenants(
    bench: &mut Bench,
    results: &mut Results,
    name: &str,
    tenants: usize,
) -> anyhow::Result<()> {
    let mut all: Vec<Tenant> = Vec::new();
    for _ in 0..tenants {
        all.push(bench.tenant(1, Answer::AtOnce).await?);
    }
    let publishers: Vec<Publisher> =
        (0..PUBLISHERS).map(|number| bench.publisher(&all[number % tenants])).collect::<Result<_, _>>()?;
    let publish = |bench: &Bench, time| closed_loop(publishers.clone(), Arc::clone(&bench.sequence), time);
    let warm_up = publish(bench, WARM_UP);
    bench.measure(name, 1, warm_up).await?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        bench.rest().await?;
        let (floor_per_second, _) = bench.floor(FLOOR_TIME).await?;
        let publishing = publish(bench, ROUND_TIME);
        let (mut round, _) = bench.measure(name, 1, publishing).await?;
        round.set_floor(floor_per_second, round.deliveries_per_second);
        rounds.push(round);
    }
    bench.rest().await?;
    results.add(Measured::median_of(&rounds));
    Ok(())
}
