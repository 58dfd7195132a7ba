//! Webhook secrets at rest.

use std::process::Command;

use chrono::Utc;
use domain::{SecretBytes, SecretUnreadable, TenantId, Webhook, WebhookId, WebhookUrl};
use postrider_store::{CreateError, NewWebhook, RotationStep, Store, StoreError, WebhookChange};
use test_support::{ENCRYPTION_KEYS, OTHER_ENCRYPTION_KEY, TestDatabase};
use uuid::Uuid;

use crate::new_tenant;
use crate::walls::migrated_by_an_owner;

const SECRET: &[u8] = b"your-signing-secret";

async fn create(store: &Store, tenant: TenantId, url: &str) -> Result<Webhook, CreateError> {
    let url = WebhookUrl::parse_stored(url).unwrap();
    let new = NewWebhook::new(url, vec!["*".parse().unwrap()], SecretBytes::new(SECRET));
    store.create_webhook(tenant, &new, Utc::now()).await
}

/// What is stored: the bytes, and the name of their key.
async fn stored(database: &TestDatabase, webhook: WebhookId) -> (Vec<u8>, Option<String>) {
    let query = "SELECT secret, secret_key_id FROM webhooks WHERE id = $1";
    let row = database.client().await.query_one(query, &[&webhook.0]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Plants webhooks as they were before secrets were encrypted.
async fn plant_plain(database: &TestDatabase, tenant: TenantId, count: i32) {
    let plant = "INSERT INTO webhooks
            (id, tenant_id, url, events, secret, is_active, duplicate_key, created_at, updated_at)
        SELECT gen_random_uuid(), $1, 'https://example.com/' || n, '{*}', $2, true, n::text, now(), now()
        FROM generate_series(1, $3) n";
    database.client().await.execute(plant, &[&tenant.0, &SECRET, &count]).await.unwrap();
}

async fn rotate(store: &Store) -> Vec<RotationStep> {
    let mut steps: Vec<RotationStep> = Vec::new();
    loop {
        let after = steps.last().and_then(|step| step.next);
        steps.push(store.rotate_secrets(after).await.unwrap());
        if steps.last().is_none_or(|step| step.next.is_none()) {
            return steps;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_encrypted_in_the_database_and_readable_through_the_store() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    let webhook = create(&database.store, tenant, "https://example.com/").await.unwrap();
    assert_eq!(webhook.secret, Ok(SecretBytes::new(SECRET)));
    let (bytes, key_id) = stored(&database, webhook.id).await;
    assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET));
    assert_eq!(key_id.as_deref(), Some("test"));

    let change = WebhookChange { is_active: Some(false), ..WebhookChange::default() };
    database.store.change_webhook(tenant, webhook.id, &change, Utc::now()).await.unwrap();
    assert_eq!(
        stored(&database, webhook.id).await,
        (bytes.clone(), key_id),
        "another change leaves it alone"
    );

    let new_secret = SecretBytes::new(*b"another-signing-secret");
    let change = WebhookChange { secret: Some(new_secret.clone()), ..WebhookChange::default() };
    let changed = database.store.change_webhook(tenant, webhook.id, &change, Utc::now()).await.unwrap();
    assert_eq!(changed.unwrap().secret, Ok(new_secret));
    assert_ne!(stored(&database, webhook.id).await.0, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_whose_key_is_missing_can_be_seen_and_changed_and_keeps_its_secret() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    let webhook = create(&database.store, tenant, "https://example.com/").await.unwrap();
    let before = stored(&database, webhook.id).await;
    let keyless = database.store_with_keys(OTHER_ENCRYPTION_KEY);
    let unknown = Err(SecretUnreadable::UnknownKey { key_id: "test".into() });
    assert_eq!(keyless.webhook(tenant, webhook.id).await.unwrap().unwrap().secret, unknown);
    assert_eq!(keyless.webhooks(tenant).await.unwrap()[0].secret, unknown);
    assert_eq!(keyless.webhooks_of_tenants(&[tenant]).await.unwrap()[&tenant][0].secret, unknown);

    let url = WebhookUrl::parse_stored("https://example.com/elsewhere").unwrap();
    let change = WebhookChange { url: Some(url.clone()), ..WebhookChange::default() };
    let changed = keyless.change_webhook(tenant, webhook.id, &change, Utc::now()).await.unwrap().unwrap();
    assert_eq!((changed.url, changed.secret), (url, unknown));
    assert_eq!(stored(&database, webhook.id).await, before);
    let read = database.store.webhook(tenant, webhook.id).await.unwrap().unwrap();
    assert_eq!(read.secret, Ok(SecretBytes::new(SECRET)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_copied_from_another_webhook_does_not_open() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    let victim = create(&database.store, tenant, "https://example.com/1").await.unwrap().id;
    let thief = create(&database.store, tenant, "https://example.com/2").await.unwrap().id;
    let copy = "UPDATE webhooks SET secret = (SELECT secret FROM webhooks WHERE id = $1) WHERE id = $2";
    database.client().await.execute(copy, &[&victim.0, &thief.0]).await.unwrap();
    let damaged = Err(SecretUnreadable::Damaged { key_id: "test".into() });
    assert_eq!(database.store.webhook(tenant, thief).await.unwrap().unwrap().secret, damaged);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_nothing_is_stored_in_plain() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    let keyless = Store::new(database.url(), 1).unwrap();
    let refused = create(&keyless, tenant, "https://example.com/").await;
    assert!(matches!(refused, Err(CreateError::Store(StoreError::NoKey))), "{refused:?}");
    assert!(matches!(keyless.rotate_secrets(None).await, Err(StoreError::NoKey)));
    assert_eq!(database.count("SELECT count(*) FROM webhooks").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_encrypts_everything_anew_step_by_step_and_reports_what_it_cannot_read() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    plant_plain(&database, tenant, 450).await;
    let sealed_before = create(&database.store, tenant, "https://example.com/").await.unwrap().id;
    let lost = create(&database.store, tenant, "https://example.com/lost").await.unwrap().id;
    let forget = "UPDATE webhooks SET secret_key_id = 'forgotten' WHERE id = $1";
    database.client().await.execute(forget, &[&lost.0]).await.unwrap();
    let version = "SELECT webhooks_version FROM tenants";
    let version_before = database.count(version).await;

    let rotated = database.store_with_keys(&format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}"));
    let steps = rotate(&rotated).await;
    assert_eq!(steps.iter().map(|step| step.sealed).sum::<usize>(), 451);
    assert_eq!(steps.len(), 3, "no more than 200 at a time");
    let unreadable: Vec<_> = steps.into_iter().flat_map(|step| step.unreadable).collect();
    assert_eq!(unreadable, [(lost, SecretUnreadable::UnknownKey { key_id: "forgotten".into() })]);
    assert!(database.count(version).await > version_before, "dispatchers take another look");

    // The old key is no longer needed.
    let other_alone = database.store_with_keys(OTHER_ENCRYPTION_KEY);
    let webhooks = other_alone.webhooks(tenant).await.unwrap();
    assert_eq!(webhooks.len(), 452);
    for webhook in webhooks.iter().filter(|webhook| webhook.id != lost) {
        assert_eq!(webhook.secret, Ok(SecretBytes::new(SECRET)), "{}", webhook.id);
    }
    assert_eq!(stored(&database, sealed_before).await.1.as_deref(), Some("other"));
    let again = rotate(&rotated).await;
    assert_eq!((again.len(), again[0].sealed), (1, 0), "nothing is left but the unreadable one");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_and_changes_at_the_same_time_lose_no_secret() {
    let database = TestDatabase::create().await;
    let mut tenants = Vec::new();
    for _ in 0..4 {
        let tenant = new_tenant(&database.store).await;
        plant_plain(&database, tenant, 150).await;
        tenants.push(tenant);
    }
    let rotated = database.store_with_keys(&format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}"));
    let new_secret = SecretBytes::new(*b"another-signing-secret");
    let changed: Vec<Webhook> = rotated.webhooks(tenants[0]).await.unwrap().into_iter().step_by(5).collect();
    let change = async {
        for webhook in &changed {
            let change = WebhookChange { secret: Some(new_secret.clone()), ..WebhookChange::default() };
            rotated.change_webhook(tenants[0], webhook.id, &change, Utc::now()).await.unwrap();
        }
    };
    tokio::join!(change, rotate(&rotated), rotate(&rotated));
    let stale = "SELECT count(*) FROM webhooks WHERE secret_key_id IS DISTINCT FROM 'other'";
    assert_eq!(database.count(stale).await, 0);
    let changed: Vec<Uuid> = changed.iter().map(|webhook| webhook.id.0).collect();
    for tenant in tenants {
        for webhook in rotated.webhooks(tenant).await.unwrap() {
            let is_changed = changed.contains(&webhook.id.0);
            let expected = if is_changed { new_secret.clone() } else { SecretBytes::new(SECRET) };
            assert_eq!(webhook.secret, Ok(expected));
        }
    }
}

/// Runs a program of Postgres's on two databases of one owner: what the one holds goes to the other, as in the runbook.
fn back_up_and_restore(from: &str, to: &str) {
    let file = std::env::temp_dir().join(format!("postrider-{}.dump", Uuid::now_v7().simple()));
    let file = file.to_str().unwrap();
    for (program, arguments) in [
        ("pg_dump", vec!["--enable-row-security", "--format=custom", "--file", file, from]),
        ("pg_restore", vec!["--exit-on-error", "--no-owner", "--dbname", to, file]),
    ] {
        let output = Command::new(program).args(&arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::remove_file(file).unwrap();
}

/// A database of the same owner's, without a schema.
async fn another_of_the_owner(url: &str) -> TestDatabase {
    let database = TestDatabase::create_empty().await;
    let owner = url.split("//").nth(1).unwrap().split(':').next().unwrap();
    let name = database.url().rsplit_once('/').unwrap().1;
    let give = format!("ALTER DATABASE {name} OWNER TO {owner}");
    database.client().await.batch_execute(&give).await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_with_its_secrets_which_open_in_their_places_alone() {
    let database = TestDatabase::create_empty().await;
    let (_, url) = migrated_by_an_owner(&database).await;
    let both_keys = format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}");
    let store = |url: &str, keys: &str| Store::new(url, 2).unwrap().with_keys(keys.parse().unwrap());
    let (old, new) = (store(&url, ENCRYPTION_KEYS), store(&url, &both_keys));
    let (one, other) = (new_tenant(&old).await, new_tenant(&old).await);
    let first = create(&old, one, "https://example.com/1").await.unwrap();
    let second = create(&old, one, "https://example.com/2").await.unwrap();
    let third = create(&new, one, "https://example.com/3").await.unwrap();

    let copy = another_of_the_owner(&url).await;
    let copy_url = format!("{}/{}", url.rsplit_once('/').unwrap().0, copy.url().rsplit_once('/').unwrap().1);
    back_up_and_restore(&url, &copy_url);
    let restored = store(&copy_url, &both_keys);
    assert_eq!(restored.migrate(|_| ()).await.unwrap(), 0);
    let secrets: Vec<_> = restored.webhooks(one).await.unwrap().into_iter().map(|w| w.secret).collect();
    assert_eq!(secrets, [SECRET; 3].map(|secret| Ok(SecretBytes::new(secret))), "under two keys");
    let gateway = copy.store_of_with_keys("gateway", &both_keys);
    assert_eq!(gateway.webhooks(one).await.unwrap().len(), 3, "the walls are restored too");
    assert_eq!(copy.client_of("gateway").await.query("SELECT FROM webhooks", &[]).await.unwrap().len(), 0);

    let client = copy.client().await;
    let [first, second, third] = [first, second, third].map(|webhook| webhook.id.0);
    let swap = "UPDATE webhooks w SET secret = o.secret FROM webhooks o
        WHERE (w.id, o.id) IN (VALUES ($1::uuid, $2::uuid), ($2, $1))";
    client.execute(swap, &[&first, &second]).await.unwrap();
    let move_column = "UPDATE webhooks SET headers = secret, headers_key_id = secret_key_id WHERE id = $1";
    client.execute(move_column, &[&third]).await.unwrap();
    let (test, other_key) = (Some("test".to_owned()), Some("other".to_owned()));
    let damaged = |key_id: Option<String>| SecretUnreadable::Damaged { key_id: key_id.unwrap().into() };
    for webhook in restored.webhooks(one).await.unwrap() {
        if webhook.id.0 == third {
            assert!(webhook.secret.is_ok());
            assert_eq!(webhook.delivery.headers.unwrap_err(), damaged(other_key.clone()), "another column");
        } else {
            assert_eq!(webhook.secret.unwrap_err(), damaged(test.clone()), "another row");
        }
    }
    let move_tenant =
        "UPDATE webhooks SET tenant_id = $2, headers = NULL, headers_key_id = NULL WHERE id = $1";
    client.execute(move_tenant, &[&third, &other.0]).await.unwrap();
    assert_eq!(restored.webhooks(other).await.unwrap()[0].secret, Err(damaged(other_key)), "another tenant");
}
