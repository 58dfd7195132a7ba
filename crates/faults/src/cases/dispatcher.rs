//! Dispatchers that are killed, paused and told to stop.

use std::sync::Arc;
use std::time::Duration;

use test_support::Direction;
use tokio::time::sleep;

use super::{CALM, Outcome, RATE, both, conclude, recover};
use crate::load::Load;
use crate::oracle::Allowed;
use crate::receiver::Mode;
use crate::world::{DELIVERY_TIMEOUT, DRAIN_TIMEOUT, LEASE, Lab, PATH, Setup, World};

/// Events that a dispatcher has in one state when it is killed.
const EVENTS: usize = 50;
/// Requests that one dispatcher has under way to one webhook, by default.
const WEBHOOK_CONCURRENCY: usize = 64;
/// How long a step of a case may take that is not judged by its time.
const STEP: Duration = Duration::from_secs(20);
/// What a process may take besides its drain timeout: the last results, and releasing what is left.
const END_SLACK: Duration = Duration::from_secs(3);

pub(crate) async fn killed_before_hand_over(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "6a", Setup::default()).await?;
    world.dispatcher_database.black_hole_towards(Direction::ToUpstream);
    world.publisher.publish_all("held", EVENTS).await?;
    sleep(CALM).await;
    let stored = world.count("SELECT count(*) FROM events").await?;
    lost_and_replaced(&mut world).await?;
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.expect(stored == 0, format!("{stored} events were handed over before the kill: too late"));
    })
    .await
}

pub(crate) async fn killed_after_hand_over(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "6b", Setup::default()).await?;
    // So that every connection has its statements prepared: that, too, would wait for an answer.
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    load.end().await?;
    world.wait_for_count("SELECT 1 - sign(count(*))::bigint FROM open_batches", 1, STEP).await?;
    let (before, requests) = (world.count("SELECT count(*) FROM events").await?, world.receiver.requests());
    // The transaction commits, and the dispatcher never hears of it.
    world.dispatcher_database.black_hole_towards(Direction::ToClient);
    world.publisher.publish_all("held", EVENTS).await?;
    world.wait_for_count("SELECT count(*) FROM events", before + 1, STEP).await?;
    let early = world.receiver.requests() - requests;
    lost_and_replaced(&mut world).await?;
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.expect(early == 0, format!("{early} requests were made before the kill: too late"));
    })
    .await
}

pub(crate) async fn killed_during_requests(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "6c", Setup::default()).await?;
    world.receiver.set(PATH, Mode::Hang);
    world.publisher.publish_all("held", EVENTS).await?;
    world.wait_for_requests(EVENTS, STEP).await?;
    world.dispatcher().kill()?;
    world.receiver.set(PATH, Mode::Answer(204));
    back(&mut world).await?;
    conclude(world, Allowed::NOTHING, |_, _| ()).await
}

pub(crate) async fn killed_before_record(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "6d", Setup::default()).await?;
    world.receiver.set(PATH, Mode::Hang);
    world.publisher.publish_all("held", EVENTS).await?;
    world.wait_for_requests(EVENTS, STEP).await?;
    world.dispatcher_database.black_hole();
    world.receiver.set(PATH, Mode::Answer(204));
    world.wait_for_deliveries(EVENTS, STEP).await?;
    sleep(Duration::from_millis(200)).await;
    lost_and_replaced(&mut world).await?;
    conclude(world, Allowed::duplicates(EVENTS), |_, findings| {
        findings.expect(findings.duplicates > 0, "no repeat: the kill was too late to prove anything");
    })
    .await
}

async fn lost_and_replaced(world: &mut World) -> anyhow::Result<()> {
    world.dispatcher().kill()?;
    // Its machine is gone as well: the database never hears that its connections have ended.
    world.dispatcher_database.black_hole_existing();
    back(world).await
}

/// A dispatcher comes up in the place of the one that was killed, and has further events.
async fn back(world: &mut World) -> anyhow::Result<()> {
    world.dispatcher().start_again()?;
    world.fault_ends();
    world.publisher.publish_all("later", 10).await
}

