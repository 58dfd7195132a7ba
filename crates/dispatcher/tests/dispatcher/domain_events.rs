//! What happens to webhooks and deliveries themselves, on the broker and at the receivers that want it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use domain::{Clock as _, SecretBytes, WebhookId};
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ExchangeKind};
use serde_json::Value;
use store::WebhookChange;
use test_support::{Receiver, eventually};

use crate::crashes::Process;
use crate::helpers::World;

/// A service that listens to the exchange, as the queue contract tells it to.
struct Listener {
    _connection: Connection,
    channel: Channel,
    queue: String,
}

impl Listener {
    async fn bind(world: &World) -> Self {
        let (connection, channel) = world.broker.channel().await;
        let exchange = format!("{}.domain", world.broker.prefix());
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let none = FieldTable::default;
        channel
            .exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, options, none())
            .await
            .unwrap();
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), options, none()).await.unwrap().name().to_string();
        let options = QueueBindOptions::default();
        channel
            .queue_bind(queue.as_str().into(), exchange.into(), "#".into(), options, none())
            .await
            .unwrap();
        Self { _connection: connection, channel, queue }
    }

    /// The next message: its routing key, and the event.
    async fn next(&self) -> (String, Value) {
        eventually("a domain event", async || self.try_next().await).await
    }

    async fn try_next(&self) -> Option<(String, Value)> {
        let options = BasicGetOptions { no_ack: true };
        let message = self.channel.basic_get(self.queue.as_str().into(), options).await.unwrap()?;
        Some((message.routing_key.to_string(), serde_json::from_slice(&message.data).unwrap()))
    }
}

async fn change(world: &World, webhook: WebhookId, change: WebhookChange) {
    let store = &world.database.store;
    store.change_webhook(world.tenant, webhook, &change, world.clock.now()).await.unwrap().unwrap();
}

