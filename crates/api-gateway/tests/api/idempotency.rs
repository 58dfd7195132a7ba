use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use domain::TenantId;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::helpers::{ALL_SCOPES, Answer, TestApi, send, token};
use crate::publishing::next_message;

const EVENT: &str = r#"{"type":"message.sent","data":1}"#;
const OTHER: &str = r#"{"type":"message.sent","data":2}"#;

async fn publish(api: &TestApi, token: &str, path: &str, key: &str, body: &str) -> Answer {
    let request = api.request(Method::POST, path).bearer_auth(token).header("idempotency-key", key);
    send(request.header("content-type", "application/json").body(body.to_owned())).await
}

async fn publish_event(api: &TestApi, key: &str, body: &str) -> Answer {
    publish(api, &api.token, "/api/events", key, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_and_body_have_the_same_event_and_another_body_is_a_conflict() {
    let api = TestApi::start().await;
    let first = publish_event(&api, "key-1", EVENT).await;
    assert_eq!(first.status, 202, "{first:?}");
    assert_eq!(publish_event(&api, "key-1", EVENT).await.body, first.body);
    let other = publish_event(&api, "key-1", OTHER).await;
    assert_eq!((other.status, other.code()), (409, "CONFLICT"), "{other:?}");
    assert_ne!(publish_event(&api, "key-2", EVENT).await.id(), first.id(), "another key is another event");
    let batch = format!(r#"{{"events":[{EVENT}]}}"#);
    let elsewhere = publish(&api, &api.token, "/api/events/batch", "key-1", &batch).await;
    assert_eq!(elsewhere.status, 409, "{elsewhere:?}");
    let somebody = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    let theirs = publish(&api, &somebody, "/api/events", "key-1", OTHER).await;
    assert_eq!(theirs.status, 202, "a tenant's keys are its own: {theirs:?}");
    // The event's own id comes first.
    let named = publish_event(&api, "key-3", r#"{"type":"message.sent","data":1,"id":"mine"}"#).await;
    assert_eq!(named.id(), "mine");
    assert_eq!(api.database.count("SELECT count(*) FROM idempotency_keys").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_have_one_event() {
    let api = Arc::new(TestApi::start().await);
    api.wait_until_ready().await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let api = Arc::clone(&api);
            tokio::spawn(async move { publish_event(&api, "key", EVENT).await })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
        ids.insert(answer.id());
    }
    assert_eq!(ids.len(), 1, "which is taken over once: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_repeated_batch_have_the_ids_they_had() {
    let api = TestApi::start().await;
    let batch = format!(r#"{{"events":[{EVENT},{EVENT},7]}}"#);
    let first = publish(&api, &api.token, "/api/events/batch", "key", &batch).await;
    assert_eq!(first.status, 207, "{first:?}");
    assert_ne!(first.body["data"][0]["id"], first.body["data"][1]["id"]);
    assert_eq!(publish(&api, &api.token, "/api/events/batch", "key", &batch).await.body, first.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_1_to_255_visible_characters() {
    let api = TestApi::start().await;
    for bad in ["", " ", &"x".repeat(256), "sch\u{f6}n"] {
        let answer = publish_event(&api, bad, EVENT).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{bad:?}");
        assert!(answer.body["errors"]["Idempotency-Key"].is_string(), "{answer:?}");
    }
    let request = api.request(Method::POST, "/api/events").bearer_auth(&api.token);
    let twice = request.header("idempotency-key", "a").header("idempotency-key", "b").body(EVENT);
    assert_eq!(send(twice).await.status, 400);
    assert_eq!(publish_event(&api, &"x".repeat(255), EVENT).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_known_for_a_day() {
    let api = TestApi::start().await;
    publish_event(&api, "key", EVENT).await;
    let store = &api.database.store;
    let now = Utc::now();
    assert_eq!(store.forget_idempotency_keys(now - TimeDelta::hours(24)).await.unwrap(), 0);
    assert_eq!(publish_event(&api, "key", OTHER).await.status, 409);
    let tomorrow = now + TimeDelta::hours(25);
    let (tenant, since) = (api.tenant, tomorrow - TimeDelta::hours(24));
    assert!(store.use_idempotency_key(tenant, "key", b"other", tomorrow, since).await.unwrap(), "free again");
    assert!(!store.use_idempotency_key(tenant, "key", b"third", tomorrow, since).await.unwrap());
    assert_eq!(store.forget_idempotency_keys(tomorrow + TimeDelta::hours(1)).await.unwrap(), 1);
    assert_eq!(api.database.count("SELECT count(*) FROM idempotency_keys").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_a_repeat_still_has_the_same_id() {
    let nowhere = store::Store::new("postgres://nobody@127.0.0.1:1/none", 1).unwrap();
    let api = TestApi::start_with(|config| config.store = nowhere).await;
    let first = publish_event(&api, "key", EVENT).await;
    assert_eq!(first.status, 202, "{first:?}");
    assert_eq!(publish_event(&api, "key", EVENT).await.id(), first.id());
    let other = publish_event(&api, "key", OTHER).await;
    assert_eq!(other.status, 202, "accepted as another event, rather than lost");
    assert_ne!(other.id(), first.id());
    let sent: Vec<Value> = next_message(&api).await;
    assert_eq!(sent[0]["id"], json!(first.id()));
}
