use reqwest::Method;
use serde_json::json;
use store::HealthNews;

use crate::helpers::{Answer, TestApi, token};

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_at_creation_in_the_whsec_form_and_made_up_when_absent() {
    let api = TestApi::start().await;
    let body = r#"{"url":"https://example.com/1","events":["*"],"secret":"your-signing-secret"}"#;
    let created = api.post("/api/webhooks", body).await;
    assert_eq!(created.body["data"]["secret"], json!("whsec_eW91ci1zaWduaW5nLXNlY3JldA=="));
    let created = api.post("/api/webhooks", r#"{"url":"https://example.com/2","events":["*"]}"#).await;
    let secret = created.body["data"]["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == 6 + 44, "{secret}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_can_be_read_changed_and_deleted() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}");
    let before = api.get(&path).await.body;

    let change =
        r#"{"url":"https://example.org/","events":["message.*"],"sessionIds":["s1"],"isActive":false}"#;
    let changed = api.patch(&path, change).await;
    assert_eq!(changed.status, 200);
    assert_eq!(changed.body["data"]["url"], json!("https://example.org/"));
    assert_eq!(changed.body["data"]["events"], json!(["message.*"]));
    assert_eq!(changed.body["data"]["sessionIds"], json!(["s1"]));
    assert_eq!(changed.body["data"]["isActive"], json!(false));
    assert_eq!(changed.body["data"]["createdAt"], before["data"]["createdAt"]);
    assert_eq!(api.get(&path).await.body, changed.body);

    let untouched = api.patch(&path, "{}").await;
    assert_eq!(untouched.body["data"]["sessionIds"], json!(["s1"]), "an absent field stays");
    for field in ["url", "events", "secret", "isActive"] {
        let answer = api.patch(&path, &format!(r#"{{"{field}":null}}"#)).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{field} cannot be null");
    }
    let rotated = api.patch(&path, r#"{"secret":"your-signing-secret"}"#).await;
    assert_eq!(rotated.body["data"]["secret"], json!("whsec_eW91ci1zaWduaW5nLXNlY3JldA=="), "shown once");
    let cleared = api.patch(&path, r#"{"sessionIds":null}"#).await;
    assert_eq!(cleared.body["data"]["sessionIds"], json!(null), "null wants all sessions");

    let deleted = api.delete(&path).await;
    assert_eq!(deleted.status, 200);
    assert_eq!(deleted.body, json!({"success": true, "data": {"id": id, "deleted": true}}));
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(api.call_as(&api.token, method, &path, None).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_shows_how_its_receiver_is_doing_and_switching_it_on_gives_it_a_fresh_start() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}");
    let healthy = json!({"status": "healthy", "failingSince": null, "openUntil": null, "draining": false});
    assert_eq!(api.get(&path).await.body["data"]["health"], healthy);
    let now = chrono::Utc::now();
    let mut health = domain::Health::default();
    let webhook = id.parse().unwrap();
    for (failures, status) in [(1, "failing"), (19, "open")] {
        for _ in 0..failures {
            health = health.after_failure(now, None);
        }
        api.database
            .store
            .save_health(&[HealthNews { webhook_id: webhook, health: health.clone(), is_told: true }], now)
            .await
            .unwrap();
        assert_eq!(api.get(&path).await.body["data"]["health"]["status"], json!(status));
        assert_eq!(api.get("/api/webhooks").await.body["data"][0]["health"]["status"], json!(status));
    }
    assert!(api.get(&path).await.body["data"]["health"]["openUntil"].is_string());
    api.patch(&path, r#"{"isActive":false}"#).await;
    assert_eq!(api.patch(&path, r#"{"isActive":true}"#).await.body["data"]["health"], healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_order_and_pauses_are_set_shown_and_taken_back() {
    let api = TestApi::start().await;
    let body = r#"{"url":"https://example.com/","events":["*"],"rateLimit":50,"concurrency":4,"drainRate":20,"ordered":true}"#;
    let created = api.post("/api/webhooks", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let path = format!("/api/webhooks/{}", created.id());
    let gate = |answer: &Answer| {
        ["rateLimit", "concurrency", "drainRate", "ordered"].map(|field| answer.body["data"][field].clone())
    };
    assert_eq!(gate(&created), [json!(50), json!(4), json!(20), json!(true)]);
    let changed = api.patch(&path, r#"{"rateLimit":null,"concurrency":1}"#).await;
    assert_eq!(gate(&changed), [json!(null), json!(1), json!(20), json!(true)]);
    assert_eq!(created.body["data"]["pausedAt"], json!(null));

    let paused = api.post(&format!("{path}/pause"), "").await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let since = paused.body["data"]["pausedAt"].clone();
    assert!(since.is_string());
    assert_eq!(
        api.post(&format!("{path}/pause"), "").await.body["data"]["pausedAt"],
        since,
        "since the first"
    );
    assert_eq!(api.get(&path).await.body["data"]["pausedAt"], since);

    let resumed = api.post(&format!("{path}/resume"), r#"{"drainRate":7}"#).await;
    assert_eq!(resumed.status, 200, "{resumed:?}");
    assert_eq!(resumed.body["data"]["pausedAt"], json!(null));
    assert_eq!(resumed.body["data"]["drainRate"], json!(7));
    assert_eq!(resumed.body["data"]["health"]["draining"], json!(true));
    assert_eq!(api.post(&format!("{path}/resume"), "").await.status, 200, "the body may be absent");
    for bad in [r#"{"drainRate":0}"#, r#"{"rate":1}"#, "7"] {
        let answer = api.post(&format!("{path}/resume"), bad).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{bad}");
    }
    let stranger = token(domain::TenantId(uuid::Uuid::now_v7()), "webhooks:write");
    for action in ["pause", "resume"] {
        let path = format!("{path}/{action}");
        assert_eq!(api.call_as(&stranger, Method::POST, &path, None).await.status, 404, "not theirs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_listed_oldest_first_and_only_the_tenants_own() {
    let api = TestApi::start().await;
    for number in 1..=3 {
        api.create_webhook(&format!("https://example.com/{number}")).await;
    }
    let listed = api.get("/api/webhooks").await;
    let urls: Vec<&str> =
        listed.body["data"].as_array().unwrap().iter().map(|w| w["url"].as_str().unwrap()).collect();
    assert_eq!(urls, ["https://example.com/1", "https://example.com/2", "https://example.com/3"]);
    let stranger = token(domain::TenantId(uuid::Uuid::now_v7()), "webhooks:read");
    let theirs = api.call_as(&stranger, Method::GET, "/api/webhooks", None).await;
    assert_eq!(theirs.body["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_fields_are_refused_each_with_its_reason() {
    let api = TestApi::start().await;
    let with = |field: &str, value: &str| {
        let mut fields = serde_json::Map::new();
        fields.insert("url".to_owned(), json!("https://example.com/"));
        fields.insert("events".to_owned(), json!(["message.received"]));
        fields.insert(field.to_owned(), serde_json::from_str(value).unwrap());
        serde_json::Value::Object(fields).to_string()
    };
    let many = serde_json::to_string(&vec!["message.sent"; 101]).unwrap();
    let long = format!(r#""https://example.com/{}""#, "x".repeat(2048));
    for (field, value) in [
        ("url", r#""ftp://example.com""#),
        ("url", r#""https://10.0.0.1/""#),
        ("url", r#""https://[::ffff:169.254.169.254]/""#),
        ("url", r#""https://user:pw@example.com/""#),
        ("url", &long),
        ("url", "null"),
        ("url", "17"),
        ("events", r#"["nope"]"#),
        ("events", r#"["message.received.*"]"#),
        ("events", r#""message.received""#),
        ("events", &many),
        ("secret", r#""whsec_!!!""#),
        ("secret", "17"),
        ("sessionIds", "[]"),
        ("sessionIds", r#"[""]"#),
        ("isActive", r#""yes""#),
        ("rateLimit", "0"),
        ("rateLimit", "10001"),
        ("rateLimit", "1.5"),
        ("concurrency", "1001"),
        ("concurrency", "-1"),
        ("drainRate", "0"),
        ("ordered", "1"),
    ] {
        let answer = api.post("/api/webhooks", &with(field, value)).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{field} {value}");
        let errors = answer.body["errors"].as_object().unwrap();
        assert!(errors.keys().any(|name| name.starts_with(field)), "{field} {value}: {errors:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_is_refused_with_the_name_that_was_meant() {
    let api = TestApi::start().await;
    let body = r#"{"url":"https://example.com/","event":["message.received"]}"#;
    let answer = api.post("/api/webhooks", body).await;
    assert_eq!(answer.status, 400);
    let problem = answer.body["errors"]["event"].as_str().unwrap();
    assert_eq!(problem, "unknown field `event`; did you mean `events`?");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_creations_at_once_never_exceed_the_plan() {
    let api = TestApi::start().await;
    api.database.client().await.batch_execute("UPDATE plans SET max_webhooks = 5").await.unwrap();
    let bodies: Vec<String> = (0..50)
        .map(|number| format!(r#"{{"url":"https://example.com/{number}","events":["message.sent"]}}"#))
        .collect();
    let api = std::sync::Arc::new(api);
    let calls: Vec<_> = bodies
        .into_iter()
        .map(|body| {
            let api = std::sync::Arc::clone(&api);
            tokio::spawn(async move { api.post("/api/webhooks", &body).await.status })
        })
        .collect();
    let mut created = 0;
    for call in calls {
        created += usize::from(call.await.unwrap() == 201);
    }
    assert_eq!(created, 5);
    assert_eq!(api.database.count("SELECT count(*) FROM webhooks").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_whose_encryption_key_is_missing_can_be_seen_changed_and_given_a_new_secret() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}");
    let forget = "UPDATE webhooks SET secret_key_id = 'forgotten'";
    api.database.client().await.execute(forget, &[]).await.unwrap();
    assert_eq!(api.get(&path).await.status, 200);
    assert_eq!(api.get("/api/webhooks").await.body["data"][0]["id"], id.as_str());
    let changed = api.patch(&path, r#"{"url":"https://example.com/elsewhere"}"#).await;
    assert_eq!((changed.status, &changed.body["data"]["secret"]), (200, &serde_json::Value::Null));
    let count = async |key: &str| {
        api.database.count(&format!("SELECT count(*) FROM webhooks WHERE secret_key_id = '{key}'")).await
    };
    assert_eq!(count("forgotten").await, 1, "another change leaves the secret as it is");
    assert_eq!(api.patch(&path, r#"{"secret":"a-new-signing-secret"}"#).await.status, 200);
    assert_eq!(count("test").await, 1);
    assert_eq!(api.delete(&path).await.status, 200);
}
