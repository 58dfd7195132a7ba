//! Gateways that are killed between a client and the broker.

use std::sync::Arc;
use std::time::Duration;

use test_support::Direction;
use tokio::time::sleep;

use super::{Outcome, conclude};
use crate::oracle::Allowed;
use crate::world::{Lab, Setup, World};

/// Events that wait for their answer when the gateway is killed.
const EVENTS: usize = 50;

pub(crate) async fn killed_after_confirm(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "1", Setup::default()).await?;
    // The broker has taken the events, and dispatchers have delivered them, before its confirms reach the gateway.
    world.gateway_broker.delay(Direction::ToClient, Duration::from_secs(3));
    let clients = spawn_clients(&world, "confirmed");
    // Few messages are outstanding at a time, so the first ones are all that get so far.
    world.wait_for_deliveries(1, Duration::from_secs(10)).await?;
    let delivered = world.delivered_count();
    let accepted = world.ledger.accepted_count();
    replace_killed(&mut world).await?;
    clients.await??;
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.expect(accepted == 0, format!("{accepted} events were answered before the kill: too late"));
        findings.note(format!("{delivered} were delivered before their clients had an answer"));
    })
    .await
}

pub(crate) async fn killed_before_confirm(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "2", Setup::default()).await?;
    world.gateway_broker.black_hole();
    let clients = spawn_clients(&world, "unconfirmed");
    sleep(Duration::from_secs(1)).await;
    let early = world.ledger.accepted_count() + world.receiver.requests();
    replace_killed(&mut world).await?;
    clients.await??;
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.expect(early == 0, format!("{early} events got through a black hole"));
    })
    .await
}

/// Kills the gateway, and starts another with a broker that it can reach.
async fn replace_killed(world: &mut World) -> anyhow::Result<()> {
    world.gateway.kill()?;
    world.gateway_broker.pass();
    world.gateway.start_again()?;
    // Its first publisher accepts events a moment before all are connected, which is when it is ready.
    world.fault_ends();
    world.wait_until_ready().await
}

/// Clients that publish at once, each under the same id until it is accepted.
fn spawn_clients(world: &World, label: &'static str) -> tokio::task::JoinHandle<anyhow::Result<()>> {
    let publisher = world.publisher.clone();
    tokio::spawn(async move { publisher.publish_all(label, EVENTS).await })
}
