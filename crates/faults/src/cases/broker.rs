//! Brokers that lose, block, refuse, restart and vanish.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use tokio::time::sleep;

use super::{CALM, FAULT, Outcome, RATE, both, conclude, recover};
use crate::load::{Answers, Load};
use crate::oracle::{Allowed, Findings};
use crate::world::{Lab, Setup, World, eventually};

/// The gateway's publish timeout, and a little for the machine.
const ANSWER_LIMIT: Duration = Duration::from_millis(5_000 + 2_500);
/// RabbitMQ 3.10 loses a quorum queue that was declared within about a second before the node is killed.
const QUEUE_SAFE: Duration = Duration::from_secs(3);

pub(crate) async fn ingest_exchange_deleted(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "3a", Setup::default()).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    delete_exchange(&world, "ingest").await?;
    world.fault_ends();
    recover(&world, load).await?;
    judge_unavailability(world).await
}

pub(crate) async fn queue_unbound(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "3b", Setup::default()).await?;
    let load = both(&world);
    sleep(CALM).await;
    let (_connection, channel) = world.channel().await?;
    for (exchange, key) in [("ingest", "event"), ("events", "#")] {
        let (queue, exchange) =
            (format!("{}.dispatch", world.prefix), format!("{}.{exchange}", world.prefix));
        channel.queue_unbind(queue.into(), exchange.into(), key.into(), FieldTable::default()).await?;
    }
    world.fault_ends();
    recover(&world, load).await?;
    judge_unavailability(world).await
}

pub(crate) async fn events_exchange_deleted(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "3c", Setup::default()).await?;
    let load = both(&world);
    sleep(CALM).await;
    delete_exchange(&world, "events").await?;
    world.fault_ends();
    let by_services = || world.ledger.accepted().keys().filter(|id| id.starts_with("a-")).count();
    let before = by_services();
    let again = async || (by_services() > before).then_some(());
    let restored = eventually("an event of a service", Duration::from_secs(60), again).await;
    load.end().await?;
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.expect(
            restored.is_ok(),
            "services could not publish again within 60 s: the exchange is not restored",
        );
    })
    .await
}

async fn delete_exchange(world: &World, exchange: &str) -> anyhow::Result<()> {
    let (_connection, channel) = world.channel().await?;
    let exchange = format!("{}.{exchange}", world.prefix);
    Ok(channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?)
}

pub(crate) async fn confirm_never_comes(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "4a", Setup::default()).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    world.ledger.forget_answers();
    world.gateway_broker.black_hole();
    sleep(FAULT).await;
    world.gateway_broker.pass();
    world.fault_ends();
    recover(&world, load).await?;
    judge_unavailability(world).await
}

pub(crate) async fn memory_alarm(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const BACKLOG: usize = 300;
    let mut world = World::create(&lab, "4b", Setup::default()).await?;
    world.dispatcher().signal("STOP")?;
    world.publisher.publish_all("backlog", BACKLOG).await?;
    lab.rabbitmqctl(&["set_vm_memory_high_watermark", "0.00001"]).await?;
    world.dispatcher().signal("CONT")?;
    let load = Load::rest(&world.publisher, "r", RATE);
    let drained = world.wait_for_deliveries(BACKLOG, Duration::from_secs(30)).await;
    sleep(FAULT).await;
    lab.rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"]).await?;
    world.fault_ends();
    recover(&world, load).await?;
    let answers = world.ledger.answers();
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.expect(drained.is_ok(), "the queue was not drained while the alarm was on");
        expect_unavailability(findings, answers);
    })
    .await
}

pub(crate) async fn queue_full(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "5", Setup::default()).await?;
    let pattern = format!("^{}\\.dispatch$", world.prefix);
    let limit = r#"{"max-length":20,"overflow":"reject-publish"}"#;
    world.dispatcher().signal("STOP")?;
    lab.rabbitmqctl(&["set_policy", "full", &pattern, limit, "--apply-to", "queues"]).await?;
    sleep(CALM).await;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(FAULT).await;
    lab.rabbitmqctl(&["clear_policy", "full"]).await?;
    world.dispatcher().signal("CONT")?;
    world.fault_ends();
    recover(&world, load).await?;
    judge_unavailability(world).await
}

/// Judges, and expects that publishers were told in time to come again.
async fn judge_unavailability(world: World) -> anyhow::Result<Outcome> {
    let answers = world.ledger.answers();
    conclude(world, Allowed::NOTHING, |_, findings| expect_unavailability(findings, answers)).await
}

