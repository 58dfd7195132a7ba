use std::collections::HashMap;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use test_support::{Receiver, eventually};

use crate::helpers::World;

#[tokio::test(flavor = "multi_thread")]
async fn several_dispatchers_share_the_work_and_deliver_each_event_once() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    let mut dispatchers = Vec::new();
    for _ in 0..3 {
        dispatchers.push(world.dispatcher_with(|config| config.prefetch = 4).await);
    }
    for number in 0..300 {
        world.publish(&format!("e{number}")).await;
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    for _ in 0..300 {
        *seen.entry(receiver.next().await.id().to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), 300);
    world.wait_until_settled().await;
    for dispatcher in dispatchers {
        assert!(dispatcher.shut_down().await);
    }
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_stops_hands_what_it_has_to_the_others() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.hang();
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let first = world
        .dispatcher_with(|config| {
            config.webhook_concurrency = 3;
            config.drain_timeout = std::time::Duration::from_secs(3);
        })
        .await;
    for number in 0..10 {
        world.publish(&format!("e{number}")).await;
    }
    for _ in 0..3 {
        receiver.next().await;
    }
    assert!(!first.shut_down().await, "three requests hang beyond the deadline");
    receiver.release();
    let _second = world.dispatcher().await;
    let mut ids = std::collections::BTreeSet::new();
    while ids.len() < 10 {
        ids.insert(receiver.next().await.id().to_owned());
    }
    world.wait_for_history(webhook, 10).await;
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_stops_while_the_database_is_away_gives_events_back_to_the_broker() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    let nowhere = store::Store::new("postgres://nobody@127.0.0.1:1/none", 2).unwrap();
    let first = world.dispatcher_with(|config| config.store = nowhere).await;
    for number in 0..3 {
        world.publish(&format!("e{number}")).await;
    }
    eventually("the messages taken", async || (world.broker.ready_messages().await == 0).then_some(())).await;
    first.shut_down().await;
    eventually("the messages back", async || (world.broker.ready_messages().await == 3).then_some(())).await;
    let _second = world.dispatcher().await;
    for _ in 0..3 {
        assert!(receiver.next().await.id().starts_with('e'));
    }
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_stops_leaves_its_audit_to_another_at_once() {
    let world = World::create().await;
    let receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["none.of.these"]).await;
    // So many that it takes seconds, in the first range that is audited.
    let events = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT n, $2, $2, $3, $1, 'event-' || n, 'message.sent', '{}' FROM generate_series(1, 100000) n";
    let at = Utc::now() - TimeDelta::minutes(55);
    let client = world.database.client().await;
    client.execute(events, &[&world.tenant.0, &at, &at.date_naive()]).await.unwrap();
    let under_way = "SELECT count(*) FROM audit_progress WHERE leased_until > 'epoch'";
    let first = world.dispatcher().await;
    eventually("an audit", async || (world.database.count(under_way).await == 1).then_some(())).await;
    first.shut_down().await;
    assert_eq!(world.database.count(under_way).await, 0, "nobody else could begin it");
    assert_eq!(world.database.count("SELECT events FROM audit_progress").await, 0, "it went on to its end");
    let _second = world.dispatcher().await;
    let all = "SELECT count(*) FROM audit_progress WHERE events = 100000 AND lost = 0";
    eventually("the audit", async || (world.database.count(all).await == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_vanished_is_found_by_the_audit_and_made() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    // The audit does not judge what is as young as its webhook.
    world.clock.advance(Duration::from_secs(10));
    let first = world.dispatcher().await;
    for id in ["e1", "e2"] {
        world.publish(id).await;
        receiver.next().await;
    }
    world.wait_for_history(webhook, 2).await;
    first.shut_down().await;
    let vanish = "DELETE FROM delivery_attempts WHERE event_id = 'e2'";
    world.database.client().await.execute(vanish, &[]).await.unwrap();
    world.clock.advance(Duration::from_secs(180));
    let _second = world.dispatcher().await;
    assert_eq!(receiver.next().await.id(), "e2");
    world.wait_for_history(webhook, 2).await;
    world.wait_until_settled().await;
    let progress = world.database.store.audit_progress().await.unwrap().unwrap();
    assert_eq!((progress.events, progress.lost, progress.repaired), (2, 1, 1));
    assert!(receiver.try_next().is_none());
}
