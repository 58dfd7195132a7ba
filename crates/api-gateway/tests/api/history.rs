use chrono::{DateTime, TimeDelta, Utc};
use domain::WebhookId;
use serde_json::{Value, json};
use store::{AttemptRecord, Batch, DeliveryKey};

use crate::helpers::TestApi;

fn start() -> DateTime<Utc> {
    "2026-05-30T09:59:59.900Z".parse().unwrap()
}

fn attempt(api: &TestApi, webhook: &str, number: u32) -> AttemptRecord {
    let webhook_id: WebhookId = webhook.parse().unwrap();
    let started_at = start() + TimeDelta::seconds(number.into());
    AttemptRecord {
        key: DeliveryKey {
            webhook_id,
            event_id: format!("event-{number}").parse().unwrap(),
            event_day: started_at.date_naive(),
        },
        tenant_id: api.tenant,
        event_type: "message.received".parse().unwrap(),
        attempt: 1,
        started_at,
        duration_ms: 100,
        status_code: Some(200),
        error: None,
        next_attempt_at: None,
        trigger: None,
        exchange: None,
    }
}

async fn record(api: &TestApi, attempts: Vec<AttemptRecord>) {
    let batch = Batch { attempts, ..Batch::default() };
    api.database.store.record(&batch, uuid::Uuid::nil()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_shows_event_status_code_and_delivered_at_as_in_the_contract() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    record(&api, vec![attempt(&api, &webhook, 0)]).await;
    let answer = api.get(&format!("/api/webhooks/{webhook}/history")).await;
    let id = answer.body["data"][0]["id"].as_str().unwrap();
    assert_eq!(
        answer.body["data"],
        json!([{
            "id": id,
            "event": "message.received",
            "statusCode": 200,
            "deliveredAt": "2026-05-30T10:00:00.000Z",
            "eventId": "event-0",
            "attempt": 1,
            "trigger": "first",
            "durationMs": 100,
            "outcome": "delivered",
            "error": null,
            "nextAttemptAt": null,
        }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_why_and_what_happens_next() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let failed = |number, error, status_code, next_attempt_at| AttemptRecord {
        error: Some(error),
        status_code,
        next_attempt_at,
        ..attempt(&api, &webhook, number)
    };
    let later = start() + TimeDelta::hours(1);
    record(
        &api,
        vec![
            failed(1, "timeout", None, Some(later)),
            failed(2, "status", Some(500), None),
            failed(3, "cancelled", None, None),
        ],
    )
    .await;
    let answer = api.get(&format!("/api/webhooks/{webhook}/history")).await;
    let rows: Vec<[&Value; 4]> = answer.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| [&row["outcome"], &row["error"], &row["statusCode"], &row["nextAttemptAt"]])
        .collect();
    assert_eq!(
        rows,
        [
            [&json!("cancelled"), &json!("cancelled"), &json!(null), &json!(null)],
            [&json!("failed"), &json!("status"), &json!(500), &json!(null)],
            [&json!("retrying"), &json!("timeout"), &json!(null), &json!("2026-05-30T10:59:59.900Z")],
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_without_gap_or_repeat() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let mut attempts: Vec<AttemptRecord> = (0..25).map(|number| attempt(&api, &webhook, number)).collect();
    attempts[7].started_at = attempts[8].started_at; // two events at the same moment
    record(&api, attempts).await;
    let path = format!("/api/webhooks/{webhook}/history");
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = api.get(&format!("{path}?limit=10{cursor}")).await;
        assert_eq!(answer.status, 200);
        let data = answer.body["data"].as_array().unwrap();
        seen.extend(data.iter().map(|row| row["eventId"].as_str().unwrap().to_owned()));
        match answer.body["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut unique = seen.clone();
    unique.sort();
    unique.dedup();
    assert_eq!((seen.len(), unique.len()), (25, 25));
    assert_eq!(seen[0], "event-24", "newest first");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_limits_cursors_and_unknown_parameters_are_refused() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    for query in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=many",
        "cursor=%00",
        "cursor=bm90IGEgY3Vyc29y",
        "cursor=LTgwMDAwMDAwMDAwMDAwMDAwMDAuZTE",
        "page=2",
    ] {
        let answer = api.get(&format!("/api/webhooks/{webhook}/history?{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_filtered_by_what_became_of_its_attempts() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let base = |number| attempt(&api, &webhook, number);
    let failed = |number, status_code| AttemptRecord { status_code, error: Some("status"), ..base(number) };
    record(
        &api,
        vec![
            base(0),
            AttemptRecord { event_type: "session.connected".parse().unwrap(), ..base(1) },
            AttemptRecord { next_attempt_at: Some(start()), ..failed(2, Some(503)) },
            failed(3, Some(404)),
            AttemptRecord { error: Some("timeout"), ..failed(4, None) },
            AttemptRecord { error: Some("cancelled"), ..failed(5, None) },
        ],
    )
    .await;
    let numbers = async |query: &str| {
        let answer = api.get(&format!("/api/webhooks/{webhook}/history?{query}")).await;
        assert_eq!((answer.status, &answer.body["nextCursor"]), (200, &json!(null)), "{query}: {answer:?}");
        let id = |entry: &Value| entry["eventId"].as_str().unwrap().replace("event-", "").parse().unwrap();
        answer.body["data"].as_array().unwrap().iter().map(id).collect::<Vec<u32>>()
    };
    for (query, expected) in [
        ("status=delivered", vec![1, 0]),
        ("status=retrying", vec![2]),
        ("status=failed", vec![4, 3]),
        ("status=cancelled", vec![5]),
        ("codeClass=2xx", vec![1, 0]),
        ("codeClass=4xx", vec![3]),
        ("codeClass=none", vec![5, 4]),
        ("eventType=session.connected", vec![1]),
        ("eventId=event-3", vec![3]),
        ("from=2026-05-30T10:00:02Z", vec![5, 4, 3]),
        ("to=2026-05-30T10:00:00Z", vec![0]),
        ("from=2026-05-30T10:00:00Z&to=2026-05-30T10:00:03Z&status=failed", vec![3]),
        ("status=failed&codeClass=5xx", vec![]),
    ] {
        assert_eq!(numbers(query).await, expected, "{query}");
    }
    let first = api.get(&format!("/api/webhooks/{webhook}/history?status=failed&limit=1")).await;
    let cursor = first.body["nextCursor"].as_str().unwrap();
    assert_eq!(numbers(&format!("status=failed&limit=1&cursor={cursor}")).await, [3]);
    for (query, field) in [
        ("status=ok", "status"),
        ("codeClass=6xx", "codeClass"),
        ("codeClass=500", "codeClass"),
        ("eventType=message.*", "eventType"),
        ("eventId=", "eventId"),
        ("from=yesterday", "from"),
        ("to=1", "to"),
    ] {
        let answer = api.get(&format!("/api/webhooks/{webhook}/history?{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{query}");
        assert!(answer.body["errors"][field].is_string(), "{query}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_matches_few_looks_at_a_bounded_number_and_says_where_to_go_on() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let many = "INSERT INTO delivery_attempts (started_at, duration_ms, attempt, event_day, status_code, tenant_id,
            webhook_id, event_id, event_type)
        SELECT now() - make_interval(secs => n), 1, 1, CURRENT_DATE, 200, $1, $2, 'event-' || n, 'message.sent'
        FROM generate_series(1, 20010) n";
    let webhook_id: WebhookId = webhook.parse().unwrap();
    let client = api.database.client().await;
    client.execute(many, &[&api.tenant.0, &webhook_id.0]).await.unwrap();
    let path = format!("/api/webhooks/{webhook}/history?eventId=event-20005");
    let first = api.get(&path).await;
    assert_eq!(first.body["data"], json!([]));
    let cursor = first.body["nextCursor"].as_str().unwrap();
    let second = api.get(&format!("{path}&cursor={cursor}")).await;
    assert_eq!(second.body["data"][0]["eventId"], json!("event-20005"));
    assert_eq!(second.body["nextCursor"], json!(null));
}