pub(crate) async fn killed_again_and_again(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let kills = if lab.quick { 4 } else { 25 };
    let mut world = World::create(&lab, "7", Setup::default()).await?;
    let load = both(&world);
    for _ in 0..kills {
        let delivered = world.delivered_count();
        world.wait_for_deliveries(delivered + 20, STEP).await?;
        // At any point of its work.
        sleep(Duration::from_millis(rand::random_range(0..400))).await;
        world.dispatcher().kill()?;
        world.dispatcher().start_again()?;
    }
    world.fault_ends();
    recover(&world, load).await?;
    // Of each kill what was delivered in the second before: results are written down sooner, unless the machine is busy.
    let allowed = Allowed { repeats: kills, ..Allowed::duplicates(kills * 2 * RATE as usize) };
    conclude(world, allowed, |_, findings| findings.note(format!("killed {kills} times"))).await
}

pub(crate) async fn same_due_rows(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const DUE: usize = 2_000;
    let mut world = World::create(&lab, "11a", Setup { dispatchers: 3, ..Setup::default() }).await?;
    for number in 0..DUE {
        world.ledger.accept(&format!("due-{number}"));
    }
    world.insert_due(world.tenant, &world.webhooks[PATH], "due", DUE).await?;
    world.fault_ends();
    world.publisher.publish_all("later", 10).await?;
    conclude(world, Allowed::NOTHING, |_, findings| findings.note(format!("{DUE} due rows, 3 dispatchers")))
        .await
}

pub(crate) async fn paused_past_lease(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "11b", Setup { dispatchers: 2, ..Setup::default() }).await?;
    world.receiver.set(PATH, Mode::Slow(Duration::from_millis(300)));
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    world.dispatcher().signal("STOP")?;
    sleep((LEASE + DELIVERY_TIMEOUT) * 2).await;
    world.dispatcher().signal("CONT")?;
    world.fault_ends();
    recover(&world, load).await?;
    // What it had under way and in its lane may be made once more by the other.
    conclude(world, Allowed::duplicates(2 * WEBHOOK_CONCURRENCY), |_, _| ()).await
}

pub(crate) async fn told_to_stop_under_load(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "13a", Setup { dispatchers: 2, ..Setup::default() }).await?;
    world.receiver.set(PATH, Mode::Slow(Duration::from_millis(1_200)));
    let load = Load::rest(&world.publisher, "r", RATE / 2);
    sleep(CALM).await;
    let (dispatcher, dispatcher_took) = world.dispatcher().terminate(DRAIN_TIMEOUT + END_SLACK).await?;
    let (gateway, gateway_took) = world.gateway.terminate(DRAIN_TIMEOUT + END_SLACK).await?;
    world.gateway.start_again()?;
    world.fault_ends();
    recover(&world, load).await?;
    world.receiver.set(PATH, Mode::Answer(204));
    let wrong = world.ledger.answers().wrong;
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.note(format!(
            "the dispatcher ended after {:.1} s, the gateway after {:.1} s",
            dispatcher_took.as_secs_f64(),
            gateway_took.as_secs_f64()
        ));
        findings.expect(dispatcher.success(), format!("the dispatcher ended with {dispatcher}"));
        findings.expect(gateway.success(), format!("the gateway ended with {gateway}"));
        findings.expect(wrong == 0, format!("{wrong} answers were neither 202 nor 503 with Retry-After"));
    })
    .await
}

pub(crate) async fn told_to_stop_while_reconnecting(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "13b", Setup::default()).await?;
    let load = Load::rest(&world.publisher, "r", RATE / 2);
    sleep(CALM).await;
    let proxies = |world: &World, act: fn(&test_support::Proxy)| {
        for proxy in [
            &world.gateway_database,
            &world.gateway_broker,
            &world.dispatcher_database,
            &world.dispatcher_broker,
        ] {
            act(proxy);
        }
    };
    proxies(&world, test_support::Proxy::refuse);
    sleep(CALM).await;
    let (_, dispatcher_took) = world.dispatcher().terminate(DRAIN_TIMEOUT + END_SLACK).await?;
    let (_, gateway_took) = world.gateway.terminate(DRAIN_TIMEOUT + END_SLACK).await?;
    proxies(&world, test_support::Proxy::pass);
    world.dispatcher().start_again()?;
    world.gateway.start_again()?;
    world.fault_ends();
    recover(&world, load).await?;
    // What was delivered and could not be written down in time is delivered again.
    conclude(world, Allowed::duplicates(WEBHOOK_CONCURRENCY), |_, findings| {
        findings.note(format!(
            "the dispatcher ended after {:.1} s, the gateway after {:.1} s",
            dispatcher_took.as_secs_f64(),
            gateway_took.as_secs_f64()
        ));
    })
    .await
}
