//! What operators do while events flow, and what they look with.

use std::sync::Arc;
use std::time::Duration;

use test_support::{CollectedSpan, Collector, Proxy};
use tokio::time::sleep;

use super::{CALM, Outcome, RATE, conclude, p99, recover};
use crate::load::Load;
use crate::oracle::Allowed;
use crate::process::Process;
use crate::receiver::Mode;
use crate::world::{DRAIN_TIMEOUT, Lab, PATH, Setup, World, wait_until_answers};

/// How long a step of a case may take that is not judged by its time.
const STEP: Duration = Duration::from_secs(30);
/// Beyond this the restart of one of two would be felt: two cores do everything, and start programs beside it.
const MOST_P99: Duration = Duration::from_secs(1);

pub(crate) async fn rolling_restart(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "23", Setup { dispatchers: 2, ..Setup::default() }).await?;
    let (mut second, second_address) = world.add_gateway()?;
    wait_until_answers(&format!("http://{second_address}"), STEP).await?;
    // Two gateways behind one address, as a Service has them.
    let service = Proxy::start(vec![world.gateway_address()?, second_address]).await;
    let publisher = world.publisher_at(&format!("http://{}", service.address()))?;
    let calm = Load::rest(&publisher, "before", RATE).with_amqp(world.amqp_publisher(), "before-a", RATE);
    sleep(CALM * 2).await;
    calm.end().await?;
    let before = p99(&world, "before", STEP).await?;
    world.ledger.forget_answers();
    let load = Load::rest(&publisher, "during", RATE).with_amqp(world.amqp_publisher(), "during-a", RATE);
    sleep(CALM).await;
    let mut clean = restart(&mut world.gateway).await?;
    world.wait_until_ready().await?;
    clean &= restart(&mut second).await?;
    wait_until_answers(&format!("http://{second_address}"), STEP).await?;
    for place in 0..world.dispatchers.len() {
        clean &= restart(&mut world.dispatchers[place]).await?;
        world.wait_until_ready().await?;
    }
    world.fault_ends();
    recover(&world, load).await?;
    let during = p99(&world, "during", STEP).await?;
    let answers = world.ledger.answers();
    let outcome = conclude(world, Allowed::NOTHING, |_, findings| {
        findings.note(format!(
            "p99 from acceptance to delivery {} ms before, {} ms during; {} requests met a connection that had just closed, \
             and were made again",
            before.as_millis(),
            during.as_millis(),
            answers.broken
        ));
        findings.expect(clean, "a process did not end in time or with success");
        findings.expect(answers.wrong == 0, format!("{} answers were neither 202 nor 503", answers.wrong));
        findings.expect(during < MOST_P99, format!("the p99 was {} ms", during.as_millis()));
    })
    .await;
    second.kill()?;
    outcome
}

/// Says whether it ended as it should.
async fn restart(process: &mut Process) -> anyhow::Result<bool> {
    let (status, _) = process.terminate(DRAIN_TIMEOUT * 2).await?;
    process.start_again()?;
    Ok(status.success())
}

pub(crate) async fn collector_away(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut collector = Collector::start().await;
    let shared_settings =
        vec![("POSTRIDER_OTLP_ENDPOINT", collector.endpoint()), ("POSTRIDER_TRACE_RATIO", "1".to_owned())];
    let mut world = World::create(&lab, "20b", Setup { shared_settings, ..Setup::default() }).await?;
    world.receiver.set(PATH, Mode::Answer(500));
    let requests = world.receiver.requests();
    world.publisher.publish_all("traced", 1).await?;
    world.wait_for_requests(requests + 1, STEP).await?;
    world.receiver.set(PATH, Mode::Answer(204));
    world.wait_for_deliveries(1, STEP).await?;
    let traced = trace_with_a_retry(&mut collector).await;
    drop(collector);
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM * 2).await;
    world.fault_ends();
    recover(&world, load).await?;
    conclude(world, Allowed::NOTHING, |world, findings| {
        findings.expect(is_one_trace(&traced), format!("not one trace from request to retry: {traced:?}"));
        let warned = world.dispatchers[0].logged().contains("the trace collector takes no spans");
        findings.expect(warned, "nothing in the log says that spans are lost");
    })
    .await
}

/// The five spans of an event that failed once: request, message, hand-over, first attempt, retry.
async fn trace_with_a_retry(collector: &mut Collector) -> Vec<CollectedSpan> {
    let mut spans: Vec<CollectedSpan> = Vec::new();
    loop {
        spans.push(collector.next().await);
        let retry = spans.iter().find(|span| !span.links.is_empty());
        let Some(trace) = retry.map(|retry| retry.trace_id.clone()) else { continue };
        let mut of_trace: Vec<_> = spans.iter().filter(|span| span.trace_id == trace).cloned().collect();
        if of_trace.len() == 5 {
            let order = |span: &CollectedSpan| {
                ([2, 4, 5, 3].iter().position(|kind| *kind == span.kind), span.links.len())
            };
            of_trace.sort_by_key(order);
            return of_trace;
        }
    }
}

fn is_one_trace(spans: &[CollectedSpan]) -> bool {
    let [request, message, hand_over, first, retry] = spans else { return false };
    request.parent.is_empty()
        && message.parent == request.span_id
        && hand_over.parent == message.span_id
        && first.parent == hand_over.span_id
        && retry.parent == hand_over.span_id
        && retry.links == [(first.trace_id.clone(), first.span_id.clone())]
        && (first.failed, retry.failed) == (true, false)
        && (&*request.service, &*retry.service) == ("postrider-gateway", "postrider-dispatcher")
}
