//! Secrets: shown to who may write, and replaced without a gap.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::helpers::{ALL_SCOPES, TestApi, token};

const OLD: &str = "whsec_eW91ci1zaWduaW5nLXNlY3JldA==";

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_and_replaced_with_an_overlap() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}/secret");
    let rotate = format!("{path}/rotate");
    let shown = api.get(&path).await;
    assert_eq!(
        shown.body["data"],
        json!({"secret": OLD, "previous": [], "signatureScheme": "hmac-sha256", "publicKeys": []})
    );
    assert_eq!(shown.header("cache-control"), "no-store");

    let before = Utc::now();
    let rotated = api.post(&rotate, "").await;
    assert_eq!((rotated.status, rotated.header("cache-control")), (200, "no-store"), "{rotated:?}");
    let data = &rotated.body["data"];
    let made_up = data["secret"].as_str().unwrap();
    assert!(made_up.starts_with("whsec_") && made_up.len() == 6 + 44, "{made_up}");
    assert_eq!(data["previous"][0]["secret"], json!(OLD));
    let expires: DateTime<Utc> = data["previous"][0]["expiresAt"].as_str().unwrap().parse().unwrap();
    assert!(((expires - before).num_seconds() - 86_400).abs() <= 5, "a day: {expires}");
    assert_eq!(api.get(&path).await.body, rotated.body);

    let given = r#"{"secret":"a-third-signing-secret","overlapSeconds":60}"#;
    let third = api.post(&rotate, given).await.body["data"].clone();
    let secrets = |data: &Value| -> Vec<Value> {
        let previous = data["previous"].as_array().unwrap().iter().map(|previous| previous["secret"].clone());
        std::iter::once(data["secret"].clone()).chain(previous).collect()
    };
    let revealed = json!("whsec_YS10aGlyZC1zaWduaW5nLXNlY3JldA==");
    assert_eq!(secrets(&third), [revealed.clone(), json!(made_up), json!(OLD)], "the newest first");
    let at_once = api.post(&rotate, r#"{"secret":"a-fourth-signing-secret","overlapSeconds":0}"#).await;
    assert!(!secrets(&at_once.body["data"]).contains(&revealed), "without overlap it ends at once");

    let patched = api.patch(&format!("/api/webhooks/{id}"), r#"{"secret":"your-signing-secret"}"#).await;
    assert_eq!(patched.status, 200);
    assert_eq!(
        api.get(&path).await.body["data"],
        json!({"secret": OLD, "previous": [], "signatureScheme": "hmac-sha256", "publicKeys": []}),
        "PATCH has no overlap"
    );
    let webhook = api.get(&format!("/api/webhooks/{id}")).await.body.to_string();
    assert!(!webhook.contains("whsec_"), "{webhook}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_five_secrets_sign_at_a_time() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let rotate = format!("/api/webhooks/{id}/secret/rotate");
    for _ in 0..4 {
        assert_eq!(api.post(&rotate, "").await.status, 200);
    }
    let refused = api.post(&rotate, "").await;
    assert_eq!((refused.status, refused.code()), (409, "CONFLICT"));
    assert_eq!(api.post(&rotate, r#"{"overlapSeconds":0}"#).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rotations_strangers_and_missing_keys_are_refused() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}/secret");
    let rotate = format!("{path}/rotate");
    for (bad, field) in [
        (r#"{"overlapSeconds":-1}"#, "overlapSeconds"),
        (r#"{"overlapSeconds":604801}"#, "overlapSeconds"),
        (r#"{"overlapSeconds":1.5}"#, "overlapSeconds"),
        (r#"{"secret":"short"}"#, "secret"),
        (r#"{"secret":"your-signing-secret"}"#, "secret"),
        (r#"{"overlap":1}"#, "overlap"),
    ] {
        let refused = api.post(&rotate, bad).await;
        assert_eq!((refused.status, refused.code()), (400, "VALIDATION_ERROR"), "{bad}");
        assert!(refused.body["errors"][field].is_string(), "{refused:?}");
    }
    let stranger = token(domain::TenantId(uuid::Uuid::now_v7()), ALL_SCOPES);
    for (method, path) in [(Method::GET, &path), (Method::POST, &rotate)] {
        let refused = api.call_as(&stranger, method, path, None).await;
        assert_eq!((refused.status, refused.code()), (404, "NOT_FOUND"));
    }
    let forget = "UPDATE webhooks SET secret_key_id = 'forgotten'";
    api.database.client().await.execute(forget, &[]).await.unwrap();
    for (method, path) in [(Method::GET, &path), (Method::POST, &rotate)] {
        let refused = api.call_as(&api.token, method, path, None).await;
        assert_eq!((refused.status, refused.code()), (503, "SERVICE_UNAVAILABLE"), "{refused:?}");
    }
}
