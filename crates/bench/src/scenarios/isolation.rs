//! Whether one tenant can hurt another.
//!
//! A good tenant publishes at a steady rate, alone and then beside something bad, in turn:
//! - `hanging`: another tenant publishes as fast as its plan lets it, and goes on asking, to receivers that never answer,
//!   beyond the deadline. The plan is the one that tenants begin with;
//! - `healthy`: a control, the same publishing, to receivers that answer at once;
//! - `unlimited`: a control, on a plan without limits. What these cost the good tenant is the price of sharing a machine, here
//!   with somebody whom nothing holds back;
//! - `due`: 100,000 deliveries of one webhook of another tenant fall due at once.
//!
//! A p99 of twenty seconds differs from that of the next twenty by half and more with nothing beside. So there are many
//! phases, each between two alone, whose mean it is compared with; what counts is the median of these ratios, and beside it
//! stands the same for phases alone. Medians of four still fell on either side of the limit from run to run: there are eight.

use std::collections::HashMap;
use std::iter;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use crate::arrivals::{Arrival, Percentiles, median, over_time, percentiles, without_repeats};
use crate::bench::{Answer, Bench, Scale, Tenant};
use crate::database::Unfinished;
use crate::load::{Published, closed, open};
use crate::output::progress;
use crate::plot::{Chart, Line};
use crate::report::{Measured, rounded, short, thousands};
use crate::results::Results;
use crate::usage::{ByProcess, difference};
use serde_json::json;

const GOOD_RATE: u32 = 300;
const GOOD_CONNECTIONS: usize = 64;
/// Left out at the beginning of each phase.
const WARM_UP: Duration = Duration::from_secs(2);
/// Longer than the deadline of an attempt, so that hanging requests end within it.
const PHASE: Duration = Duration::from_secs(20);
const BAD_PUBLISHERS: usize = 8;
const BAD_WEBHOOKS: usize = 10;
/// What the plan `trial` allows as it is shipped.
const BAD_EVENTS_PER_MINUTE: i32 = 6_000;
const DUE: u32 = 100_000;
/// When they fall due, from the begin of the phase or shortly before it.
const DUE_IN_SECONDS: f64 = 5.0;
/// What the good tenant's p99 may grow by, and its throughput change by.
const P99_LIMIT: f64 = 1.2;
const THROUGHPUT_LIMIT: f64 = 0.1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Beside {
    Nothing,
    Hanging,
    Healthy,
    Unlimited,
    Due,
}

const BAD: [Beside; 4] = [Beside::Hanging, Beside::Healthy, Beside::Unlimited, Beside::Due];

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "alone",
            Self::Hanging => "beside hanging",
            Self::Healthy => "beside healthy",
            Self::Unlimited => "beside unlimited",
            Self::Due => "beside due",
        }
    }
}

/// What one phase did to the good tenant.
struct Phase {
    beside: Beside,
    measured: Measured,
    from_accept: Percentiles,
    /// Events per second of the other tenant that were accepted, and deliveries of its that arrived.
    bad_accepted_per_second: f64,
    bad_arrived: usize,
    over_time: Vec<(u64, Percentiles)>,
}

pub(crate) async fn run(bench: &mut Bench, results: &mut Results) -> anyhow::Result<()> {
    let rounds = match bench.scale {
        Scale::Small => 1,
        Scale::Full => 8,
    };
    let good = bench.tenant(1, Answer::AtOnce).await?;
    let mut phases = Vec::new();
    for round in 0..rounds {
        for beside in BAD {
            // No limit is set for the controls.
            let has_turn = match beside {
                Beside::Nothing | Beside::Hanging | Beside::Due => true,
                Beside::Healthy => round % 2 == 0,
                Beside::Unlimited => round == 0,
            };
            if !has_turn {
                continue;
            }
            phases.push(phase(bench, &good, Beside::Nothing).await?);
            phases.push(phase(bench, &good, beside).await?);
        }
    }
    phases.push(phase(bench, &good, Beside::Nothing).await?);
    for beside in iter::once(Beside::Nothing).chain(BAD) {
        results.add(row(&phases, beside));
    }
    judge(&phases, results);
    results.chart(chart(&phases));
    Ok(())
}

