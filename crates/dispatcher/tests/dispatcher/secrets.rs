//! Secrets that cannot be read: the deliveries wait, whatever it takes, and cost nobody an attempt.

use std::time::Duration;

use domain::{Clock as _, DeliveryChange, SecretBytes, SignatureScheme, WebhookId};
use signing::SigningKey;
use store::{Store, WebhookChange};
use test_support::{ENCRYPTION_KEYS, OTHER_ENCRYPTION_KEY, Received, Receiver, eventually};

use crate::helpers::{SECRET, World};

/// Longer than a delivery rests after a fault of ours.
const REST: Duration = Duration::from_secs(34);

/// Waits until so many deliveries wait, and makes sure that nothing is charged for them.
async fn expect_waiting(world: &World, webhook: WebhookId, count: i64) {
    let now = world.clock.now();
    let waiting = format!(
        "SELECT count(*) FROM deliveries WHERE (due_at IS NULL OR due_at > '{now}') AND leased_by IS NULL AND attempts = 0
         AND NOT EXISTS (SELECT FROM open_batches)"
    );
    eventually("the deliveries waiting", async || {
        (world.database.count(&waiting).await == count).then_some(())
    })
    .await;
    assert_eq!(world.history(webhook).await, []);
    assert_eq!(world.database.count("SELECT count(*) FROM webhook_health").await, 0);
}

