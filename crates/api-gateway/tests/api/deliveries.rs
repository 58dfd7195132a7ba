use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Event, TenantId, WebhookId};
use reqwest::Method;
use serde_json::{Value, json};
use store::{AttemptRecord, Batch, DeliveryKey, Lease, Pace, Trigger};
use test_support::Receiver;
use uuid::Uuid;

use crate::helpers::{ALL_SCOPES, TestApi, token};

/// Hands an event over as a dispatcher does.
async fn hand_over(api: &TestApi, id: &str, at: DateTime<Utc>) -> DeliveryKey {
    api.database.store.ensure_tenants(&[api.tenant]).await.unwrap();
    let event = Event {
        tenant_id: api.tenant,
        id: id.parse().unwrap(),
        event_type: "message.received".parse().unwrap(),
        occurred_at: at,
        session_id: None,
        ordering_key: None,
        trace: None,
        deliver_at: None,
        tags: Vec::new(),
        body: Bytes::from_static(br#"{"data":{}}"#),
    };
    let lease = Lease { holder: Uuid::nil(), until: at + TimeDelta::hours(1) };
    let handed = api.database.store.hand_over(&[&event], at, lease, false).await.unwrap();
    DeliveryKey { webhook_id: WebhookId(Uuid::nil()), event_id: event.id, event_day: handed.day }
}

async fn close_batches(api: &TestApi) {
    api.database.client().await.execute("DELETE FROM open_batches", &[]).await.unwrap();
}

fn of(key: &DeliveryKey, webhook: &str) -> DeliveryKey {
    DeliveryKey { webhook_id: webhook.parse().unwrap(), ..key.clone() }
}

fn attempt(api: &TestApi, key: DeliveryKey, started_at: DateTime<Utc>) -> AttemptRecord {
    AttemptRecord {
        key,
        tenant_id: api.tenant,
        event_type: "message.received".parse().unwrap(),
        attempt: 1,
        started_at,
        duration_ms: 10,
        status_code: Some(200),
        error: None,
        next_attempt_at: None,
        trigger: None,
        exchange: None,
    }
}

async fn record(api: &TestApi, attempts: Vec<AttemptRecord>) {
    let batch = Batch { attempts, ..Batch::default() };
    api.database.store.record(&batch, Uuid::nil()).await.unwrap();
}

/// Puts a row of an unfinished delivery where a dispatcher would.
async fn park(
    api: &TestApi,
    key: &DeliveryKey,
    attempts: i32,
    due_at: Option<DateTime<Utc>>,
    leased_by: Option<Uuid>,
) {
    let insert = "INSERT INTO deliveries
        (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, leased_by, event_id)
        VALUES (now(), $1, $2, $3, $4, $5, $6, $7)";
    let client = api.database.client().await;
    let (webhook, event) = (key.webhook_id.0, key.event_id.as_str());
    client
        .execute(insert, &[&due_at, &key.event_day, &attempts, &api.tenant.0, &webhook, &leased_by, &event])
        .await
        .unwrap();
}

/// State, attempts, status and error of each delivery, by the order of the webhooks.
async fn states(api: &TestApi, path: &str) -> Vec<Value> {
    let answer = api.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let row = |d: &Value| json!([d["state"], d["attempts"], d["lastStatusCode"], d["lastError"]]);
    answer.body["data"].as_array().unwrap().iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_shows_what_has_become_of_it_at_each_webhook() {
    let api = TestApi::start().await;
    let mut webhooks = Vec::new();
    for number in 0..10 {
        webhooks.push(api.create_webhook(&format!("https://example.com/{number}")).await);
    }
    let at = Utc::now();
    let event = hand_over(&api, "e1", at).await;
    let path = "/api/events/e1/deliveries";
    assert_eq!(states(&api, path).await[0], json!(["under_way", 0, null, null]), "a dispatcher is at it");
    close_batches(&api).await;

    let key = |number: usize| of(&event, &webhooks[number]);
    let base = |number: usize| attempt(&api, key(number), at);
    let failed = |number: usize, next| AttemptRecord {
        status_code: Some(503),
        error: Some("status"),
        next_attempt_at: next,
        ..base(number)
    };
    let later = at + TimeDelta::hours(1);
    let cancelled = AttemptRecord { status_code: None, error: Some("cancelled"), ..base(3) };
    let retried = AttemptRecord { attempt: 2, started_at: at + TimeDelta::hours(3), ..base(7) };
    let waited =
        AttemptRecord { trigger: Some(Trigger::First), started_at: at + TimeDelta::hours(2), ..base(8) };
    let attempts = vec![
        base(0),
        failed(1, None),
        failed(2, Some(later)),
        cancelled,
        failed(7, Some(later)),
        retried,
        waited,
    ];
    record(&api, attempts).await;
    park(&api, &key(2), 1, Some(later), None).await;
    park(&api, &key(4), 0, None, None).await;
    park(&api, &key(5), 0, None, None).await;
    park(&api, &key(6), 0, Some(later), Some(Uuid::nil())).await;
    api.post(&format!("/api/webhooks/{}/pause", webhooks[5]), "").await;
    assert_eq!(
        states(&api, path).await,
        [
            json!(["delivered", 1, 200, null]),
            json!(["failed", 1, 503, "status"]),
            json!(["scheduled", 1, 503, "status"]),
            json!(["cancelled", 1, null, "cancelled"]),
            json!(["waiting", 0, null, null]),
            json!(["paused", 0, null, null]),
            json!(["under_way", 0, null, null]),
            json!(["delivered", 2, 200, null]),
            json!(["delivered", 1, 200, null]),
            json!(["none", 0, null, null]),
        ]
    );
    let scheduled = &api.get(path).await.body["data"][2];
    assert_eq!(scheduled["nextAttemptAt"], json!(later.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)));
    assert_eq!(
        (&scheduled["webhookId"], &scheduled["event"]),
        (&json!(webhooks[2]), &json!("message.received"))
    );

    let page = api.get(&format!("{path}?limit=6")).await;
    let cursor = page.body["nextCursor"].as_str().unwrap();
    let rest = api.get(&format!("{path}?limit=6&cursor={cursor}")).await;
    assert_eq!((rest.body["data"].as_array().unwrap().len(), &rest.body["nextCursor"]), (4, &json!(null)));
    api.delete(&format!("/api/webhooks/{}", webhooks[1])).await;
    assert_eq!(states(&api, path).await[1], json!(["failed", 1, 503, "status"]), "also of one that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_events_deliveries_are_its_tenants_alone() {
    let api = TestApi::start().await;
    api.create_webhook("https://example.com/").await;
    hand_over(&api, "e1", Utc::now()).await;
    let other = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    for (token, path, status) in [
        (&api.token, "/api/events/e1/deliveries", 200),
        (&api.token, "/api/events/e2/deliveries", 404),
        (&api.token, "/api/events/a.b/deliveries", 404),
        (&other, "/api/events/e1/deliveries", 404),
        (&token_without_scope(&api), "/api/events/e1/deliveries", 403),
        (&api.token, "/api/events/e1/deliveries?limit=0", 400),
        (&api.token, "/api/events/e1/deliveries?cursor=x", 400),
        (&api.token, "/api/events/e1/deliveries?page=1", 400),
    ] {
        assert_eq!(api.call_as(token, Method::GET, path, None).await.status, status, "{path}");
    }
}

fn token_without_scope(api: &TestApi) -> String {
    token(api.tenant, "events:publish")
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_deliveries_are_listed_by_their_state_page_by_page() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let now = Utc::now();
    let mut keys = Vec::new();
    for id in ["e1", "e2", "e3", "e4"] {
        keys.push(of(&hand_over(&api, id, now).await, &webhook));
    }
    let later = Some(now + TimeDelta::hours(1));
    park(&api, &keys[0], 2, later, None).await;
    park(&api, &keys[1], 0, None, None).await;
    park(&api, &keys[2], 0, later, Some(Uuid::nil())).await;
    park(&api, &keys[3], 0, Some(now), Some(Uuid::nil())).await; // its holder went silent
    let failed = AttemptRecord {
        attempt: 2,
        error: Some("timeout"),
        status_code: None,
        next_attempt_at: later,
        ..attempt(&api, keys[0].clone(), now)
    };
    record(&api, vec![failed]).await;
    let path = format!("/api/webhooks/{webhook}/deliveries");
    let all = [
        json!(["scheduled", 2, null, "timeout"]),
        json!(["waiting", 0, null, null]),
        json!(["under_way", 0, null, null]),
        json!(["scheduled", 0, null, null]),
    ];
    assert_eq!(states(&api, &path).await, all);
    assert_eq!(states(&api, &format!("{path}?status=pending")).await, all);
    for (status, expected) in [("scheduled", vec![0, 3]), ("waiting", vec![1]), ("under_way", vec![2])] {
        let expected: Vec<Value> = expected.into_iter().map(|place: usize| all[place].clone()).collect();
        assert_eq!(states(&api, &format!("{path}?status={status}")).await, expected, "{status}");
    }
    let first = api.get(&format!("{path}?limit=3")).await;
    let cursor = first.body["nextCursor"].as_str().unwrap();
    let second = api.get(&format!("{path}?limit=3&cursor={cursor}")).await;
    assert_eq!(second.body["data"][0]["eventId"], json!("e4"));
    assert_eq!(second.body["data"][0]["event"], json!("message.received"));
    assert_eq!(second.body["nextCursor"], json!(null));
    for query in ["status=done", "limit=101", "cursor=x", "state=waiting"] {
        assert_eq!(api.get(&format!("{path}?{query}")).await.code(), "VALIDATION_ERROR", "{query}");
    }
    let nobody = "/api/webhooks/018f0000-0000-7000-8000-000000000000/deliveries";
    assert_eq!(api.get(nobody).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_cancelled_unless_a_dispatcher_is_at_it() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let now = Utc::now();
    let waiting = of(&hand_over(&api, "waiting", now).await, &webhook);
    let held = of(&hand_over(&api, "held", now).await, &webhook);
    let path = |event: &str| format!("/api/webhooks/{webhook}/deliveries/{event}/cancel");
    let open = api.post(&path("waiting"), "").await;
    assert_eq!((open.status, open.code()), (409, "CONFLICT"), "its first attempt may be under way");
    close_batches(&api).await;
    park(&api, &waiting, 3, Some(now + TimeDelta::hours(1)), None).await;
    park(&api, &held, 0, Some(now + TimeDelta::hours(1)), Some(Uuid::nil())).await;

    let cancelled = api.post(&path("waiting"), "").await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    let expected = json!({"webhookId": webhook, "eventId": "waiting", "state": "cancelled"});
    assert_eq!(cancelled.body["data"], expected);
    let history = api.get(&format!("/api/webhooks/{webhook}/history")).await;
    let entry = &history.body["data"][0];
    assert_eq!(
        json!([entry["eventId"], entry["outcome"], entry["trigger"], entry["attempt"]]),
        json!(["waiting", "cancelled", "cancel", 3])
    );
    assert_eq!(api.post(&path("held"), "").await.code(), "CONFLICT");
    for unknown in ["waiting", "e9", "a.b"] {
        let answer = api.post(&path(unknown), "").await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{unknown}");
    }
    let report =
        api.database.store.audit(now - TimeDelta::minutes(1), now + TimeDelta::minutes(1), Pace::Full).await;
    assert_eq!(report.unwrap().lost, 0);
    let readers = token(api.tenant, "webhooks:read");
    assert_eq!(api.call_as(&readers, Method::POST, &path("held"), None).await.code(), "FORBIDDEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_attempts_by_the_hour_and_the_day() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let day = (Utc::now() - TimeDelta::days(1)).date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
    let event = hand_over(&api, "e1", day).await;
    let at = |minutes, duration_ms, error| AttemptRecord {
        duration_ms,
        error,
        ..attempt(&api, of(&event, &webhook), day + TimeDelta::minutes(minutes))
    };
    let mut attempts = vec![
        at(10, 10, None),
        at(20, 20, None),
        at(30, 30, Some("status")),
        at(130, 1000, Some("timeout")),
        at(131, 3000, Some("timeout")),
        at(132, 0, Some("cancelled")),
    ];
    attempts.push(AttemptRecord { trigger: Some(Trigger::Test), ..at(133, 5, Some("dns")) });
    attempts.push(at(240, 1, None)); // after the range
    record(&api, attempts).await;
    let path = format!("/api/webhooks/{webhook}/statistics");
    let time = |minutes| (day + TimeDelta::minutes(minutes)).format("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    let answer = api.get(&format!("{path}?from={}&to={}&interval=hour", time(5), time(180))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let counts = |attempts, delivered, failures: Value, p50: Value, p95: Value| {
        json!({"attempts": attempts, "delivered": delivered, "failed": attempts - delivered, "failures": failures,
            "p50Ms": p50, "p95Ms": p95})
    };
    let bucket = |minutes, counts: &Value| {
        let mut bucket = counts.clone();
        bucket["at"] = json!(time(minutes));
        bucket
    };
    let first = counts(3, 2, json!({"status": 1}), json!(20), json!(30));
    let last = counts(2, 0, json!({"timeout": 2}), json!(1000), json!(3000));
    let total = counts(5, 2, json!({"status": 1, "timeout": 2}), json!(30), json!(3000));
    let nothing = counts(0, 0, json!({}), json!(null), json!(null));
    let expected = json!({
        "from": time(5), "to": time(180), "interval": "hour", "countedFrom": null, "total": total,
        "buckets": [bucket(0, &first), bucket(60, &nothing), bucket(120, &last)],
    });
    assert_eq!(answer.body["data"], expected);
    let by_day = api.get(&format!("{path}?interval=day&from={}", time(0))).await.body["data"].clone();
    assert_eq!(
        (&by_day["buckets"][0]["attempts"], by_day["buckets"].as_array().unwrap().len()),
        (&json!(6), 2)
    );
    let usual = api.get(&path).await.body["data"].clone();
    assert_eq!(usual["buckets"].as_array().unwrap().len(), 25, "a day, from full hour to full hour");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_too_long_or_wrong_ranges_are_refused() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{webhook}/statistics");
    for (query, field) in [
        ("interval=minute", "interval"),
        ("from=yesterday", "from"),
        ("to=1", "to"),
        ("from=2026-05-02T00:00:00Z&to=2026-05-01T00:00:00Z", "from"),
        ("from=2026-05-01T00:00:00Z&to=2026-05-08T00:00:01Z", "from"),
        ("interval=day&from=2026-01-01T00:00:00Z&to=2026-05-01T00:00:00Z", "from"),
        ("since=1", "since"),
    ] {
        let answer = api.get(&format!("{path}?{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{query}");
        assert!(answer.body["errors"][field].is_string(), "{query}: {answer:?}");
    }
    let other = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    assert_eq!(api.call_as(&other, Method::GET, &path, None).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_is_in_the_history_with_both_sides_and_counts_nowhere() {
    let api = TestApi::start().await;
    let receiver = Receiver::start().await;
    let webhook = api.create_webhook(&receiver.url("/hook")).await;
    let path = format!("/api/webhooks/{webhook}");
    receiver.answer_next_in_full(500, &[("x-why", "because")], "x".repeat(5_000));
    api.patch(&path, r#"{"headers":{"authorization":"Bearer receiver-token"}}"#).await;
    let tested = api.post(&format!("{path}/test"), "{}").await;
    assert_eq!(
        tested.body["data"]["response"]["body"].as_str().unwrap().len(),
        5_000,
        "all of it to its caller"
    );

    let history = api.get(&format!("{path}/history")).await;
    let entry = &history.body["data"][0];
    assert_eq!(
        json!([entry["trigger"], entry["outcome"], entry["statusCode"], entry["eventId"]]),
        json!(["test", "failed", 500, tested.body["data"]["event"]["id"]])
    );
    let detail = api.get(&format!("{path}/history/{}", entry["id"].as_str().unwrap())).await;
    assert_eq!(detail.status, 200, "{detail:?}");
    let detail = &detail.body["data"];
    for (name, value) in entry.as_object().unwrap() {
        assert_eq!(&detail[name], value, "{name}");
    }
    let header = |side: &str, name: &str| {
        let headers = detail[side]["headers"].as_array().unwrap();
        headers.iter().find(|header| header["name"] == name).map(|header| header["value"].clone())
    };
    assert_eq!(header("request", "webhook-id"), Some(entry["eventId"].clone()));
    let hidden = header("request", "authorization").unwrap();
    assert!(!hidden.as_str().unwrap().contains("receiver-token"), "{hidden}");
    assert_eq!(header("response", "x-why"), Some(json!("because")));
    assert_eq!(detail["response"]["body"], json!("x".repeat(4096)));
    assert_eq!(detail["response"]["bodyTruncated"], json!(true));

    let shown = api.get(&path).await.body["data"]["activity"].clone();
    assert_eq!((&shown["delivered"], &shown["failed"]), (&json!(0), &json!(0)), "{shown}");
    assert_eq!(api.database.count("SELECT count(*) FROM outbox WHERE type = 'delivery.exhausted'").await, 0);
    let other = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    let id = entry["id"].as_str().unwrap();
    for (token, path) in [
        (&other, format!("{path}/history/{id}")),
        (&api.token, format!("{path}/history/nothing")),
        (&api.token, format!("/api/webhooks/018f0000-0000-7000-8000-000000000000/history/{id}")),
    ] {
        assert_eq!(api.call_as(token, Method::GET, &path, None).await.code(), "NOT_FOUND", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_webhook_that_is_gone_can_be_read() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let silent = api.create_webhook("https://example.com/2").await;
    let now = Utc::now();
    let event = hand_over(&api, "e1", now).await;
    record(&api, vec![attempt(&api, of(&event, &webhook), now)]).await;
    for id in [&webhook, &silent] {
        api.delete(&format!("/api/webhooks/{id}")).await;
    }
    let history = api.get(&format!("/api/webhooks/{webhook}/history")).await;
    assert_eq!((history.status, &history.body["data"][0]["eventId"]), (200, &json!("e1")));
    let filtered = api.get(&format!("/api/webhooks/{webhook}/history?status=failed")).await;
    assert_eq!((filtered.status, &filtered.body["data"]), (200, &json!([])));
    let id = history.body["data"][0]["id"].as_str().unwrap();
    let detail = api.get(&format!("/api/webhooks/{webhook}/history/{id}")).await.body["data"].clone();
    assert_eq!((&detail["request"], &detail["response"]), (&json!(null), &json!(null)), "it succeeded");
    assert_eq!(api.get(&format!("/api/webhooks/{silent}/history")).await.status, 404, "it never had any");
    let other = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    let path = format!("/api/webhooks/{webhook}/history");
    assert_eq!(api.call_as(&other, Method::GET, &path, None).await.status, 404);
}
