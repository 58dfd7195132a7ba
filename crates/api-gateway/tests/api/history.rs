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
    assert_eq!(
        answer.body["data"],
        json!([{
            "event": "message.received",
            "statusCode": 200,
            "deliveredAt": "2026-05-30T10:00:00.000Z",
            "eventId": "event-0",
            "attempt": 1,
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
    for query in
        ["limit=0", "limit=101", "limit=-1", "limit=many", "cursor=%00", "cursor=bm90IGEgY3Vyc29y", "page=2"]
    {
        let answer = api.get(&format!("/api/webhooks/{webhook}/history?{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{query}");
    }
}
