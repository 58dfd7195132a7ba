//! What is measured.

mod isolation;
mod open;
mod throughput;

use clap::ValueEnum;

use crate::bench::Bench;
use crate::output::heading;
use crate::results::Results;

/// A scenario, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Signed requests of 1 KB straight to the receiver: what everything else is compared with
    Floor,
    /// 64 publishers over REST, one event of 1 KB a request, each waiting for its answer; 16 tenants
    Closed,
    /// The same by one tenant with one webhook
    Single,
    /// 100, 300 and 1,000 events/s whatever the answers: latency from publish to arrival
    Open,
    /// One tenant's latency while another's receivers hang, or 100,000 of its deliveries fall due at once
    Isolation,
}

/// The scenarios asked for, or all.
pub(crate) fn in_order(asked: &[Scenario]) -> Vec<Scenario> {
    let all = Scenario::value_variants().iter().copied();
    all.filter(|scenario| asked.is_empty() || asked.contains(scenario)).collect()
}

/// Runs one, and adds what it finds.
pub(crate) async fn run(scenario: Scenario, bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let value = scenario.to_possible_value();
    heading(value.as_ref().map_or("", |value| value.get_name()));
    match scenario {
        Scenario::Floor => throughput::floor(bench, results).await,
        Scenario::Closed => throughput::closed(bench, results).await,
        Scenario::Single => throughput::single(bench, results).await,
        Scenario::Open => open::run(bench, results).await,
        Scenario::Isolation => isolation::run(bench, results).await,
    }
}
