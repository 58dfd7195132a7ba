//! What a webhook's requests can be told to be like.

use serde_json::{Value, json};

use crate::helpers::TestApi;

const CREATE: &str = r#"{
    "url": "https://example.com/", "events": ["*"],
    "description": "Production CRM", "metadata": {"team": "crm", "ticket": "42"},
    "headers": {"Authorization": "Bearer receiver-token", "X-Env": "prod"},
    "timeoutMs": 2500, "retrySchedule": [5, 60], "thin": true, "payloadVersion": 1
}"#;

async fn created(api: &TestApi) -> String {
    let created = api.post("/api/webhooks", CREATE).await;
    assert_eq!(created.status, 201, "{created:?}");
    format!("/api/webhooks/{}", created.id())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_shown_as_they_were_given_and_headers_without_their_values() {
    let api = TestApi::start().await;
    let path = created(&api).await;
    let shown = api.get(&path).await;
    for (field, expected) in [
        ("description", json!("Production CRM")),
        ("metadata", json!({"team": "crm", "ticket": "42"})),
        ("headers", json!({"Authorization": "********", "X-Env": "********"})),
        ("timeoutMs", json!(2500)),
        ("retrySchedule", json!([5, 60])),
        ("thin", json!(true)),
        ("payloadVersion", json!(1)),
    ] {
        assert_eq!(shown.body["data"][field], expected, "{field}");
    }
    let plain = api.post("/api/webhooks", r#"{"url":"https://example.com/2","events":["*"]}"#).await;
    for (field, expected) in [
        ("description", json!(null)),
        ("metadata", json!({})),
        ("headers", json!({})),
        ("timeoutMs", json!(null)),
        ("retrySchedule", json!(null)),
        ("thin", json!(false)),
        ("payloadVersion", json!(1)),
    ] {
        assert_eq!(plain.body["data"][field], expected, "{field} when absent");
    }
    let stored = "SELECT count(*) FROM webhooks WHERE position('receiver-token'::bytea in headers) > 0";
    assert_eq!(api.database.count(stored).await, 0, "values are encrypted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_merges_headers_and_metadata_and_null_takes_away() {
    let api = TestApi::start().await;
    let path = created(&api).await;
    let change = r#"{"headers": {"authorization": "Bearer new", "X-Env": null}, "metadata": {"team": null, "new": "1"}}"#;
    let changed = api.patch(&path, change).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(changed.body["data"]["headers"], json!({"authorization": "********"}));
    assert_eq!(changed.body["data"]["metadata"], json!({"ticket": "42", "new": "1"}));
    assert_eq!(changed.body["data"]["timeoutMs"], json!(2500), "an absent field stays");
    let nulls =
        r#"{"headers":null,"metadata":null,"description":null,"timeoutMs":null,"retrySchedule":null}"#;
    let cleared = api.patch(&path, nulls).await;
    for (field, expected) in [
        ("headers", json!({})),
        ("metadata", json!({})),
        ("description", json!(null)),
        ("timeoutMs", json!(null)),
        ("retrySchedule", json!(null)),
    ] {
        assert_eq!(cleared.body["data"][field], expected, "{field}");
    }
    for field in ["thin", "payloadVersion"] {
        assert_eq!(api.patch(&path, &format!(r#"{{"{field}":null}}"#)).await.status, 400, "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_or_kept_is_refused_with_the_field_and_no_secret() {
    let api = TestApi::start().await;
    let path = created(&api).await;
    let many: Value =
        (0..21).map(|n| (format!("x-{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    let full: Value =
        (0..20).map(|n| (format!("y-{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    for (field, value) in [
        ("headers", r#"{"Host":"secret"}"#),
        ("headers", r#"{"Content-Length":"secret"}"#),
        ("headers", r#"{"transfer-encoding":"secret"}"#),
        ("headers", r#"{"Webhook-Signature":"secret"}"#),
        ("headers", r#"{"User-Agent":"secret"}"#),
        ("headers", r#"{"X-A":"secret\r\nHost: evil"}"#),
        ("headers", r#"{"X-A\r\n":"secret"}"#),
        ("headers", r#"{"":"secret"}"#),
        ("headers", r#"{"X-A":"secrét"}"#),
        ("headers", r#"{"X-A":""}"#),
        ("headers", r#"{"X-A":"secret","x-a":"other"}"#),
        ("headers", r#"{"X-A":7}"#),
        ("headers", r#"["X-A"]"#),
        ("headers", &format!(r#"{{"X-A":"{}"}}"#, "v".repeat(4096))),
        ("headers", &many.to_string()),
        ("metadata", r#"{"":"v"}"#),
        ("metadata", r#"{"k":"a\u0000b"}"#),
        ("metadata", r#"{"k":1}"#),
        ("metadata", r#"{"k":"1","k":"2"}"#),
        ("metadata", &format!(r#"{{"{}":"v"}}"#, "k".repeat(65))),
        ("metadata", &format!(r#"{{"k":"{}"}}"#, "v".repeat(513))),
        ("description", r#""""#),
        ("description", &format!(r#""{}""#, "d".repeat(513))),
        ("description", r#""a\u0000b""#),
        ("timeoutMs", "999"),
        ("timeoutMs", "30001"),
        ("timeoutMs", "1500.5"),
        ("retrySchedule", "[0]"),
        ("retrySchedule", "[604801]"),
        ("retrySchedule", r#"["5s"]"#),
        ("retrySchedule", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"),
        ("retrySchedule", "[604800,604800,604800,604800]"),
        ("thin", r#""yes""#),
        ("payloadVersion", "2"),
        ("payloadVersion", "0"),
    ] {
        let create = format!(r#"{{"url":"https://example.com/2","events":["*"],"{field}":{value}}}"#);
        let change = format!(r#"{{"{field}":{value}}}"#);
        for answer in [api.post("/api/webhooks", &create).await, api.patch(&path, &change).await] {
            assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{field} {value}");
            let errors = answer.body["errors"].as_object().unwrap();
            assert!(errors.keys().any(|name| name.starts_with(field)), "{field} {value}: {errors:?}");
            assert!(!answer.body.to_string().contains("secr"), "{answer:?}");
        }
    }
    assert_eq!(api.patch(&path, &json!({"headers": full}).to_string()).await.code(), "VALIDATION_ERROR");
    assert_eq!(
        api.get(&path).await.body["data"]["headers"].as_object().unwrap().len(),
        2,
        "22 would be too many"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_headers_cannot_be_read_the_webhook_is_shown_and_they_can_only_be_set_anew() {
    let api = TestApi::start().await;
    let path = created(&api).await;
    let forget = "UPDATE webhooks SET headers_key_id = 'forgotten'";
    api.database.client().await.execute(forget, &[]).await.unwrap();
    assert_eq!(api.get(&path).await.body["data"]["headers"], json!(null));
    let merge = api.patch(&path, r#"{"headers":{"X-Env":"test"}}"#).await;
    assert_eq!((merge.status, merge.code()), (503, "SERVICE_UNAVAILABLE"), "the others would be lost");
    assert_eq!(api.patch(&path, r#"{"description":"changed"}"#).await.status, 200);
    assert_eq!(api.patch(&path, r#"{"headers":null}"#).await.status, 200);
    let merge = api.patch(&path, r#"{"headers":{"X-Env":"test"}}"#).await;
    assert_eq!(merge.body["data"]["headers"], json!({"X-Env": "********"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_schedule_can_be_looked_at_before_it_is_used() {
    let api = TestApi::start().await;
    let path = "/api/webhooks/retry-schedule/preview";
    let preview = api.post(path, r#"{"retrySchedule":[10,3600]}"#).await;
    assert_eq!(preview.status, 200, "{preview:?}");
    let attempts = preview.body["data"]["attempts"].as_array().unwrap();
    let after: Vec<&Value> = attempts.iter().map(|attempt| &attempt["afterSeconds"]).collect();
    assert_eq!(after, [&json!(0), &json!(10), &json!(3610)]);
    let time = |attempt: &Value, field: &str| -> chrono::DateTime<chrono::Utc> {
        attempt[field].as_str().unwrap().parse().unwrap()
    };
    let last = &attempts[2];
    assert_eq!((time(last, "at") - time(last, "earliest")).num_seconds(), 361);
    assert_eq!((time(last, "latest") - time(last, "at")).num_seconds(), 361);
    let default = api.post(path, "").await;
    let delays = json!([5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]);
    assert_eq!(default.body["data"]["retrySchedule"], delays);
    assert_eq!(
        api.post(path, r#"{"retrySchedule":[]}"#).await.body["data"]["attempts"].as_array().unwrap().len(),
        1
    );
    for bad in [r#"{"retrySchedule":[0]}"#, r#"{"delays":[1]}"#, r#"{"retrySchedule":5}"#] {
        assert_eq!(api.post(path, bad).await.code(), "VALIDATION_ERROR", "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_sends_thin_bodies_and_custom_headers_as_a_delivery_would_and_hides_their_values() {
    let api = TestApi::start().await;
    let mut receiver = test_support::Receiver::start().await;
    let create = json!({"url": receiver.url("/"), "events": ["*"], "thin": true, "headers": {"Authorization": "token-1"}});
    let id = api.post("/api/webhooks", &create.to_string()).await.id();
    let answer = api.post(&format!("/api/webhooks/{id}/test"), "").await;
    let received = receiver.next().await;
    assert_eq!(received.header("authorization"), "token-1");
    let request = &answer.body["data"]["request"];
    assert_eq!(request["body"].as_str().unwrap().as_bytes(), &received.body[..]);
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(body["url"], json!(format!("/api/events/{}", received.id())));
    let shown = json!({"name": "authorization", "value": "********"});
    assert!(request["headers"].as_array().unwrap().contains(&shown), "{request}");
}
