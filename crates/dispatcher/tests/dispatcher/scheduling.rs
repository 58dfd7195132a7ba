use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use domain::{Clock as _, GateChange, Tag};
use lapin::BasicProperties;
use store::Pace;
use test_support::{Receiver, eventually};

use crate::helpers::World;

/// Publishes `message.sent` with further fields.
async fn publish(world: &World, id: &str, more: &str) {
    let event = world.event(id, "message.sent", r#"{"of":"somebody"}"#);
    let event = format!("{},{more}}}", event.strip_suffix('}').unwrap());
    world.publish_raw("message.sent", event, BasicProperties::default()).await;
}

fn deliver_at(at: DateTime<Utc>) -> String {
    format!(r#""deliverAt":"{}""#, at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Waits until an event waits for its time, and nothing else is under way.
async fn wait_until_scheduled(world: &World) {
    let scheduled =
        "SELECT count(*) FROM deliveries WHERE attempts = 0 AND leased_by IS NULL AND due_at > now()
        AND NOT EXISTS (SELECT FROM open_batches)";
    eventually("the delivery waits", async || (world.database.count(scheduled).await == 1).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_waits_until_its_time_also_where_order_is_kept() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let ordered = GateChange { is_ordered: Some(true), ..GateChange::default() };
    world.set_gate(webhook, ordered).await;
    let dispatcher = world.dispatcher().await;
    world.clock.advance(Duration::from_secs(60)); // past what the audit cannot judge
    let at = world.clock.now() + TimeDelta::hours(1);
    publish(&world, "later", &format!(r#"{},"orderingKey":"k""#, deliver_at(at))).await;
    wait_until_scheduled(&world).await;
    publish(&world, "now", r#""orderingKey":"k""#).await;
    assert_eq!(receiver.next().await.id(), "now", "it holds nothing up");
    publish(&world, "past", &deliver_at(world.clock.now() - TimeDelta::hours(1))).await;
    assert_eq!(receiver.next().await.id(), "past", "what has passed is now");
    world.wait_for_history(webhook, 2).await;
    let (from, to) = (world.clock.now() - TimeDelta::minutes(1), world.clock.now() + TimeDelta::minutes(1));
    let report = world.database.store.audit(from, to, Pace::Full).await.unwrap();
    assert_eq!((report.events, report.delivered, report.scheduled, report.lost), (3, 2, 1, 0), "{report:?}");
    // It is the database that remembers.
    dispatcher.shut_down().await;
    let _dispatcher = world.dispatcher().await;
    world.clock.advance(Duration::from_secs(3590));
    assert!(receiver.try_next().is_none());
    world.clock.advance(Duration::from_secs(20));
    assert_eq!(receiver.next().await.id(), "later");
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_delivery_to_a_webhook_that_is_deleted_is_cancelled() {
    let world = World::create().await;
    let receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    publish(&world, "later", &deliver_at(world.clock.now() + TimeDelta::hours(1))).await;
    wait_until_scheduled(&world).await;
    world
        .database
        .store
        .delete_webhook(world.tenant, webhook, &domain::Expected::Any, world.clock.now())
        .await
        .unwrap();
    world.clock.advance(Duration::from_secs(3601));
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_be_kept_until_its_time_is_dead_lettered() {
    let world = World::create().await;
    let _dispatcher = world.dispatcher().await;
    for more in [
        deliver_at(world.clock.now() + TimeDelta::days(26)),
        r#""deliverAt":"soon""#.to_owned(),
        r#""tags":["\u0007"]"#.to_owned(),
    ] {
        publish(&world, "bad", &more).await;
        let letter = world.broker.dead_letter().await;
        assert_eq!(letter.reason, "bad_event", "{more}");
    }
    assert_eq!(world.database.count("SELECT count(*) FROM events").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_while_it_waits_is_not_delivered_and_not_lost() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next_in_full(500, &[], "somebody is not known here");
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    world.clock.advance(Duration::from_secs(60));
    publish(&world, "failed", r#""tags":["somebody"]"#).await;
    receiver.next().await;
    world.wait_for_history(webhook, 1).await;
    let said = "SELECT count(*) FROM attempt_exchanges";
    eventually("the answer is kept", async || (world.database.count(said).await == 1).then_some(())).await;
    let at = world.clock.now() + TimeDelta::hours(1);
    publish(&world, "later", &format!(r#"{},"tags":["somebody","vip"]"#, deliver_at(at))).await;
    wait_until_scheduled(&world).await;
    let tag: Tag = "somebody".parse().unwrap();
    let erased = world.database.store.erase_by_tag(world.tenant, &tag, "digest", world.clock.now()).await;
    let erased = erased.unwrap();
    assert_eq!((erased.events, erased.deliveries), (2, 2));
    assert_eq!(world.database.count(said).await, 0, "what was answered is gone too");
    assert_eq!(world.database.count("SELECT count(*) FROM event_tags").await, 0, "no other tag leads to it");
    let left = "SELECT count(*) FROM events e WHERE convert_from(body, 'UTF8') LIKE '%somebody%' OR e::text LIKE '%vip%'";
    assert_eq!(world.database.count(left).await, 0);
    let (from, to) = (world.clock.now() - TimeDelta::minutes(1), world.clock.now() + TimeDelta::minutes(1));
    let report = world.database.store.audit(from, to, Pace::Full).await.unwrap();
    assert_eq!((report.events, report.lost), (2, 0), "{report:?}");
    world.clock.advance(Duration::from_secs(3601));
    publish(&world, "next", r#""tags":["somebody"]"#).await;
    assert_eq!(receiver.next().await.id(), "next");
    // One that was under way meanwhile comes back, and ends.
    let back = format!(
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT e.accepted_at, '{}', e.day, 1, e.tenant_id, w.id, e.id FROM events e, webhooks w WHERE e.id = 'later'",
        world.clock.now().to_rfc3339()
    );
    world.database.client().await.batch_execute(&back).await.unwrap();
    world.wait_until_settled().await;
    assert!(receiver.try_next().is_none());
}
