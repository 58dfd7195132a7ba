//! How many events a second, and at what cost. Each figure is the median of short rounds, of which neighbours on a shared
//! machine spoil one or another; before each round the floor is measured anew, so that a ratio is of one moment of the
//! machine's.

use std::sync::Arc;
use std::time::Duration;

use crate::bench::{Answer, Bench, Tenant};
use crate::broker::Publishing;
use crate::load::{Publisher, closed as closed_loop};
use crate::plot::{Chart, Line};
use crate::report::Measured;
use crate::results::Results;

const ROUNDS: usize = 7;
const WARM_UP: Duration = Duration::from_secs(2);
const ROUND_TIME: Duration = Duration::from_secs(6);
/// Publishers at a time.
const PUBLISHERS: usize = 64;
/// Events of a request with a batch.
const BATCH_EVENTS: usize = 64;
/// Tenants that publish, with a webhook each.
const TENANTS: usize = 16;
/// Events of a round over AMQP.
const AMQP_EVENTS: usize = 60_000;
const AMQP_ARRAY: usize = 64;
const AMQP_TIME: Duration = Duration::from_secs(20);
/// Messages outstanding at a time, of arrays and of single events.
const OUTSTANDING_ARRAYS: usize = 16;
const OUTSTANDING_EVENTS: usize = 512;
/// Deliveries of a round with fan-out.
const FAN_OUT_DELIVERIES: usize = 60_000;
const FAN_OUTS: [usize; 3] = [1, 10, 100];
const DISPATCHERS: [usize; 3] = [1, 2, 4];

pub(crate) async fn floor(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(bench.floor().await?);
    }
    results.add(Measured::median_of(&rounds));
    Ok(())
}

pub(crate) async fn closed(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    by_tenants(bench, results, "closed", TENANTS, Bench::publisher).await
}

pub(crate) async fn single(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    by_tenants(bench, results, "single", 1, Bench::publisher).await
}

pub(crate) async fn batch(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let publisher = |bench: &Bench, tenant: &Tenant| bench.batch_publisher(tenant, BATCH_EVENTS);
    by_tenants(bench, results, "batch", TENANTS, publisher).await
}

async fn by_tenants(
    bench: &mut Bench,
    results: &mut Results,
    name: &str,
    tenants: usize,
    publisher: impl Fn(&Bench, &Tenant) -> anyhow::Result<Publisher>,
) -> anyhow::Result<()> {
    let mut all: Vec<Tenant> = Vec::new();
    for _ in 0..tenants {
        all.push(bench.tenant(1, Answer::AtOnce).await?);
    }
    let publishers: Vec<Publisher> =
        (0..PUBLISHERS).map(|number| publisher(bench, &all[number % tenants])).collect::<Result<_, _>>()?;
    let publish = |bench: &Bench, time| closed_loop(publishers.clone(), Arc::clone(&bench.sequence), time);
    let warm_up = publish(bench, WARM_UP);
    bench.measure(name, 1, warm_up).await?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        bench.rest().await?;
        let publishing = publish(bench, ROUND_TIME);
        rounds.push(bench.measure_by_floor(name, 1, publishing).await?);
    }
    bench.rest().await?;
    results.add(Measured::median_of(&rounds));
    Ok(())
}

pub(crate) async fn amqp(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let tenants = publishers_over_amqp(bench, TENANTS, 1).await?;
    for (name, events_per_message, outstanding) in [
        ("amqp, arrays of 64", AMQP_ARRAY, OUTSTANDING_ARRAYS),
        ("amqp, single events", 1, OUTSTANDING_EVENTS),
    ] {
        let publishing = Publishing {
            tenants: tenants.iter().map(|tenant| tenant.id).collect(),
            events_per_message,
            outstanding,
            duration: AMQP_TIME,
            most: AMQP_EVENTS,
            sequence: Arc::clone(&bench.sequence),
        };
        let row = rounds_over_amqp(bench, name, 1, &publishing).await?;
        results.add(row);
    }
    Ok(())
}

pub(crate) async fn fan_out(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let mut points = Vec::new();
    for webhooks in FAN_OUTS {
        let tenants = publishers_over_amqp(bench, 1, webhooks).await?;
        let publishing = Publishing {
            tenants: tenants.iter().map(|tenant| tenant.id).collect(),
            events_per_message: AMQP_ARRAY,
            outstanding: OUTSTANDING_ARRAYS,
            duration: AMQP_TIME,
            most: FAN_OUT_DELIVERIES / webhooks,
            sequence: Arc::clone(&bench.sequence),
        };
        let row = rounds_over_amqp(bench, &format!("fanout {webhooks}"), webhooks, &publishing).await?;
        let ours = ["gateway", "dispatcher", "rabbitmq", "postgres"];
        let cpu: f64 = ours.iter().filter_map(|name| row.cpu_ms_per_event.get(name)).sum();
        points.push((webhooks as f64, cpu / webhooks as f64));
        results.add(row);
    }
    results.chart(Chart {
        name: "fanout".to_owned(),
        title: "CPU per delivery against webhooks per event".to_owned(),
        x_label: "webhooks that get each event".to_owned(),
        y_label: "milliseconds of CPU, all servers".to_owned(),
        is_logarithmic: false,
        lines: vec![Line { label: "per delivery".to_owned(), points }],
    });
    Ok(())
}

pub(crate) async fn scale(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let tenants = publishers_over_amqp(bench, TENANTS, 1).await?;
    let mut points = Vec::new();
    for dispatchers in DISPATCHERS {
        bench.set_dispatchers(dispatchers).await?;
        let publishing = Publishing {
            tenants: tenants.iter().map(|tenant| tenant.id).collect(),
            events_per_message: AMQP_ARRAY,
            outstanding: OUTSTANDING_ARRAYS,
            duration: AMQP_TIME,
            most: AMQP_EVENTS,
            sequence: Arc::clone(&bench.sequence),
        };
        let row = rounds_over_amqp(bench, &format!("{dispatchers} dispatcher(s)"), 1, &publishing).await?;
        points.push((dispatchers as f64, row.events_per_second));
        results.add(row);
    }
    bench.set_dispatchers(1).await?;
    results.chart(Chart {
        name: "scale".to_owned(),
        title: "Events per second against dispatchers, all on this machine".to_owned(),
        x_label: "dispatchers".to_owned(),
        y_label: "events per second".to_owned(),
        is_logarithmic: false,
        lines: vec![Line { label: "events/s".to_owned(), points }],
    });
    Ok(())
}

async fn publishers_over_amqp(
    bench: &mut Bench,
    tenants: usize,
    webhooks: usize,
) -> anyhow::Result<Vec<Tenant>> {
    let mut all = Vec::new();
    for _ in 0..tenants {
        all.push(bench.tenant(webhooks, Answer::AtOnce).await?);
    }
    Ok(all)
}

/// The median of some rounds, after a smaller one that is not counted.
pub(super) async fn rounds_over_amqp(
    bench: &mut Bench,
    name: &str,
    copies: usize,
    publishing: &Publishing,
) -> anyhow::Result<Measured> {
    let warm_up = Publishing { most: publishing.most / 4, ..publishing.clone() };
    let broker = bench.broker_for_publishing().await?;
    bench.measure(name, copies, broker.publish(warm_up)).await?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        bench.rest().await?;
        let publishing = broker.publish(publishing.clone());
        rounds.push(bench.measure_by_floor(name, copies, publishing).await?);
    }
    bench.rest().await?;
    Ok(Measured::median_of(&rounds))
}
