use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use domain::{Event, TenantId};
use reqwest::Method;
use serde_json::json;
use store::Lease;
use uuid::Uuid;

use crate::helpers::{ALL_SCOPES, TestApi, token};

/// Hands an event over as a dispatcher does, and settles its batch.
async fn hand_over(api: &TestApi, id: &str) {
    let TenantId(tenant) = api.tenant;
    api.database.store.ensure_tenants(&[api.tenant]).await.unwrap();
    let event = Event {
        tenant_id: TenantId(tenant),
        id: id.parse().unwrap(),
        event_type: "message.sent".parse().unwrap(),
        occurred_at: "2026-05-30T10:00:00Z".parse().unwrap(),
        session_id: Some("s1".parse().unwrap()),
        ordering_key: None,
        trace: None,
        body: Bytes::from_static(
            br#"{"id":"e1","type":"message.sent","timestamp":"2026-05-30T10:00:00.000Z","data":{"n":1.0,"big":12345678901234567890}}"#,
        ),
    };
    let now = Utc::now();
    let lease = Lease { holder: Uuid::now_v7(), until: now + TimeDelta::seconds(30) };
    api.database.store.hand_over(&[&event], now, lease, false).await.unwrap();
    api.database.client().await.execute("DELETE FROM open_batches", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_shown_to_its_tenant_as_it_was_published() {
    let api = TestApi::start().await;
    hand_over(&api, "e1").await;
    let answer = api.get("/api/events/e1").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let event = &answer.body["data"];
    assert_eq!((&event["id"], &event["type"]), (&json!("e1"), &json!("message.sent")));
    assert_eq!(event["occurredAt"], json!("2026-05-30T10:00:00.000Z"));
    assert_eq!((&event["sessionId"], &event["orderingKey"]), (&json!("s1"), &json!(null)));
    let text = api.request(Method::GET, "/api/events/e1").bearer_auth(&api.token).send().await.unwrap();
    let text = text.text().await.unwrap();
    assert!(text.contains(r#""data":{"n":1.0,"big":12345678901234567890}"#), "byte for byte: {text}");
    let other = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    for (token, path) in
        [(&api.token, "/api/events/e2"), (&api.token, "/api/events/a.b"), (&other, "/api/events/e1")]
    {
        let answer = api.call_as(token, Method::GET, path, None).await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_sent_again_once_at_a_time_and_only_to_ones_own_webhook() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    hand_over(&api, "e1").await;
    let path = format!("/api/webhooks/{webhook}/deliveries/e1/resend");
    let answer = api.post(&path, "").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let expected = json!({"webhookId": webhook, "eventId": "e1", "state": "scheduled"});
    assert_eq!(answer.body["data"], expected);
    assert_eq!(api.database.count("SELECT count(*) FROM deliveries WHERE is_resend").await, 1);
    let again = api.post(&path, "").await;
    assert_eq!((again.status, again.code()), (409, "CONFLICT"), "{again:?}");

    let other = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    let nobody = "/api/webhooks/018f0000-0000-7000-8000-000000000000/deliveries/e1/resend";
    let no_event = format!("/api/webhooks/{webhook}/deliveries/e2/resend");
    for (token, path) in [(&other, path.as_str()), (&api.token, nobody), (&api.token, &no_event)] {
        let answer = api.call_as(token, Method::POST, path, None).await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{path}");
    }
    api.patch(&format!("/api/webhooks/{webhook}"), r#"{"isActive":false}"#).await;
    let off = api.post(&path, "").await;
    assert_eq!((off.status, off.code()), (409, "CONFLICT"), "{off:?}");
}
