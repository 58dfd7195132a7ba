//! What a webhook is told of its own requests, in force.

use std::time::Duration;

use domain::{
    AttemptTimeout, Clock as _, DeliveryChange, HeadersChange, RetrySchedule, SecretBytes, WebhookId,
};
use store::WebhookChange;
use test_support::{ENCRYPTION_KEYS, OTHER_ENCRYPTION_KEY, Receiver, eventually};

use crate::helpers::{SECRET, World};

async fn set(world: &World, webhook: WebhookId, delivery: DeliveryChange) {
    let change = WebhookChange { delivery, ..WebhookChange::default() };
    let changed =
        world.database.store.change_webhook(world.tenant, webhook, &change, world.clock.now()).await;
    changed.unwrap().unwrap();
}

fn authorization(value: &str) -> DeliveryChange {
    let headers = HeadersChange::merge(vec![("Authorization".to_owned(), Some(value.to_owned()))]).unwrap();
    DeliveryChange { headers: Some(headers), ..DeliveryChange::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_carries_the_custom_headers_of_that_moment() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[500]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    set(&world, webhook, authorization("Bearer one")).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    assert_eq!(receiver.next().await.header("authorization"), "Bearer one");
    world.wait_for_history(webhook, 1).await;
    set(&world, webhook, authorization("Bearer two")).await;
    world.clock.advance(Duration::from_secs(6));
    let retry = receiver.next().await;
    assert_eq!(retry.header("authorization"), "Bearer two");
    assert!(retry.is_signed_with(SECRET));
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_key_of_the_headers_is_missing_deliveries_wait_and_a_rotation_covers_them() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    set(&world, webhook, authorization("Bearer one")).await;
    // The secret is under the new key, and the headers still under the old one.
    let both =
        world.database.store_of_with_keys("dispatcher", &format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}"));
    let secret = Some(SecretBytes::new(SECRET.as_bytes()));
    let change = WebhookChange { secret, ..WebhookChange::default() };
    both.change_webhook(world.tenant, webhook, &change, world.clock.now()).await.unwrap();
    let newer = world.database.store_of_with_keys("dispatcher", OTHER_ENCRYPTION_KEY);
    let _dispatcher = world.dispatcher_with(|config| config.store = newer).await;
    world.publish("e1").await;
    eventually("the delivery waiting", async || {
        let waiting = "SELECT count(*) FROM deliveries WHERE leased_by IS NULL AND attempts = 0
             AND NOT EXISTS (SELECT FROM open_batches)";
        (world.database.count(waiting).await == 1).then_some(())
    })
    .await;
    assert_eq!(world.history(webhook).await, []);
    let step = both.rotate_secrets(None).await.unwrap();
    assert_eq!((step.sealed, step.unreadable.len()), (1, 0));
    world.clock.advance(Duration::from_secs(34));
    assert_eq!(receiver.next().await.header("authorization"), "Bearer one");
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhooks_own_schedule_and_timeout_are_in_force() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.hang();
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let month = Duration::from_secs(30 * 86_400);
    let own = DeliveryChange {
        timeout: Some(Some(AttemptTimeout::from_ms(1_000).unwrap())),
        retry_schedule: Some(Some(RetrySchedule::of_webhook(&[100], month).unwrap())),
        ..DeliveryChange::default()
    };
    set(&world, webhook, own).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    receiver.next().await;
    let first = world.wait_for_history(webhook, 1).await.remove(0);
    assert_eq!(first.error.as_deref(), Some("timeout"));
    let gap = (first.next_attempt_at.unwrap() - first.started_at).as_seconds_f64();
    assert!((90.0..115.0).contains(&gap), "{gap}");
    world.clock.advance(Duration::from_secs(115));
    receiver.next().await;
    let last = world.wait_for_history(webhook, 2).await.remove(1);
    assert_eq!((last.attempt, last.next_attempt_at), (2, None), "its schedule allows two attempts");
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_timeout_lengthens_the_lease_of_a_delivery_that_waits_for_its_answer() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[500]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let own = DeliveryChange {
        timeout: Some(Some(AttemptTimeout::from_ms(30_000).unwrap())),
        ..DeliveryChange::default()
    };
    set(&world, webhook, own).await;
    // Without more, a lease would be shorter than the timeout, and the delivery never attempted.
    let brief = |config: &mut dispatcher::Config| {
        config.delivery_timeout = Duration::from_secs(2);
        config.lease = Duration::from_secs(5);
    };
    let _dispatcher = world.dispatcher_with(brief).await;
    world.publish("e1").await;
    receiver.next().await;
    world.wait_for_history(webhook, 1).await;
    receiver.hang();
    world.clock.advance(Duration::from_secs(6));
    receiver.next().await;
    let leased = world.database.client().await;
    let until =
        leased.query_one("SELECT due_at FROM deliveries WHERE leased_by IS NOT NULL", &[]).await.unwrap();
    let left: chrono::DateTime<chrono::Utc> = until.get(0);
    let seconds = (left - world.clock.now()).as_seconds_f64();
    assert!((34.0..=35.0).contains(&seconds), "{seconds}");
    receiver.release();
    assert_eq!(world.wait_for_history(webhook, 2).await[1].status_code, Some(204));
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_webhook_gets_a_link_and_others_the_data() {
    let world = World::create().await;
    let (mut thin, mut full) = (Receiver::start().await, Receiver::start().await);
    let webhook = world.webhook(&thin.url("/"), &["*"]).await;
    world.webhook(&full.url("/"), &["*"]).await;
    set(&world, webhook, DeliveryChange { is_thin: Some(true), ..DeliveryChange::default() }).await;
    let links =
        |config: &mut dispatcher::Config| config.event_links = "https://api.example.com".parse().unwrap();
    let _dispatcher = world.dispatcher_with(links).await;
    world.publish("e1").await;
    let request = thin.next().await;
    let body = r#"{"id":"e1","type":"message.sent","timestamp":"2026-05-30T10:00:00.000Z","url":"https://api.example.com/api/events/e1"}"#;
    assert_eq!(request.body, body);
    assert!(request.is_signed_with(SECRET));
    assert!(full.next().await.body.ends_with(br#""data":{}}"#));
    world.wait_until_settled().await;
}