async fn phase(bench: &mut Bench, good: &Tenant, beside: Beside) -> anyhow::Result<Phase> {
    let bad = match beside {
        Beside::Nothing => None,
        Beside::Hanging => {
            Some(bench.limited_tenant(BAD_WEBHOOKS, Answer::Never, BAD_EVENTS_PER_MINUTE).await?)
        }
        Beside::Healthy => {
            Some(bench.limited_tenant(BAD_WEBHOOKS, Answer::AtOnce, BAD_EVENTS_PER_MINUTE).await?)
        }
        Beside::Unlimited => Some(bench.tenant(BAD_WEBHOOKS, Answer::AtOnce).await?),
        Beside::Due => Some(bench.tenant(1, Answer::AtOnce).await?),
    };
    if let (Beside::Due, Some(bad)) = (beside, &bad) {
        fall_due(bench, bad).await?;
    }
    bench.receiver.take().await?;
    bench.usage.reset_peak();
    let before = bench.usage.cpu_milliseconds();
    let publisher = bench.publisher(good)?;
    let good_publishing = open(publisher, Arc::clone(&bench.sequence), GOOD_RATE, PHASE, GOOD_CONNECTIONS);
    let bad_publishing = publish_badly(bench, beside, bad.as_ref())?;
    let (published, bad_published) = tokio::try_join!(good_publishing, bad_publishing)?;
    let is_good = |arrival: &Arrival| good.hooks.contains(&arrival.hook);
    let arrivals = bench.wait_for_arrivals(published.accepted.len(), is_good).await?;
    let cpu = difference(&bench.usage.cpu_milliseconds(), &before);
    let peak = bench.usage.peak_megabytes();
    if let Some(bad) = bad {
        let answer = if beside == Beside::Hanging { Answer::Never } else { Answer::AtOnce };
        bench.put_away(slice::from_ref(&bad), answer).await?;
    }
    let (good_arrivals, bad_arrivals): (Vec<Arrival>, Vec<Arrival>) = arrivals.into_iter().partition(is_good);
    let phase = account(beside, &published, &good_arrivals, cpu, peak)?;
    let phase = Phase {
        bad_accepted_per_second: bad_published.accepted.len() as f64 / PHASE.as_secs_f64(),
        bad_arrived: bad_arrivals.len(),
        ..phase
    };
    progress(&format!(
        "{:14}  p50 {:>6} ms  p99 {:>6} ms  from accept p99 {:>6} ms  {:.0}/s{}",
        beside.name(),
        short(phase.measured.p50_ms),
        short(phase.measured.p99_ms),
        short(phase.from_accept.p99),
        phase.measured.events_per_second,
        match beside {
            Beside::Nothing => String::new(),
            Beside::Hanging | Beside::Healthy | Beside::Unlimited | Beside::Due => format!(
                "  (the other: {:.0} accepted/s, {} arrived)",
                phase.bad_accepted_per_second, phase.bad_arrived
            ),
        }
    ));
    Ok(phase)
}

async fn fall_due(bench: &mut Bench, bad: &Tenant) -> anyhow::Result<()> {
    let first = bench.take_sequence(DUE);
    let rows = Unfinished {
        tenant: bad.id,
        webhook: bad.webhooks[0],
        prefix: "due-",
        first,
        count: DUE,
        due_in_seconds: DUE_IN_SECONDS,
        due_over_seconds: 0.0,
    };
    bench.database.insert_unfinished(&rows).await?;
    // What the preparation left to be written is not to be measured.
    bench.checkpoint().await
}

fn publish_badly(
    bench: &Bench,
    beside: Beside,
    bad: Option<&Tenant>,
) -> anyhow::Result<impl Future<Output = anyhow::Result<Published>> + use<>> {
    let mut publishers = Vec::new();
    if let (Beside::Hanging | Beside::Healthy | Beside::Unlimited, Some(bad)) = (beside, bad) {
        publishers = vec![bench.publisher(bad)?; BAD_PUBLISHERS];
    }
    Ok(closed(publishers, Arc::clone(&bench.sequence), PHASE))
}

fn account(
    beside: Beside,
    published: &Published,
    arrivals: &[Arrival],
    cpu: ByProcess,
    peak: ByProcess,
) -> anyhow::Result<Phase> {
    let from = published.began + u64::try_from(WARM_UP.as_micros())?;
    let until = published.began + u64::try_from(PHASE.as_micros())?;
    let (first, repeats) = without_repeats(arrivals);
    let counted: Vec<Arrival> = first.iter().filter(|arrival| arrival.sent_at >= from).copied().collect();
    let latency = percentiles(counted.iter().map(Arrival::latency_micros))?;
    let accepted: HashMap<u32, u64> =
        published.accepted.iter().map(|accepted| (accepted.sequence, accepted.at)).collect();
    let from_accept = counted.iter().filter_map(|arrival| {
        accepted.get(&arrival.sequence).map(|at| arrival.arrived_at.saturating_sub(*at))
    });
    let in_time = counted.iter().filter(|arrival| arrival.arrived_at <= until).count();
    let seconds = (PHASE - WARM_UP).as_secs_f64();
    let mut measured = Measured {
        scenario: format!("isolation, {}", beside.name()),
        events: published.accepted.len(),
        deliveries: first.len(),
        seconds,
        events_per_second: in_time as f64 / seconds,
        deliveries_per_second: in_time as f64 / seconds,
        accepted_per_second: published.accepted.len() as f64 / published.seconds(),
        p50_ms: latency.p50,
        p99_ms: latency.p99,
        p999_ms: latency.p999,
        refused: published.refused,
        repeats,
        missing: published.accepted.len().saturating_sub(first.len()),
        ..Measured::default()
    };
    measured.set_usage(&cpu, 0, 0, peak);
    Ok(Phase {
        beside,
        measured,
        from_accept: percentiles(from_accept)?,
        bad_accepted_per_second: 0.0,
        bad_arrived: 0,
        over_time: over_time(&first, published.began)?,
    })
}

