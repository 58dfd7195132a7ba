use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use domain::{Event, EventId, TenantId};
use serde_json::{Value, json};
use store::Lease;
use test_support::Receiver;
use uuid::Uuid;

use crate::helpers::{Answer, TestApi, token};

async fn test(api: &TestApi, webhook: &str, body: &Value) -> Answer {
    api.post(&format!("/api/webhooks/{webhook}/test"), &body.to_string()).await
}

fn pairs(headers: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut pairs: Vec<_> =
        headers.as_array().unwrap().iter().map(|h| (text(&h["name"]), text(&h["value"]))).collect();
    pairs.sort();
    pairs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_sends_a_signed_sample_and_shows_both_sides() {
    let api = TestApi::start().await;
    let mut receiver = Receiver::start().await;
    let webhook = api.create_webhook(&receiver.url("/hook")).await;
    receiver.answer_next_in_full(200, &[("content-type", "text/plain"), ("x-seen", "yes")], "thanks");
    let answer = test(&api, &webhook, &json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let result = &answer.body["data"];
    let received = receiver.next().await;
    assert!(received.is_signed_with("your-signing-secret"));

    assert_eq!((&result["delivered"], &result["error"]), (&json!(true), &Value::Null));
    assert_eq!(result["event"], json!({"id": received.id(), "type": "message.received", "wanted": true}));
    let request = &result["request"];
    assert_eq!((&request["method"], &request["url"]), (&json!("POST"), &json!(receiver.url("/hook"))));
    assert_eq!(request["body"].as_str().unwrap().as_bytes(), &received.body[..]);
    let mut seen = received.headers.clone();
    seen.sort();
    assert_eq!(pairs(&request["headers"]), seen);
    let response = &result["response"];
    assert_eq!(response["statusCode"], 200);
    assert!(pairs(&response["headers"]).contains(&("x-seen".to_owned(), "yes".to_owned())));
    assert_eq!((&response["body"], &response["bodyEncoding"]), (&json!("thanks"), &json!("utf8")));
    assert_eq!((&response["bodyTruncated"], &response["headersTruncated"]), (&json!(false), &json!(false)));
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(body["data"]["from"], "+15550100", "a sample of its type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_takes_the_type_and_data_that_are_given() {
    let api = TestApi::start().await;
    let mut receiver = Receiver::start().await;
    let webhook = api.create_webhook(&receiver.url("/")).await;
    let answer = test(&api, &webhook, &json!({"eventType": "campaign.completed", "data": {"n": 1}})).await;
    assert_eq!(answer.body["data"]["event"]["wanted"], false, "the webhook did not subscribe to it");
    let body: Value = serde_json::from_slice(&receiver.next().await.body).unwrap();
    assert_eq!((&body["type"], &body["data"]), (&json!("campaign.completed"), &json!({"n": 1})));

    for (wrong, field) in [
        (json!({"eventType": "no.such"}), "eventType"),
        (json!({"eventType": "not a type"}), "eventType"),
        (json!({"sessionId": ""}), "sessionId"),
        (json!({"data": "x".repeat(256 * 1024)}), "data"),
        (json!({"eventTypes": "message.sent"}), "eventTypes"),
    ] {
        let answer = test(&api, &webhook, &wrong).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{answer:?}");
        assert!(answer.body["errors"].get(field).is_some(), "{answer:?}");
    }
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kept_a_test_from_being_delivered_is_explained_and_does_not_count_against_the_webhook() {
    let api = TestApi::start().await;
    let receiver = Receiver::start().await;
    let webhook = api.create_webhook(&receiver.url("/")).await;
    receiver.answer_next(&[500, 302, 410]);
    for (class, part) in [("status", "500"), ("status", "redirects"), ("gone", "410")] {
        let result = test(&api, &webhook, &json!({})).await.body["data"].clone();
        assert_eq!((&result["delivered"], &result["error"]["class"]), (&json!(false), &json!(class)));
        assert!(result["error"]["explanation"].as_str().unwrap().contains(part), "{result}");
        assert!(result["response"].is_object());
    }
    let closed = receiver.url("/").replace("http:", "https:");
    let webhook_2 = api.create_webhook(&closed).await;
    let result = test(&api, &webhook_2, &json!({})).await.body["data"].clone();
    assert_eq!((&result["error"]["class"], &result["response"]), (&json!("tls"), &Value::Null), "{result}");
    let shown = api.get(&format!("/api/webhooks/{webhook}")).await.body["data"].clone();
    assert_eq!((&shown["isActive"], &shown["health"]["status"]), (&json!(true), &json!("healthy")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_off_or_paused_can_be_tested_but_not_another_tenants() {
    let api = TestApi::start().await;
    let mut receiver = Receiver::start().await;
    let webhook = api.create_webhook(&receiver.url("/")).await;
    let path = format!("/api/webhooks/{webhook}");
    api.post(&format!("{path}/pause"), "").await;
    assert_eq!(test(&api, &webhook, &json!({})).await.body["data"]["delivered"], true);
    api.patch(&path, r#"{"isActive":false}"#).await;
    let result = test(&api, &webhook, &json!({})).await.body["data"].clone();
    assert_eq!((&result["delivered"], &result["event"]["wanted"]), (&json!(true), &json!(false)));
    receiver.next().await;
    receiver.next().await;

    let stranger = token(TenantId(Uuid::now_v7()), "webhooks:write");
    let answer = api.call_as(&stranger, reqwest::Method::POST, &format!("{path}/test"), None).await;
    assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"));
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_test_of_a_webhook_at_a_time_and_ten_a_minute() {
    let api = TestApi::start().await;
    let mut receiver = Receiver::start().await;
    let webhook = api.create_webhook(&receiver.url("/")).await;
    receiver.hang();
    let nothing = json!({});
    let first = test(&api, &webhook, &nothing);
    let second = async {
        receiver.next().await;
        let second = test(&api, &webhook, &nothing).await;
        receiver.release();
        second
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.body["data"]["delivered"], true, "{first:?}");
    assert_eq!((second.status, second.code(), second.header("retry-after")), (429, "RATE_LIMITED", "1"));

    for _ in 0..9 {
        assert_eq!(test(&api, &webhook, &nothing).await.status, 200);
    }
    let refused = test(&api, &webhook, &nothing).await;
    assert_eq!((refused.status, refused.code()), (429, "RATE_LIMITED"));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
}

/// What the session's own events say, handed over as a dispatcher does.
async fn tell(api: &TestApi, event_type: &str, minutes_ago: i64) {
    let now = Utc::now();
    let event = Event {
        tenant_id: api.tenant,
        id: EventId::generate(),
        event_type: event_type.parse().unwrap(),
        occurred_at: now - TimeDelta::minutes(minutes_ago),
        session_id: Some("s1".parse().unwrap()),
        ordering_key: None,
        trace: None,
        deliver_at: None,
        tags: Vec::new(),
        body: Bytes::from_static(b"{}"),
    };
    let lease = Lease { holder: Uuid::nil(), until: now };
    api.database.store.hand_over(&[&event], now, lease, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_test_through_a_session_that_is_disconnected_is_502() {
    let api = TestApi::start().await;
    let mut receiver = Receiver::start().await;
    let webhook = api.create_webhook(&receiver.url("/")).await;
    let live = json!({"sessionId": "s1"});
    assert_eq!(test(&api, &webhook, &live).await.status, 200, "nothing is known of the session");
    let body: Value = serde_json::from_slice(&receiver.next().await.body).unwrap();
    assert_eq!(body["data"]["sessionId"], "s1");

    tell(&api, "session.disconnected", 10).await;
    let refused = test(&api, &webhook, &live).await;
    assert_eq!((refused.status, refused.code()), (502, "WHATSAPP_UNAVAILABLE"), "{refused:?}");
    assert!(refused.body["message"].as_str().unwrap().contains("s1"));
    receiver.expect_none(Duration::from_millis(100)).await;
    assert_eq!(test(&api, &webhook, &json!({"sessionId": "s2"})).await.status, 200, "another session");
    assert_eq!(test(&api, &webhook, &json!({})).await.status, 200, "not a live test");

    tell(&api, "session.connected", 5).await;
    assert_eq!(test(&api, &webhook, &live).await.status, 200);
    tell(&api, "session.disconnected", 8).await;
    assert_eq!(test(&api, &webhook, &live).await.status, 200, "what occurred last counts");
    tell(&api, "session.disconnected", -60).await;
    tell(&api, "session.connected", 0).await;
    assert_eq!(test(&api, &webhook, &live).await.status, 200, "an event from the future counts as of now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_explained_right_or_wrong_without_a_request() {
    let api = TestApi::start().await;
    let mut receiver = Receiver::start().await;
    let explain = async |url: &str| {
        let body = json!({"url": url, "secret": "your-signing-secret"}).to_string();
        let answer = api.post("/api/webhooks/url/test", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["data"].clone()
    };
    let report = explain(&receiver.url("/hook")).await;
    assert_eq!((&report["reachable"], &report["tls"]), (&json!(true), &Value::Null), "{report}");
    assert_eq!(report["policy"], json!({"ok": true, "problem": null}));
    let addresses = json!([{"address": "127.0.0.1", "family": "ipv4", "allowed": true}]);
    assert_eq!(report["dns"], json!({"ok": true, "addresses": addresses, "problem": null}));
    assert_eq!(report["connection"]["address"], "127.0.0.1");
    let signature = &report["signature"];
    let secret: signing::Secret = signature["secret"].as_str().unwrap().parse().unwrap();
    let header = |name: &str| signature["headers"][name].as_str().unwrap();
    let (timestamp, body) = (header("webhook-timestamp"), signature["body"].as_str().unwrap());
    let now = timestamp.parse().unwrap();
    let signed = header("webhook-signature");
    signing::verify([&secret], header("webhook-id"), timestamp, signed, body.as_bytes(), now).unwrap();
    assert_eq!(signature["secret"], "whsec_eW91ci1zaWduaW5nLXNlY3JldA==");

    for (url, problem) in [
        ("not a url", "spaces"),
        ("ftp://example.com/", "https"),
        ("https://10.1.2.3/", "private network"),
        ("https://user:pass@example.com/", "password"),
    ] {
        let report = explain(url).await;
        assert_eq!((&report["reachable"], &report["dns"]), (&json!(false), &Value::Null));
        assert!(report["policy"]["problem"].as_str().unwrap().contains(problem), "{report}");
    }
    let tls = explain(&receiver.url("/").replace("http:", "https:")).await["tls"].clone();
    assert_eq!((&tls["ok"], &tls["certificate"]), (&json!(false), &Value::Null));
    assert!(receiver.try_next().is_none());

    for (wrong, field) in
        [("{}", "url"), (r#"{"url":1}"#, "url"), (r#"{"url":"x","secret":"short"}"#, "secret")]
    {
        let answer = api.post("/api/webhooks/url/test", wrong).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"));
        assert!(answer.body["errors"].get(field).is_some(), "{answer:?}");
    }
}
