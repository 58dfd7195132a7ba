//! Webhooks that want only some of the events of a type.

use std::time::Duration;

use domain::{Clock as _, WebhookId};
use lapin::BasicProperties;
use store::{Pace, WebhookChange};
use test_support::Receiver;

use crate::helpers::World;

async fn set(world: &World, webhook: WebhookId, filter: &str) {
    let change = WebhookChange { filter: Some(Some(filter.parse().unwrap())), ..WebhookChange::default() };
    let changed =
        world.database.store.change_webhook(world.tenant, webhook, &change, world.clock.now()).await;
    changed.unwrap().unwrap();
}

async fn publish(world: &World, id: &str, data: &str) {
    let event = world.event(id, "message.sent", data);
    world.publish_raw("message.sent", &event, BasicProperties::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_the_events_whose_data_its_filter_wants_and_others_get_all() {
    let world = World::create().await;
    let (mut picky, mut all) = (Receiver::start().await, Receiver::start().await);
    let webhook = world.webhook(&picky.url("/"), &["*"]).await;
    world.webhook(&all.url("/"), &["*"]).await;
    set(&world, webhook, r#"{"amount": {"$gte": 100}, "customer.country": {"$in": ["DE", "FR"]}}"#).await;
    let _dispatcher = world.dispatcher().await;
    for (id, data) in [
        ("small", r#"{"amount": 99, "customer": {"country": "DE"}}"#),
        ("elsewhere", r#"{"amount": 100, "customer": {"country": "US"}}"#),
        ("wanted", r#"{"amount": 100, "customer": {"country": "DE"}}"#),
        ("other", "[]"),
        ("unjudged", r#"{"amount": 1e400}"#),
    ] {
        publish(&world, id, data).await;
    }
    for _ in 0..5 {
        all.next().await;
    }
    let mut got = [picky.next().await.id().to_owned(), picky.next().await.id().to_owned()];
    got.sort();
    assert_eq!(got, ["unjudged", "wanted"], "what cannot be judged must not be missed");
    world.wait_until_settled().await;
    picky.expect_none(Duration::from_millis(100)).await;
    assert_eq!(world.history(webhook).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_knows_what_a_filter_did_not_want() {
    let world = World::create().await;
    let receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    set(&world, webhook, r#"{"n": {"$lt": 2}}"#).await;
    world.clock.advance(Duration::from_secs(60));
    let dispatcher = world.dispatcher().await;
    for number in 0..4 {
        publish(&world, &format!("e{number}"), &format!(r#"{{"n": {number}}}"#)).await;
    }
    world.wait_for_history(webhook, 2).await;
    world.wait_until_settled().await;
    assert!(dispatcher.shut_down().await);
    let (from, to) =
        (world.clock.now() - Duration::from_secs(30), world.clock.now() + Duration::from_secs(30));
    let report = world.database.store.audit(from, to, Pace::Full).await.unwrap();
    assert_eq!((report.events, report.delivered, report.lost), (4, 2, 0), "{report:?}");
    world
        .database
        .client()
        .await
        .execute("DELETE FROM delivery_attempts WHERE event_id = 'e1'", &[])
        .await
        .unwrap();
    let report = world.database.store.audit(from, to, Pace::Full).await.unwrap();
    assert_eq!((report.delivered, report.lost), (1, 1), "what it wanted and never got is lost");
    assert_eq!(report.findings[0].key.event_id.as_str(), "e1");
}
