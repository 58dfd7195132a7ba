//! What is measured.

mod backlog;
mod history;
mod in_flight;
mod isolation;
mod open;
mod retries;
mod tenants;
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
    /// 64 publishers over REST, 64 events of 1 KB a request; 16 tenants
    Batch,
    /// Published straight to RabbitMQ with confirms, in arrays of 64 and one by one
    Amqp,
    /// One event for 1, 10 and 100 webhooks
    Fanout,
    /// 1, 2 and 4 dispatchers
    Scale,
    /// 100, 300 and 1,000 events/s whatever the answers: latency from publish to arrival
    Open,
    /// One tenant's latency while another's receivers hang, or 100,000 of its deliveries fall due at once
    Isolation,
    /// 1,000,000 events that wait in the queue when the dispatcher starts
    Backlog,
    /// 10,000 requests under way to receivers that never answer: memory
    InFlight,
    /// 10,000 tenants with 100,000 webhooks
    Tenants,
    /// 1,000,000 unfinished deliveries, of which 1 % fall due
    Retries,
    /// 10,000,000 attempts in the history
    History,
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
        Scenario::Batch => throughput::batch(bench, results).await,
        Scenario::Amqp => throughput::amqp(bench, results).await,
        Scenario::Fanout => throughput::fan_out(bench, results).await,
        Scenario::Scale => throughput::scale(bench, results).await,
        Scenario::Open => open::run(bench, results).await,
        Scenario::Isolation => isolation::run(bench, results).await,
        Scenario::Backlog => backlog::run(bench, results).await,
        Scenario::InFlight => in_flight::run(bench, results).await,
        Scenario::Tenants => tenants::run(bench, results).await,
        Scenario::Retries => retries::run(bench, results).await,
        Scenario::History => history::run(bench, results).await,
    }
}
