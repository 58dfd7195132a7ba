//! Limits that hold for all dispatchers together, pauses, and receivers that are overloaded.

use std::time::Duration;

use domain::{Clock as _, GateChange};
use test_support::{Receiver, eventually};

use crate::helpers::World;

const WAITING: &str = "SELECT count(*) FROM deliveries WHERE due_at IS NULL";

fn rate_limit(rate: u32) -> GateChange {
    GateChange { rate_limit: Some(Some(rate)), ..GateChange::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds_for_two_dispatchers_together() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    world.set_gate(webhook, rate_limit(20)).await;
    let (_first, _second) = (world.dispatcher().await, world.dispatcher().await);
    for number in 0..50 {
        world.publish(&format!("e{number}")).await;
    }
    let mut arrived = 0;
    let mut allowed = 3; // what 100 ms allow, and one
    while arrived < 50 {
        while arrived < allowed.min(50) {
            receiver.next().await;
            arrived += 1;
        }
        receiver.expect_none(Duration::from_millis(100)).await;
        world.clock.advance(Duration::from_millis(100));
        allowed += 2;
    }
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrency_cap_holds_for_two_dispatchers_together() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.hang();
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    world.set_gate(webhook, GateChange { concurrency: Some(Some(3)), ..GateChange::default() }).await;
    let (_first, _second) = (world.dispatcher().await, world.dispatcher().await);
    for number in 0..20 {
        world.publish(&format!("e{number}")).await;
    }
    for _ in 0..3 {
        receiver.next().await;
    }
    receiver.expect_none(Duration::from_millis(500)).await;
    receiver.release();
    for _ in 3..20 {
        receiver.next().await;
    }
    world.wait_until_settled().await;
    assert_eq!(world.history(webhook).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_webhook_keeps_its_backlog_and_drains_it_at_the_chosen_rate_oldest_first() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    let store = &world.database.store;
    store.pause_webhook(world.tenant, webhook, world.clock.now()).await.unwrap().unwrap();
    for number in 0..30 {
        world.publish(&format!("e{number:02}")).await;
        eventually("it waits", async || (world.database.count(WAITING).await == number + 1).then_some(()))
            .await;
    }
    receiver.expect_none(Duration::from_millis(300)).await;

    store.resume_webhook(world.tenant, webhook, Some(10), world.clock.now()).await.unwrap().unwrap();
    let mut arrived = vec![receiver.next().await.id().to_owned(), receiver.next().await.id().to_owned()];
    receiver.expect_none(Duration::from_millis(300)).await;
    world.publish("new").await;
    assert_eq!(receiver.next().await.id(), "new", "what is new does not wait for the backlog");
    while arrived.len() < 30 {
        world.clock.advance(Duration::from_millis(100));
        arrived.push(receiver.next().await.id().to_owned());
        assert!(receiver.try_next().is_none());
    }
    let expected: Vec<String> = (0..30).map(|number| format!("e{number:02}")).collect();
    arrived[..2].sort();
    assert_eq!(arrived, expected);
    world.wait_until_settled().await;
    let health = store.health_of(world.tenant, &[webhook]).await.unwrap();
    assert!(!health[0].1.is_draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_falls_due_in_a_pause_waits_for_its_end() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[500]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    receiver.next().await;
    world.wait_for_history(webhook, 1).await;
    let store = &world.database.store;
    store.pause_webhook(world.tenant, webhook, world.clock.now()).await.unwrap().unwrap();
    world.clock.advance(Duration::from_secs(10));
    eventually("it waits", async || (world.database.count(WAITING).await == 1).then_some(())).await;
    receiver.expect_none(Duration::from_millis(200)).await;
    store.resume_webhook(world.tenant, webhook, None, world.clock.now()).await.unwrap().unwrap();
    receiver.next().await;
    assert_eq!(world.wait_for_history(webhook, 2).await[1].attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_webhook_that_is_deleted_cancels_what_waits_for_it() {
    let world = World::create().await;
    let receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    let store = &world.database.store;
    store.pause_webhook(world.tenant, webhook, world.clock.now()).await.unwrap().unwrap();
    world.publish("e1").await;
    eventually("it waits", async || (world.database.count(WAITING).await == 1).then_some(())).await;
    assert!(
        store.delete_webhook(world.tenant, webhook, &domain::Expected::Any, world.clock.now()).await.unwrap()
    );
    world.wait_until_settled().await;
    let history = world.history(webhook).await;
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].error.as_deref(), Some("cancelled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_receiver_that_asks_for_time_is_left_alone_and_no_attempt_is_used_up() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next_with(429, &[("retry-after", "60")]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("first").await;
    receiver.next().await;
    world.wait_for_history(webhook, 1).await;
    for number in 0..10 {
        world.publish(&format!("e{number}")).await;
    }
    eventually("they wait", async || (world.database.count(WAITING).await == 10).then_some(())).await;
    world.clock.advance(Duration::from_secs(59));
    receiver.expect_none(Duration::from_millis(300)).await;
    world.clock.advance(Duration::from_secs(8)); // the first is due again after 60 s and up to 10 %
    for _ in 0..11 {
        receiver.next().await;
    }
    world.wait_until_settled().await;
    let history = world.history(webhook).await;
    assert_eq!(history.len(), 12, "one failed, and each succeeded once");
    assert!(history.iter().filter(|attempt| attempt.event_id != "first").all(|attempt| attempt.attempt == 1));
}
