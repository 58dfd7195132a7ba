//! One test for each line of the contract: paths, statuses, envelopes, fields.

use reqwest::Method;
use serde_json::json;

use crate::helpers::{TestApi, send};

#[tokio::test(flavor = "multi_thread")]
async fn event_types_are_public_and_a_plain_list() {
    let api = TestApi::start().await;
    let answer = send(api.request(Method::GET, "/api/webhooks/events")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body,
        json!({
            "success": true,
            "data": [
                "message.received",
                "message.sent",
                "session.connected",
                "session.disconnected",
                "campaign.completed"
            ]
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_webhook_answers_201_with_id_and_is_active() {
    let api = TestApi::start().await;
    let request = r#"{
        "url": "https://api.yourapp.com/webhooks/actiwapi",
        "events": ["message.received", "session.disconnected"],
        "secret": "your-signing-secret"
    }"#;
    let answer = api.post("/api/webhooks", request).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.body["success"], json!(true));
    assert_eq!(answer.body["data"]["isActive"], json!(true));
    answer.id().parse::<uuid::Uuid>().unwrap();
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_webhooks_shows_id_url_events_and_is_active() {
    let api = TestApi::start().await;
    assert_eq!(api.get("/api/webhooks").await.body, json!({"success": true, "data": []}));
    let id = api.create_webhook("https://api.yourapp.com/webhooks/actiwapi").await;
    let answer = api.get("/api/webhooks").await;
    assert_eq!(answer.status, 200);
    let data = answer.body["data"].as_array().unwrap();
    assert_eq!(data.len(), 1);
    assert_eq!(data[0]["id"], json!(id));
    assert_eq!(data[0]["url"], json!("https://api.yourapp.com/webhooks/actiwapi"));
    assert_eq!(data[0]["events"], json!(["message.received"]));
    assert_eq!(data[0]["isActive"], json!(true));
    assert_eq!(data[0].get("secret"), None, "a secret is shown at creation only");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_of_a_webhook_is_an_array_in_the_envelope() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let answer = api.get(&format!("/api/webhooks/{id}/history")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["success"], json!(true));
    assert_eq!(answer.body["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_the_public_list_wants_a_token() {
    let api = TestApi::start().await;
    let id = uuid::Uuid::now_v7();
    for (method, path) in [
        (Method::GET, "/api/webhooks".to_owned()),
        (Method::POST, "/api/webhooks".to_owned()),
        (Method::GET, format!("/api/webhooks/{id}")),
        (Method::PATCH, format!("/api/webhooks/{id}")),
        (Method::DELETE, format!("/api/webhooks/{id}")),
        (Method::GET, format!("/api/webhooks/{id}/history")),
        (Method::POST, "/api/events".to_owned()),
    ] {
        let answer = send(api.request(method.clone(), &path)).await;
        assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"), "{method} {path}");
        assert_eq!(answer.body["success"], json!(false));
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_error_has_a_message_a_code_and_an_error_for_each_field() {
    let api = TestApi::start().await;
    let answer = api.post("/api/webhooks", r#"{"events":[],"secret":"short"}"#).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body["success"], json!(false));
    assert_eq!(answer.body["message"], json!("Validation failed"));
    assert_eq!(answer.code(), "VALIDATION_ERROR");
    let errors = answer.body["errors"].as_object().unwrap();
    let fields: Vec<&str> = errors.keys().map(String::as_str).collect();
    assert_eq!(fields, ["events", "secret", "url"]);
    assert!(errors.values().all(serde_json::Value::is_string));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_of_nobody_or_of_another_tenant_is_404() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let stranger = crate::helpers::token(domain::TenantId(uuid::Uuid::now_v7()), crate::helpers::ALL_SCOPES);
    for id in [id.as_str(), "018f0000-0000-7000-8000-000000000000", "not-a-uuid"] {
        for (method, path, body) in [
            (Method::GET, format!("/api/webhooks/{id}"), None),
            (Method::PATCH, format!("/api/webhooks/{id}"), Some("{}")),
            (Method::DELETE, format!("/api/webhooks/{id}"), None),
            (Method::GET, format!("/api/webhooks/{id}/history"), None),
        ] {
            let answer = api.call_as(&stranger, method.clone(), &path, body).await;
            assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{method} {path}");
            assert_eq!(answer.body["message"], json!("Webhook not found"), "no hint that it exists");
        }
    }
    assert_eq!(api.get(&format!("/api/webhooks/{id}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_url_and_events_twice_is_a_conflict() {
    let api = TestApi::start().await;
    api.create_webhook("https://example.com/hook").await;
    let again = r#"{"url":"https://example.com/hook","events":["message.received"]}"#;
    let answer = api.post("/api/webhooks", again).await;
    assert_eq!((answer.status, answer.code()), (409, "CONFLICT"));
    let other = r#"{"url":"https://example.com/hook","events":["message.sent","message.received"]}"#;
    let id = api.post("/api/webhooks", other).await.id();
    let answer = api.patch(&format!("/api/webhooks/{id}"), r#"{"events":["message.received"]}"#).await;
    assert_eq!((answer.status, answer.code()), (409, "CONFLICT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_allows_no_more_webhooks_is_403_limit_exceeded() {
    let api = TestApi::start().await;
    let client = api.database.client().await;
    client.batch_execute("UPDATE plans SET max_webhooks = 1").await.unwrap();
    api.create_webhook("https://example.com/1").await;
    let second = r#"{"url":"https://example.com/2","events":["message.received"]}"#;
    let answer = api.post("/api/webhooks", second).await;
    assert_eq!((answer.status, answer.code()), (403, "LIMIT_EXCEEDED"));
}