fn expect_unavailability(findings: &mut Findings, answers: Answers) {
    let Answers { unavailable, wrong, broken, slowest } = answers;
    findings.note(format!("{unavailable} times 503, slowest answer {:.1} s", slowest.as_secs_f64()));
    findings.expect(unavailable > 0, "no publish was refused: the fault did not bite");
    findings.expect(wrong == 0, format!("{wrong} answers were neither 202 nor 503 with Retry-After"));
    findings.expect(broken == 0, format!("{broken} requests had no answer"));
    findings.expect(
        slowest <= ANSWER_LIMIT,
        format!(
            "an answer took {:.1} s, the limit is {:.1}",
            slowest.as_secs_f64(),
            ANSWER_LIMIT.as_secs_f64()
        ),
    );
}

pub(crate) async fn restarted(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "8a", Setup::default()).await?;
    let load = both(&world);
    sleep(QUEUE_SAFE).await;
    lab.restart_server("rabbitmq").await?;
    world.fault_ends();
    recover(&world, load).await?;
    conclude(world, Allowed::NOTHING, |_, _| ()).await
}

pub(crate) async fn killed(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "8b", Setup::default()).await?;
    let load = both(&world);
    sleep(QUEUE_SAFE).await;
    lab.kill_server("rabbitmq").await?;
    lab.restart_server("rabbitmq").await?;
    world.fault_ends();
    recover(&world, load).await?;
    conclude(world, Allowed::NOTHING, |_, _| ()).await
}

pub(crate) async fn connections_closed(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "8c", Setup::default()).await?;
    let load = both(&world);
    for _ in 0..3 {
        sleep(CALM).await;
        lab.rabbitmqctl(&["close_all_connections", "a fault on purpose"]).await?;
    }
    world.fault_ends();
    recover(&world, load).await?;
    conclude(world, Allowed::NOTHING, |_, _| ()).await
}

pub(crate) async fn queue_deleted(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const BEFORE: usize = 200;
    let mut world = World::create(&lab, "8d", Setup::default()).await?;
    // What is in a queue that somebody deletes is gone: first it is empty, and all is acknowledged.
    world.publisher.publish_all("before", BEFORE).await?;
    world.wait_for_deliveries(BEFORE, Duration::from_secs(30)).await?;
    sleep(CALM).await;
    let (_connection, channel) = world.channel().await?;
    let queue = format!("{}.dispatch", world.prefix);
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    world.fault_ends();
    let load = both(&world);
    recover(&world, load).await?;
    conclude(world, Allowed::NOTHING, |_, _| ()).await
}

pub(crate) async fn half_open(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "9a", Setup::default()).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    for proxy in [&world.gateway_broker, &world.dispatcher_broker] {
        proxy.black_hole_existing();
    }
    world.fault_ends(); // new connections work from here on: what must be noticed is that the old ones do not
    recover(&world, load).await?;
    conclude(world, Allowed::NOTHING, |_, _| ()).await
}

pub(crate) async fn cluster_leader_killed(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let directory = lab.servers.join("cluster");
    let exports = lab.services(&["cluster", "start", text(&directory)?]).await?;
    let urls = exports.split('\'').nth(1).unwrap_or_default();
    let brokers: Vec<String> = urls.split(' ').map(str::to_owned).collect();
    let mut world = World::create(&lab, "22", Setup { brokers, ..Setup::default() }).await?;
    let load = both(&world);
    sleep(QUEUE_SAFE).await;
    let leader = directory.join(leader(&lab, &world).await?);
    lab.services(&["kill", text(&leader)?, "rabbitmq"]).await?;
    world.fault_ends(); // two of three are a majority: what must happen by itself is that they go on
    world.await_recovery().await;
    sleep(FAULT).await;
    lab.services(&["cluster", "start", text(&directory)?]).await?;
    recover(&world, load).await?;
    let node = leader.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let concluded =
        conclude(world, Allowed::NOTHING, |_, findings| findings.note(format!("{node} was killed"))).await;
    lab.services(&["cluster", "wipe", text(&directory)?]).await?;
    concluded
}

/// The directory of the node that leads the dispatch queue.
async fn leader(lab: &Lab, world: &World) -> anyhow::Result<String> {
    let node = lab.servers.join("cluster").join("node1");
    let list = lab.services(&["ctl", text(&node)?, "list_queues", "name", "leader"]).await?;
    let queue = format!("{}.dispatch", world.prefix);
    let line = list.lines().find(|line| line.starts_with(&queue));
    let number = line.and_then(|line| line.split("postrider").last()?.split('@').next()?.parse::<u8>().ok());
    let number = number.ok_or_else(|| anyhow::anyhow!("the queue has no leader: {list}"))?;
    Ok(format!("node{number}"))
}

fn text(path: &std::path::Path) -> anyhow::Result<&str> {
    path.to_str().ok_or_else(|| anyhow::anyhow!("{} is not UTF-8", path.display()))
}