async fn wait_until_told(world: &World) {
    let left = "SELECT count(*) FROM outbox";
    eventually("an empty outbox", async || (world.database.count(left).await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_to_a_webhook_are_published_in_order_and_delivered_where_they_are_wanted() {
    let world = World::create().await;
    let (mut watcher, mut receiver) = (Receiver::start().await, Receiver::start().await);
    let listener = Listener::bind(&world).await;
    world.webhook(&watcher.url("/"), &["webhook.*"]).await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let (store, now) = (&world.database.store, world.clock.now());
    let sessions = Some(vec!["s1".parse().unwrap()]);
    let secret = Some(SecretBytes::new(*b"another-signing-secret"));
    change(&world, webhook, WebhookChange { session_ids: Some(sessions), ..WebhookChange::default() }).await;
    change(&world, webhook, WebhookChange { secret, ..WebhookChange::default() }).await;
    change(&world, webhook, WebhookChange::default()).await;
    store.pause_webhook(world.tenant, webhook, now).await.unwrap();
    store.pause_webhook(world.tenant, webhook, now + TimeDelta::seconds(1)).await.unwrap();
    store.resume_webhook(world.tenant, webhook, None, now).await.unwrap();
    store.resume_webhook(world.tenant, webhook, None, now).await.unwrap();
    let reason = domain::DisabledReason::Gone;
    store.disable_webhook(world.tenant, webhook, reason, now).await.unwrap();
    store.delete_webhook(world.tenant, webhook, &domain::Expected::Any, now).await.unwrap();
    let _dispatcher = world.dispatcher().await;

    let mut told = BTreeMap::new();
    let expected = [
        "webhook.created", // the watcher itself
        "webhook.created",
        "webhook.updated",
        "webhook.secret_rotated",
        "webhook.paused",
        "webhook.resumed",
        "webhook.disabled",
        "webhook.deleted",
    ];
    for (place, expected) in expected.into_iter().enumerate() {
        let (routing_key, event) = listener.next().await;
        assert_eq!((routing_key.as_str(), event["type"].as_str()), (expected, Some(expected)));
        assert_eq!(event["tenantId"], world.tenant.to_string());
        let data = &event["data"];
        assert_eq!(data["webhookId"] == webhook.to_string(), place > 0);
        assert!(!event.to_string().contains("signing-secret"));
        assert_eq!(data["pausedAt"].is_string(), expected == "webhook.paused");
        assert_eq!(data["disabledReason"] == "gone", place > 5, "{event}");
        told.insert(event["id"].as_str().unwrap().to_owned(), data.clone());
    }
    for _ in 0..expected.len() {
        let request = watcher.next().await;
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(told.remove(request.id()).unwrap(), body["data"]);
    }
    wait_until_told(&world).await;
    world.wait_until_settled().await;
    assert!(listener.try_next().await.is_none() && receiver.try_next().is_none() && told.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fails_is_told_of_once_and_so_is_its_recovery_and_each_delivery_given_up() {
    let world = World::create().await;
    let (mut watcher, receiver) = (Receiver::start().await, Receiver::start().await);
    world.webhook(&watcher.url("/"), &["delivery.*"]).await;
    let webhook = world.webhook(&receiver.url("/"), &["message.sent"]).await;
    receiver.answer_always(500);
    let _dispatcher = world.dispatcher_with(|config| config.retry_schedule = "1s".parse().unwrap()).await;
    for id in ["e1", "e2", "e3"] {
        world.publish(id).await;
    }
    let body = async |watcher: &mut Receiver| -> (String, Value) {
        let body: Value = serde_json::from_slice(&watcher.next().await.body).unwrap();
        (body["type"].as_str().unwrap().to_owned(), body["data"].clone())
    };
    let (event_type, data) = body(&mut watcher).await;
    assert_eq!(event_type, "delivery.failing");
    assert_eq!(data["webhookId"], webhook.to_string());
    assert!(data["consecutiveFailures"].as_u64().unwrap() >= 3 && data["failingSince"].is_string());

    world.wait_for_history(webhook, 3).await;
    world.clock.advance(Duration::from_secs(2));
    let mut given_up = Vec::new();
    for _ in 0..3 {
        let (event_type, data) = body(&mut watcher).await;
        assert_eq!(event_type, "delivery.exhausted");
        assert_eq!((&data["attempts"], &data["statusCode"]), (&2.into(), &500.into()));
        assert_eq!(
            (data["error"].as_str(), data["eventType"].as_str()),
            (Some("status"), Some("message.sent"))
        );
        given_up.push(data["eventId"].as_str().unwrap().to_owned());
    }
    given_up.sort();
    assert_eq!(given_up, ["e1", "e2", "e3"]);

    receiver.answer_always(204);
    for id in ["e4", "e5"] {
        world.publish(id).await;
    }
    let (event_type, data) = body(&mut watcher).await;
    assert_eq!(event_type, "delivery.recovered");
    assert_eq!(data["webhookId"], webhook.to_string());
    assert!(data["failingSince"].is_string());
    world.wait_until_settled().await;
    wait_until_told(&world).await;
    assert!(watcher.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fails_to_hear_of_its_own_failures_starts_no_loop() {
    let world = World::create().await;
    let receiver = Receiver::start().await;
    let listener = Listener::bind(&world).await;
    receiver.answer_always(500);
    let webhook = world.webhook(&receiver.url("/"), &["message.sent", "delivery.*"]).await;
    let _dispatcher = world.dispatcher_with(|config| config.retry_schedule = "1s".parse().unwrap()).await;
    for id in ["e1", "e2", "e3"] {
        world.publish(id).await;
    }
    // Each event that is wanted is attempted twice: three that were published, one that tells of the failures, three that
    // tell of deliveries given up.
    for attempts in [4, 11, 14] {
        world.wait_for_history(webhook, attempts).await;
        world.clock.advance(Duration::from_secs(2));
    }
    world.wait_until_settled().await;
    wait_until_told(&world).await;
    let mut told = BTreeMap::new();
    while let Some((event_type, _)) = listener.try_next().await {
        *told.entry(event_type).or_insert(0) += 1;
    }
    let expected = [("delivery.exhausted", 3), ("delivery.failing", 1), ("webhook.created", 1)];
    assert_eq!(told, expected.map(|(event_type, count)| (event_type.to_owned(), count)).into());
    assert_eq!(world.history(webhook).await.len(), 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_published_under_one_id_whenever_the_dispatcher_is_killed() {
    let world = World::create().await;
    let mut watcher = Receiver::start().await;
    let listener = Listener::bind(&world).await;
    let webhook = world.webhook(&watcher.url("/"), &["webhook.created"]).await;
    let client = world.database.client().await;
    let written: String = client.query_one("SELECT id FROM outbox", &[]).await.unwrap().get(0);

    // Nothing can be deleted: the dispatcher publishes, and is killed before it has cleared what it published.
    let lock = world.database.client().await;
    lock.batch_execute("BEGIN; LOCK TABLE outbox IN EXCLUSIVE MODE").await.unwrap();
    let mut process = Process::start(&world);
    let (_, first) = listener.next().await;
    assert_eq!(first["id"], written.as_str());
    assert_eq!(watcher.next().await.id(), written);
    world.wait_for_history(webhook, 1).await;
    process.kill();
    lock.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(world.database.count("SELECT count(*) FROM outbox").await, 1, "it was not cleared");

    let _second = Process::start(&world);
    let (_, second) = listener.next().await;
    assert_eq!(second, first);
    wait_until_told(&world).await;
    world.wait_until_settled().await;
    assert_eq!(world.broker.ready_messages().await, 0);
    assert!(watcher.try_next().is_none(), "the receiver gets it once");
}
