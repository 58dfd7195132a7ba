//! Deliveries that are signed with a private key, and the public keys that verify them.

use reqwest::Method;
use serde_json::{Value, json};
use signing::VerifyingKey;
use test_support::Receiver;

use crate::helpers::{TestApi, send};

async fn create(api: &TestApi, url: &str) -> Value {
    let body = json!({"url": url, "events": ["message.received"], "signatureScheme": "ed25519"}).to_string();
    let created = api.post("/api/webhooks", &body).await;
    assert_eq!(created.status, 201, "{created:?}");
    created.body["data"].clone()
}

/// The published keys, as anybody reads them.
async fn published(api: &TestApi, id: &str) -> Vec<Value> {
    let answer = send(api.request(Method::GET, &format!("/api/webhooks/{id}/jwks.json"))).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "public, max-age=300"), "{answer:?}");
    answer.body["keys"].as_array().unwrap().clone()
}

fn key(view: &Value) -> VerifyingKey {
    view["key"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_delivery_verifies_with_the_published_key_alone() {
    let api = TestApi::start().await;
    let mut receiver = Receiver::start().await;
    let webhook = create(&api, &receiver.url("/")).await;
    let id = webhook["id"].as_str().unwrap();
    assert_eq!(webhook["signatureScheme"], "ed25519");
    let shown = key(&webhook["publicKeys"][0]);
    let keys = published(&api, id).await;
    let jwk = json!({"kid": shown.id(), "kty": "OKP", "crv": "Ed25519", "x": shown.to_base64url(), "alg": "EdDSA", "use": "sig"});
    assert_eq!(keys, [jwk]);
    assert_eq!(api.post(&format!("/api/webhooks/{id}/test"), "").await.status, 200);
    let request = receiver.next().await;
    let timestamp = request.header("webhook-timestamp");
    let (signatures, now) = (request.header("webhook-signature"), timestamp.parse().unwrap());
    let verified = signing::verify_ed25519([&shown], request.id(), timestamp, signatures, &request.body, now);
    assert_eq!(verified, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_publishes_both_keys_until_the_old_one_ends_and_never_a_private_one() {
    let api = TestApi::start().await;
    let webhook = create(&api, "https://example.com/").await;
    let id = webhook["id"].as_str().unwrap();
    let old = webhook["publicKeys"][0].clone();
    let rotate = format!("/api/webhooks/{id}/secret/rotate");
    let rotated = api.post(&rotate, r#"{"overlapSeconds":3600}"#).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let keys = rotated.body["data"]["publicKeys"].as_array().unwrap().clone();
    assert_eq!((keys.len(), &keys[1]["kid"]), (2, &old["kid"]));
    assert!(keys[0]["expiresAt"].is_null() && keys[1]["expiresAt"].is_string());
    let secret = &webhook["secret"];
    assert_eq!((&rotated.body["data"]["secret"], &rotated.body["data"]["previous"]), (secret, &json!([])));
    let names: Vec<Value> = published(&api, id).await.iter().map(|key| key["kid"].clone()).collect();
    assert_eq!(names, [keys[0]["kid"].clone(), old["kid"].clone()]);

    let at_once = api.post(&rotate, r#"{"overlapSeconds":0}"#).await;
    let left = at_once.body["data"]["publicKeys"].as_array().unwrap();
    assert_eq!((left.len(), &left[1]["kid"]), (2, &old["kid"]), "one that has not ended yet");
    let refused = api.post(&rotate, r#"{"secret":"another-signing-secret"}"#).await;
    assert_eq!((refused.status, refused.code()), (400, "VALIDATION_ERROR"));
    for _ in 0..3 {
        assert_eq!(api.post(&rotate, "").await.status, 200);
    }
    let full = api.post(&rotate, "").await;
    assert_eq!((full.status, full.code()), (409, "CONFLICT"));
    let all = api.get(&format!("/api/webhooks/{id}")).await.body.to_string()
        + &api.get(&format!("/api/webhooks/{id}/secret")).await.body.to_string();
    assert!(!all.contains("whsk_") && all.contains("whpk_"), "{all}");
    let told = "SELECT count(*) FROM outbox WHERE type = 'webhook.secret_rotated'";
    assert_eq!(api.database.count(told).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_changes_between_schemes_and_keeps_its_secret_and_its_key() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}");
    let plain = api.get(&path).await.body["data"].clone();
    assert_eq!((&plain["signatureScheme"], &plain["publicKeys"]), (&json!("hmac-sha256"), &json!([])));
    let secret = api.get(&format!("{path}/secret")).await.body["data"]["secret"].clone();
    let changed = api.patch(&path, r#"{"signatureScheme":"ed25519"}"#).await.body["data"].clone();
    assert_eq!(changed["signatureScheme"], "ed25519");
    let kid = changed["publicKeys"][0]["kid"].clone();
    let back = api.patch(&path, r#"{"signatureScheme":"hmac-sha256"}"#).await.body["data"].clone();
    assert_eq!((&back["signatureScheme"], &back["publicKeys"][0]["kid"]), (&json!("hmac-sha256"), &kid));
    let again = api.patch(&path, r#"{"signatureScheme":"ed25519"}"#).await.body["data"].clone();
    assert_eq!(again["publicKeys"][0]["kid"], kid, "no new key");
    assert_eq!(api.get(&format!("{path}/secret")).await.body["data"]["secret"], secret);
    for bad in [r#"{"signatureScheme":"rsa"}"#, r#"{"signatureScheme":""}"#] {
        let refused = api.patch(&path, bad).await;
        assert_eq!((refused.status, refused.code()), (400, "VALIDATION_ERROR"), "{bad}");
        assert!(refused.body["errors"]["signatureScheme"].is_string(), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_without_public_keys_and_none_at_all_look_the_same_to_strangers() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    for id in [id.as_str(), "018f0000-0000-7000-8000-000000000000", "x"] {
        let answer = send(api.request(Method::GET, &format!("/api/webhooks/{id}/jwks.json"))).await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{id}");
        assert_eq!(answer.body["message"], "Webhook not found");
    }
    let webhook = create(&api, "https://example.com/2").await;
    let id = webhook["id"].as_str().unwrap();
    let forget = "UPDATE webhooks SET signing_keys_key_id = 'forgotten' WHERE signing_keys IS NOT NULL";
    api.database.client().await.execute(forget, &[]).await.unwrap();
    let answer = send(api.request(Method::GET, &format!("/api/webhooks/{id}/jwks.json"))).await;
    assert_eq!((answer.status, answer.code()), (503, "SERVICE_UNAVAILABLE"));
    assert!(api.get(&format!("/api/webhooks/{id}")).await.body["data"]["publicKeys"].is_null());
    assert_eq!(api.delete(&format!("/api/webhooks/{id}")).await.status, 200);
    let answer = send(api.request(Method::GET, &format!("/api/webhooks/{id}/jwks.json"))).await;
    assert_eq!(answer.status, 404);
}
