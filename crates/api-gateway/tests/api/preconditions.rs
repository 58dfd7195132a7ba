//! Entity tags: nothing is sent twice, and nobody overwrites what another has changed meanwhile.

use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::json;
use store::{AttemptRecord, Batch, DeliveryKey, HealthNews};

use crate::helpers::{Answer, TestApi, send};

async fn call(api: &TestApi, method: Method, path: &str, header: (&str, &str), body: Option<&str>) -> Answer {
    let mut request = api.request(method, path).bearer_auth(&api.token).header(header.0, header.1);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_owned());
    }
    send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_has_is_not_sent_again_until_there_is_news() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}");
    let tag = api.get(&path).await.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "a strong tag: {tag}");
    for had in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
        let again = call(&api, Method::GET, &path, ("if-none-match", &had), None).await;
        assert_eq!((again.status, again.header("etag")), (304, &*tag), "{had}");
        assert_eq!(again.body, json!(""));
    }
    let health = domain::Health::default().after_failure(Utc::now(), None);
    let news = HealthNews { webhook_id: id.parse().unwrap(), health, is_told: false };
    api.database.store.save_health(&[news], Utc::now()).await.unwrap();
    let news = call(&api, Method::GET, &path, ("if-none-match", &tag), None).await;
    assert_eq!(news.status, 200, "how the receiver does is news");
    let changed =
        call(&api, Method::PATCH, &path, ("if-match", &tag), Some(r#"{"description":"one"}"#)).await;
    assert_eq!(changed.status, 200, "and no reason to refuse a change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_or_deletion_of_what_has_changed_meanwhile_is_refused() {
    let api = TestApi::start().await;
    let create = r#"{"url":"https://example.com/","events":["*"]}"#;
    let created = api.post("/api/webhooks", create).await;
    let path = format!("/api/webhooks/{}", created.id());
    let mut old = created.header("etag").to_owned();
    assert!(!old.is_empty());
    let change = Some(r#"{"description":"mine"}"#);
    for (method, change_path, body) in [
        (Method::PATCH, path.clone(), r#"{"description":"theirs"}"#),
        (Method::POST, format!("{path}/pause"), ""),
        (Method::POST, format!("{path}/resume"), r#"{"drainRate":7}"#),
        (Method::PATCH, path.clone(), r#"{"secret":"another-signing-secret"}"#),
    ] {
        let theirs = api.call_as(&api.token, method, &change_path, Some(body)).await;
        assert_eq!(theirs.status, 200, "{theirs:?}");
        for (method, body) in [(Method::PATCH, change), (Method::DELETE, None)] {
            for stale in [&old, "\"nonsense\"", &format!("W/{}", theirs.header("etag"))] {
                let refused = call(&api, method.clone(), &path, ("if-match", stale), body).await;
                assert_eq!(
                    (refused.status, refused.code()),
                    (412, "PRECONDITION_FAILED"),
                    "{change_path} {stale}"
                );
            }
        }
        old = theirs.header("etag").to_owned();
    }
    for others in ["", "\"other\", "] {
        let header = format!("{others}{old}");
        let changed = call(&api, Method::PATCH, &path, ("if-match", &header), Some("{}")).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        old = changed.header("etag").to_owned();
    }
    let changed = call(&api, Method::PATCH, &path, ("if-match", "*"), Some("{}")).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let old = changed.header("etag").to_owned();
    for malformed in ["abc", "\"a", "*, \"a\"", "\"a\"\"b\""] {
        let refused = call(&api, Method::PATCH, &path, ("if-match", malformed), Some("{}")).await;
        assert_eq!((refused.status, refused.code()), (400, "VALIDATION_ERROR"), "{malformed}");
    }
    assert_eq!(call(&api, Method::DELETE, &path, ("if-match", &old), None).await.status, 200);
    assert_eq!(call(&api, Method::DELETE, &path, ("if-match", &old), None).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_at_the_same_time_to_the_same_state_one_is_made() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}");
    let tag = api.get(&path).await.header("etag").to_owned();
    let change = |text: &str| format!(r#"{{"description":"{text}"}}"#);
    let (one, other) = (change("one"), change("other"));
    let (one, other) = tokio::join!(
        call(&api, Method::PATCH, &path, ("if-match", &tag), Some(&one)),
        call(&api, Method::PATCH, &path, ("if-match", &tag), Some(&other)),
    );
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_shows_its_last_success_and_what_became_of_its_deliveries() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{id}");
    let none = api.get(&path).await.body["data"]["activity"].clone();
    assert_eq!(
        (&none["lastSuccessAt"], &none["delivered"], &none["waiting"]),
        (&json!(null), &json!(0), &json!(0))
    );
    let now = Utc::now();
    let attempt = |number: i64, hours: i64, error: Option<&'static str>, next| AttemptRecord {
        key: DeliveryKey {
            webhook_id: id.parse().unwrap(),
            event_id: format!("e{number}").parse().unwrap(),
            event_day: now.date_naive(),
        },
        tenant_id: api.tenant,
        event_type: "message.received".parse().unwrap(),
        attempt: 1,
        started_at: now - TimeDelta::hours(hours),
        duration_ms: 1,
        status_code: None,
        error,
        next_attempt_at: next,
        trigger: None,
        exchange: None,
    };
    let attempts = vec![
        attempt(1, 40, None, None),
        attempt(2, 3, None, None),
        attempt(3, 2, Some("status"), None),
        attempt(4, 1, Some("status"), Some(now)),
        attempt(5, 1, Some("cancelled"), None),
    ];
    let batch = Batch { attempts, ..Batch::default() };
    api.database.store.record(&batch, uuid::Uuid::nil()).await.unwrap();
    let wait = "INSERT INTO deliveries (accepted_at, event_day, attempts, tenant_id, webhook_id, event_id)
        VALUES (now(), now()::date, 1, $1, $2, 'e4')";
    let webhook: uuid::Uuid = id.parse().unwrap();
    api.database.client().await.execute(wait, &[&api.tenant.0, &webhook]).await.unwrap();
    for shown in
        [api.get(&path).await.body["data"].clone(), api.get("/api/webhooks").await.body["data"][0].clone()]
    {
        let activity = &shown["activity"];
        let counts = ["delivered", "failed", "waiting"].map(|field| activity[field].as_i64().unwrap());
        assert_eq!(counts, [1, 1, 1], "{activity}");
        let last: chrono::DateTime<Utc> = activity["lastSuccessAt"].as_str().unwrap().parse().unwrap();
        assert_eq!((now - last).num_hours(), 3);
    }
}
