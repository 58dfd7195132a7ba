//! Events that wait in the queue while no dispatcher runs, and then all come at once: is the rate at the end that of the
//! start, and does memory stay flat?

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;

use crate::arrivals::{Arrival, without_repeats};
use crate::bench::{Answer, Bench, Scale};
use crate::broker::Publishing;
use crate::output::progress;
use crate::payload::now_micros;
use crate::plot::{Chart, Line};
use crate::report::{Measured, rounded, short, thousands};
use crate::results::Results;
use crate::usage::difference;

const TENANTS: usize = 16;
const PUBLISH_TIME: Duration = Duration::from_secs(300);

pub(crate) async fn run(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let count = match bench.scale {
        Scale::Small => 100_000,
        Scale::Full => 1_000_000,
    };
    let mut tenants = Vec::new();
    for _ in 0..TENANTS {
        tenants.push(bench.tenant(1, Answer::AtOnce).await?.id);
    }
    bench.set_dispatchers(0).await?;
    let sequence = Arc::clone(&bench.sequence);
    let publishing = Publishing {
        tenants,
        events_per_message: 64,
        outstanding: 16,
        duration: PUBLISH_TIME,
        most: count,
        sequence,
    };
    let published = bench.broker_for_publishing().await?.publish(publishing).await?;
    progress(&format!("{} events wait in the queue", published.accepted.len()));
    bench.receiver.take().await?;
    bench.usage.reset_peak();
    let began = now_micros();
    let before = bench.usage.cpu_milliseconds();
    bench.set_dispatchers(1).await?;
    let arrivals = bench.wait_for_arrivals(published.accepted.len(), |_| true).await?;
    let cpu = difference(&bench.usage.cpu_milliseconds(), &before);
    let (first, repeats) = without_repeats(&arrivals);
    ensure!(first.len() > 100, "only {} of {count} events arrived", first.len());
    let mut row = account(&first, began);
    row.repeats = repeats;
    row.missing = published.accepted.len().saturating_sub(first.len());
    row.accepted_per_second = published.accepted.len() as f64 / published.seconds();
    row.set_usage(&cpu, 0, 0, bench.usage.peak_megabytes());
    judge(&first, bench, &mut row, results);
    results.add(row);
    bench.rest().await
}

fn account(arrivals: &[Arrival], began: u64) -> Measured {
    let last = arrivals.iter().map(|arrival| arrival.arrived_at).max().unwrap_or(began);
    let seconds = last.saturating_sub(began) as f64 / 1e6;
    let per_second = arrivals.len() as f64 / seconds;
    Measured {
        scenario: "backlog".to_owned(),
        events: arrivals.len(),
        deliveries: arrivals.len(),
        seconds,
        events_per_second: per_second,
        deliveries_per_second: per_second,
        ..Measured::default()
    }
}

fn judge(arrivals: &[Arrival], bench: &Bench, row: &mut Measured, results: &mut Results) {
    let mut times: Vec<u64> = arrivals.iter().map(|arrival| arrival.arrived_at).collect();
    times.sort_unstable();
    let tenth = times.len() / 10;
    let rate = |times: &[u64]| {
        let (first, last) =
            (times.first().copied().unwrap_or_default(), times.last().copied().unwrap_or_default());
        times.len() as f64 * 1e6 / (last - first).max(1) as f64
    };
    let (start, end) =
        (rate(&times[tenth..tenth * 2]), rate(&times[times.len() - tenth * 2..times.len() - tenth]));
    row.note("per_second_in_second_tenth", rounded(start));
    row.note("per_second_in_last_but_one_tenth", rounded(end));
    let samples = bench.usage.memory_over_time();
    let dispatcher: Vec<f64> =
        samples.iter().filter_map(|sample| sample.get("dispatcher").copied()).collect();
    let at = |part: usize| dispatcher.get(dispatcher.len() * part / 10).copied().unwrap_or_default();
    let (early, late) = (at(2), at(8));
    row.note("dispatcher_mb_at_two_and_eight_tenths", vec![rounded(early), rounded(late)]);
    results.find(format!(
        "backlog of {}: {} events/s near the start, {} near the end; dispatcher {} MiB and {} MiB",
        thousands(arrivals.len() as f64),
        thousands(start),
        thousands(end),
        short(early),
        short(late)
    ));
    let line = |name: &str| {
        let points = samples.iter().enumerate();
        let points = points.filter_map(|(second, sample)| Some((second as f64, *sample.get(name)?)));
        Line { label: name.to_owned(), points: points.collect() }
    };
    results.chart(Chart {
        name: "backlog".to_owned(),
        title: format!("Memory while {} waiting events are delivered", thousands(arrivals.len() as f64)),
        x_label: "seconds".to_owned(),
        y_label: "megabytes".to_owned(),
        is_logarithmic: false,
        lines: ["dispatcher", "rabbitmq", "postgres"].map(line).into(),
    });
}
