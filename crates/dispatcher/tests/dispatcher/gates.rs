//! The circuit breaker of each webhook, and switching off what fails for days.

use std::time::Duration;

use domain::{Clock as _, DisabledReason, Gate};
use test_support::{Receiver, eventually};

use crate::helpers::World;

const EVENTS: usize = 60;
const WAITING: &str = "SELECT count(*) FROM deliveries WHERE due_at IS NULL";

#[tokio::test(flavor = "multi_thread")]
async fn twenty_failures_open_the_gate_a_probe_closes_it_and_what_waited_is_delivered() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_always(500);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher_with(|config| config.webhook_concurrency = 1).await;
    for number in 0..EVENTS {
        world.publish(&format!("e{number}")).await;
    }
    let failed = world.wait_for_history(webhook, 20).await.len();
    eventually("the others wait", async || {
        (world.database.count(WAITING).await == (EVENTS - failed) as i64).then_some(())
    })
    .await;
    for _ in 0..failed {
        receiver.next().await;
    }
    assert_eq!(failed, 20, "not one request more than it takes");
    let health = &world.database.store.health_of(world.tenant, &[webhook]).await.unwrap()[0].1;
    assert_eq!(health.gate(world.clock.now()), Gate::Open);

    // While it is open, due retries wait too, and use up no attempt.
    world.clock.advance(Duration::from_secs(9));
    eventually("the retries wait", async || {
        (world.database.count(WAITING).await == EVENTS as i64).then_some(())
    })
    .await;
    assert!(receiver.try_next().is_none());

    receiver.answer_always(204);
    world.clock.advance(Duration::from_secs(2));
    let mut delivered = std::collections::BTreeSet::new();
    while delivered.len() < EVENTS {
        delivered.insert(receiver.next().await.id().to_owned());
    }
    world.wait_until_settled().await;
    let healthy = eventually("health", async || {
        let health = world.database.store.health_of(world.tenant, &[webhook]).await.unwrap()[0].1.clone();
        health.failing_since.is_none().then_some(health)
    })
    .await;
    assert_eq!(healthy.gate(world.clock.now()), Gate::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dispatcher_learns_that_a_gate_is_open() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_always(500);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let first = world.dispatcher_with(|config| config.webhook_concurrency = 1).await;
    for number in 0..20 {
        world.publish(&format!("e{number}")).await;
    }
    world.wait_for_history(webhook, 20).await;
    eventually("an open gate", async || {
        let health = world.database.store.health_of(world.tenant, &[webhook]).await.unwrap();
        health.first().filter(|(_, health)| health.open_until.is_some()).map(|_| ())
    })
    .await;
    first.shut_down().await;
    while receiver.try_next().is_some() {}
    let _second = world.dispatcher().await;
    // It reads the health of all webhooks when it starts.
    world.publish("late").await;
    eventually("it waits", async || (world.database.count(WAITING).await >= 1).then_some(())).await;
    receiver.expect_none(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_whose_every_attempt_failed_for_five_days_is_switched_off() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_always(500);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher =
        world.dispatcher_with(|config| config.retry_schedule = "1d,1d,1d,1d,1d,1d".parse().unwrap()).await;
    world.publish("e1").await;
    for attempts in 1..=6 {
        receiver.next().await;
        world.wait_for_history(webhook, attempts).await;
        let stored = world.database.store.webhook(world.tenant, webhook).await.unwrap().unwrap();
        if !stored.is_active {
            assert!(attempts >= 5, "after {attempts} attempts");
            break;
        }
        world.clock.advance(Duration::from_secs(27 * 3600));
    }
    let stored = eventually("the webhook switched off", async || {
        let stored = world.database.store.webhook(world.tenant, webhook).await.unwrap().unwrap();
        (!stored.is_active).then_some(stored)
    })
    .await;
    assert_eq!(stored.disabled.unwrap().0, DisabledReason::Failing);
    world.wait_until_settled().await;
}