async fn rotate(store: &Store) {
    let step = store.rotate_secrets(None).await.unwrap();
    assert_eq!((step.unreadable.as_slice(), step.next), (&[][..], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_key_is_missing_deliveries_wait_and_with_it_they_are_made() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let keyless = world.database.store_of_with_keys("dispatcher", OTHER_ENCRYPTION_KEY);
    let dispatcher = world
        .dispatcher_with(|config| {
            config.store = keyless;
            config.webhook_concurrency = 2;
        })
        .await;
    // More failures in a row than the circuit breaker stands.
    for number in 0..25 {
        world.publish(&format!("e{number}")).await;
    }
    expect_waiting(&world, webhook, 25).await;
    let put_off = world.database.count("SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL").await;
    assert!((1..=2).contains(&put_off), "the others are not even tried: {put_off}");
    world.clock.advance(REST);
    expect_waiting(&world, webhook, 25).await;
    assert!(dispatcher.shut_down().await);
    assert!(receiver.try_next().is_none());

    let both =
        world.database.store_of_with_keys("dispatcher", &format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}"));
    let _dispatcher = world.dispatcher_with(|config| config.store = both).await;
    world.clock.advance(REST);
    for _ in 0..25 {
        assert!(receiver.next().await.is_signed_with(SECRET));
    }
    let history = world.wait_for_history(webhook, 25).await;
    assert!(history.iter().all(|attempt| (attempt.attempt, attempt.status_code) == (1, Some(204))));
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_lets_a_running_dispatcher_read_what_it_could_not() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let newer = world.database.store_of_with_keys("dispatcher", OTHER_ENCRYPTION_KEY);
    let _dispatcher = world.dispatcher_with(|config| config.store = newer).await;
    world.publish("e1").await;
    expect_waiting(&world, webhook, 1).await;
    rotate(&world.database.store_with_keys(&format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}"))).await;
    world.clock.advance(REST);
    assert!(receiver.next().await.is_signed_with(SECRET));
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_way_disturbs_no_delivery_also_of_secrets_from_before_there_were_keys() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let plain = "UPDATE webhooks SET secret = $1, secret_key_id = NULL";
    world.database.client().await.execute(plain, &[&SECRET.as_bytes()]).await.unwrap();
    let _dispatcher = world.dispatcher().await;
    world.publish("plain").await;
    assert!(receiver.next().await.is_signed_with(SECRET));
    rotate(&world.database.store).await;
    world.publish("sealed").await;
    assert!(receiver.next().await.is_signed_with(SECRET));
    assert_eq!(world.wait_for_history(webhook, 2).await.len(), 2);
    assert_eq!(world.database.count("SELECT count(*) FROM webhooks WHERE secret_key_id = 'test'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_tampered_with_signs_nothing_and_loses_nothing() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let flip = "UPDATE webhooks SET secret = set_byte(secret, 20, get_byte(secret, 20) # 1)";
    world.database.client().await.execute(flip, &[]).await.unwrap();
    let dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    expect_waiting(&world, webhook, 1).await;
    assert!(receiver.try_next().is_none());
    assert!(dispatcher.shut_down().await);
    world.database.client().await.execute(flip, &[]).await.unwrap();
    let _dispatcher = world.dispatcher().await;
    world.clock.advance(REST);
    assert!(receiver.next().await.is_signed_with(SECRET));
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_an_overlap_deliveries_carry_both_signatures_and_after_it_the_new_one_alone() {
    const NEW: &str = "another-signing-secret";
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let (new, overlap) = (SecretBytes::new(NEW.as_bytes()), Duration::from_secs(3600));
    let now = world.clock.now();
    world.database.store.replace_secret(world.tenant, webhook, &new, overlap, now).await.unwrap().unwrap();
    let _dispatcher = world.dispatcher().await;
    world.publish("during").await;
    let during = receiver.next().await;
    assert!(during.is_signed_with(NEW) && during.is_signed_with(SECRET));
    let signatures: Vec<&str> = during.header("webhook-signature").split(' ').collect();
    let newest: signing::Secret = NEW.parse().unwrap();
    let at = during.header("webhook-timestamp").parse().unwrap();
    assert_eq!(signatures.len(), 2);
    assert_eq!(signatures[0], signing::sign([&newest], "during", at, &during.body), "the newest first");
    world.clock.advance(Duration::from_secs(3601));
    world.publish("after").await;
    let after = receiver.next().await;
    assert!(after.is_signed_with(NEW) && !after.is_signed_with(SECRET));
    assert_eq!(world.wait_for_history(webhook, 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_rotation_covers_replaced_secrets_and_while_their_key_is_missing_deliveries_wait() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let new = SecretBytes::new(*b"another-signing-secret");
    let overlap = Duration::from_secs(86_400);
    let now = world.clock.now();
    world.database.store.replace_secret(world.tenant, webhook, &new, overlap, now).await.unwrap().unwrap();
    let both =
        world.database.store_of_with_keys("dispatcher", &format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}"));
    let step = both.rotate_secrets(None).await.unwrap();
    assert_eq!((step.sealed, step.unreadable.len()), (2, 0), "both secrets");
    // One of the two is under a key that the dispatcher does not have.
    let client = world.database.client().await;
    client.execute("UPDATE webhooks SET previous_secrets_key_id = 'forgotten'", &[]).await.unwrap();
    let other = world.database.store_of_with_keys("dispatcher", OTHER_ENCRYPTION_KEY);
    let dispatcher = world.dispatcher_with(|config| config.store = other.clone()).await;
    world.publish("e1").await;
    expect_waiting(&world, webhook, 1).await;
    assert!(dispatcher.shut_down().await);
    client.execute("UPDATE webhooks SET previous_secrets_key_id = 'other'", &[]).await.unwrap();
    let _dispatcher = world.dispatcher_with(|config| config.store = other).await;
    world.clock.advance(REST);
    assert!(receiver.next().await.is_signed_with(SECRET), "the replaced one signs yet");
    world.wait_until_settled().await;
}

/// Whether a request is signed with a private key, judged at its own time.
fn is_signed_by(request: &Received, key: &SigningKey) -> bool {
    let timestamp = request.header("webhook-timestamp");
    let (signatures, now) = (request.header("webhook-signature"), timestamp.parse().unwrap());
    let key = key.verifying_key();
    signing::verify_ed25519([&key], request.id(), timestamp, signatures, &request.body, now).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_signed_with_a_private_key_overlap_when_it_is_replaced_and_carry_no_hmac() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let (old, new) = (SigningKey::generate(), SigningKey::generate());
    let webhook = world.webhook_signed_with(&old, &receiver.url("/")).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("before").await;
    let before = receiver.next().await;
    assert!(is_signed_by(&before, &old) && !before.is_signed_with(SECRET));
    let signatures = before.header("webhook-signature");
    assert!(signatures.starts_with("v1a,") && !signatures.contains(' '), "{signatures}");

    let (seed, hour, now) =
        (SecretBytes::new(new.expose_seed()), Duration::from_secs(3600), world.clock.now());
    let store = &world.database.store;
    store.replace_signing_key(world.tenant, webhook, &seed, hour, now).await.unwrap().unwrap();
    world.publish("during").await;
    let during = receiver.next().await;
    assert!(is_signed_by(&during, &new) && is_signed_by(&during, &old));
    world.clock.advance(hour);
    world.publish("after").await;
    let after = receiver.next().await;
    assert!(is_signed_by(&after, &new) && !is_signed_by(&after, &old));

    let delivery =
        DeliveryChange { signature_scheme: Some(SignatureScheme::HmacSha256), ..DeliveryChange::default() };
    let change = WebhookChange { delivery, ..WebhookChange::default() };
    store.change_webhook(world.tenant, webhook, &change, world.clock.now()).await.unwrap().unwrap();
    world.publish("changed").await;
    let changed = receiver.next().await;
    assert!(changed.is_signed_with(SECRET) && !is_signed_by(&changed, &new));
    assert_eq!(world.wait_for_history(webhook, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_encryption_keys_covers_private_keys_and_while_theirs_is_missing_deliveries_wait() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let key = SigningKey::generate();
    let webhook = world.webhook_signed_with(&key, &receiver.url("/")).await;
    let row =
        world.database.client().await.query_one("SELECT signing_keys FROM webhooks", &[]).await.unwrap();
    let stored: Vec<u8> = row.get(0);
    assert!(!stored.windows(32).any(|window| window == key.expose_seed()), "encrypted");
    let both = world.database.store_with_keys(&format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}"));
    let step = both.rotate_secrets(None).await.unwrap();
    assert_eq!((step.sealed, step.unreadable.len()), (2, 0), "the secret and the private key");
    let client = world.database.client().await;
    client.execute("UPDATE webhooks SET signing_keys_key_id = 'forgotten'", &[]).await.unwrap();
    let other = world.database.store_with_keys(OTHER_ENCRYPTION_KEY);
    let dispatcher = world.dispatcher_with(|config| config.store = other.clone()).await;
    world.publish("e1").await;
    expect_waiting(&world, webhook, 1).await;
    assert!(dispatcher.shut_down().await);
    client.execute("UPDATE webhooks SET signing_keys_key_id = 'other'", &[]).await.unwrap();
    let _dispatcher = world.dispatcher_with(|config| config.store = other).await;
    world.clock.advance(REST);
    assert!(is_signed_by(&receiver.next().await, &key));
    world.wait_until_settled().await;
}