fn row(phases: &[Phase], beside: Beside) -> Measured {
    let of_kind: Vec<&Phase> = phases.iter().filter(|phase| phase.beside == beside).collect();
    let mut row =
        Measured::median_of(&of_kind.iter().map(|phase| phase.measured.clone()).collect::<Vec<_>>());
    let list = |value: fn(&Phase) -> f64| of_kind.iter().map(|phase| value(phase)).collect::<Vec<_>>();
    row.note("p99_ms_of_phases", list(|phase| phase.measured.p99_ms));
    let seconds =
        of_kind.iter().map(|phase| phase.over_time.iter().map(|(_, latency)| latency.p99).collect());
    row.note("p99_ms_by_second_of_phases", json!(seconds.collect::<Vec<Vec<f64>>>()));
    row.note("p99_ms_from_accept", median(&list(|phase| phase.from_accept.p99)));
    row.note(
        "other_tenant_accepted_per_second",
        rounded(median(&list(|phase| phase.bad_accepted_per_second))),
    );
    row.note(
        "other_tenant_arrived",
        json!(of_kind.iter().map(|phase| phase.bad_arrived).collect::<Vec<_>>()),
    );
    row
}

/// Says for each kind of neighbour what it does to the good tenant.
fn judge(phases: &[Phase], results: &mut Results) {
    let alone: Vec<&Phase> = phases.iter().filter(|phase| phase.beside == Beside::Nothing).collect();
    let by_itself: Vec<Compared<'_>> =
        alone.windows(3).map(|three| compared([three[0], three[1], three[2]])).collect();
    let p99 = |compared: &[Compared<'_>]| ratios(compared, |phase| phase.from_accept.p99);
    results.find(format!(
        "isolation, alone: p99 from accept of a phase {}× of the mean of those before and after it ({})",
        short(median(&p99(&by_itself))),
        listed(&p99(&by_itself))
    ));
    for beside in BAD {
        let of_kind: Vec<Compared<'_>> = phases
            .windows(3)
            .filter(|three| three[1].beside == beside)
            .map(|three| compared([&three[0], &three[1], &three[2]]))
            .collect();
        let throughput = median(&ratios(&of_kind, |phase| phase.measured.events_per_second));
        let seconds = of_kind.iter().flat_map(|compared| &compared.phase.over_time);
        let worst = seconds.map(|(_, latency)| latency.p99).fold(0.0, f64::max);
        let arrived: Vec<f64> = of_kind.iter().map(|compared| compared.phase.bad_arrived as f64).collect();
        let kept = median(&p99(&of_kind)) <= P99_LIMIT && (throughput - 1.0).abs() <= THROUGHPUT_LIMIT;
        results.find(format!(
            "isolation, {}: p99 from accept {}× of alone (limit {P99_LIMIT}; {}), from publish {}×, throughput {}×, p99 of the worst second {} ms; \
             {} requests to the other tenant arrived: {}",
            beside.name(),
            short(median(&p99(&of_kind))),
            listed(&p99(&of_kind)),
            short(median(&ratios(&of_kind, |phase| phase.measured.p99_ms))),
            short(throughput),
            short(worst),
            thousands(median(&arrived)),
            match (beside, kept) {
                (Beside::Unlimited | Beside::Healthy | Beside::Nothing, _) =>
                    "a control, the price of sharing the machine",
                (Beside::Hanging | Beside::Due, true) => "kept",
                (Beside::Hanging | Beside::Due, false) => "NOT kept",
            }
        ));
    }
}

/// A phase, and what it is compared with: the phases alone just before and after it.
struct Compared<'a> {
    phase: &'a Phase,
    alone: [&'a Phase; 2],
}

fn compared([before, phase, after]: [&Phase; 3]) -> Compared<'_> {
    Compared { phase, alone: [before, after] }
}

fn ratios(compared: &[Compared<'_>], value: fn(&Phase) -> f64) -> Vec<f64> {
    let ratio = |Compared { phase, alone: [before, after] }: &Compared<'_>| {
        value(phase) / f64::midpoint(value(before), value(after)).max(f64::MIN_POSITIVE)
    };
    compared.iter().map(ratio).collect()
}

fn listed(ratios: &[f64]) -> String {
    ratios.iter().map(|ratio| short(*ratio)).collect::<Vec<_>>().join(", ")
}

fn chart(phases: &[Phase]) -> Chart {
    let last = |beside: Beside| phases.iter().rfind(|phase| phase.beside == beside);
    let line = |beside: Beside| {
        let points = last(beside).map(|phase| &phase.over_time).into_iter().flatten();
        let points = points.map(|(second, latency)| (*second as f64, latency.p99)).collect();
        Line { label: format!("p99 {}", beside.name()), points }
    };
    Chart {
        name: "isolation".to_owned(),
        title: format!("A tenant's latency at {GOOD_RATE} events/s, alone and beside others"),
        x_label: "second of the phase".to_owned(),
        y_label: "milliseconds from publish to arrival".to_owned(),
        is_logarithmic: true,
        lines: iter::once(Beside::Nothing).chain(BAD).map(line).collect(),
    }
}
