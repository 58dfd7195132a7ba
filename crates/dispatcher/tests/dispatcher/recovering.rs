use std::collections::HashMap;
use std::time::Duration;

use chrono::TimeDelta;
use domain::{Clock as _, WebhookId};
use store::{Recovery, RecoveryKind, RecoveryPlan, RecoveryState};
use test_support::{Receiver, eventually};

use crate::helpers::World;

const EVENTS: usize = 30;

async fn begin(world: &World, webhook: WebhookId, kind: RecoveryKind, rate: u32) -> Recovery {
    let now = world.clock.now();
    let plan = RecoveryPlan {
        webhook_id: webhook,
        tenant_id: world.tenant,
        kind,
        from: now - TimeDelta::hours(1),
        to: now + TimeDelta::seconds(1),
        event_type: None,
        rate,
    };
    let store = &world.database.store;
    let known = store.webhook(world.tenant, webhook).await.unwrap().unwrap();
    let estimate = store.estimate_recovery(&plan, &known).await.unwrap();
    assert_eq!((estimate.deliveries, estimate.is_exact), (EVENTS as u64, true));
    store.begin_recovery(&plan, estimate, now).await.unwrap()
}

/// Waits until it has scheduled so many.
async fn scheduled(world: &World, recovery: &Recovery, count: i64) -> Recovery {
    let store = &world.database.store;
    eventually("a recovery's progress", async || {
        let now = store.recovery(world.tenant, recovery.plan.webhook_id, recovery.id).await.unwrap().unwrap();
        (now.scheduled >= count).then_some(now)
    })
    .await
}

/// How often each event came.
async fn received(receiver: &mut Receiver, count: usize) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    for _ in 0..count {
        *times.entry(receiver.next().await.id().to_owned()).or_default() += 1;
    }
    times
}

async fn publish_all(world: &World) {
    for number in 0..EVENTS {
        world.publish(&format!("e{number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_recovered_at_its_rate_by_whichever_dispatcher_is_left() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let first = world.dispatcher().await;
    publish_all(&world).await;
    world.wait_for_history(webhook, EVENTS).await;
    world.wait_until_settled().await;
    received(&mut receiver, EVENTS).await;
    let failed = "UPDATE delivery_attempts SET status_code = 500, error = 'status'";
    world.database.client().await.execute(failed, &[]).await.unwrap();
    world.clock.advance(Duration::from_secs(1)); // no two attempts of a delivery begin at the same time

    let recovery = begin(&world, webhook, RecoveryKind::Failed, 10).await;
    scheduled(&world, &recovery, 10).await;
    assert!(first.shut_down().await, "in the middle");
    let _second = world.dispatcher().await;
    for count in [20, 30] {
        world.clock.advance(Duration::from_secs(1));
        scheduled(&world, &recovery, count).await;
    }
    world.clock.advance(Duration::from_secs(1));
    let done = eventually("the end of the recovery", async || {
        let now = scheduled(&world, &recovery, 30).await;
        (now.state == RecoveryState::Done).then_some(now)
    })
    .await;
    assert_eq!((done.scheduled, done.skipped), (EVENTS as i64, 0));
    let times = received(&mut receiver, EVENTS).await;
    assert_eq!((times.len(), times.values().max()), (EVENTS, Some(&1)), "each once");
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_came_too_late_for_is_delivered_once_by_two_dispatchers() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let early = world.webhook(&receiver.url("/early"), &["*"]).await;
    let _dispatchers = [world.dispatcher().await, world.dispatcher().await];
    publish_all(&world).await;
    world.wait_for_history(early, EVENTS).await;
    world.wait_until_settled().await;
    received(&mut receiver, EVENTS).await;
    let late = world.webhook(&receiver.url("/late"), &["*"]).await;
    let recovery = begin(&world, late, RecoveryKind::Missing, 10).await;
    for seconds in 1..=3 {
        scheduled(&world, &recovery, 10 * seconds).await;
        world.clock.advance(Duration::from_secs(1));
    }
    let times = received(&mut receiver, EVENTS).await;
    assert_eq!((times.len(), times.values().max()), (EVENTS, Some(&1)), "each once");
    let history = world.wait_for_history(late, EVENTS).await;
    assert_eq!(history.len(), EVENTS);
    world.wait_until_settled().await;
    let again = RecoveryPlan { to: world.clock.now(), ..recovery.plan };
    let known = world.database.store.webhook(world.tenant, late).await.unwrap().unwrap();
    let estimate = world.database.store.estimate_recovery(&again, &known).await.unwrap();
    assert_eq!(estimate.deliveries, 0, "nothing is missing any more");
}
