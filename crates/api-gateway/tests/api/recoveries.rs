use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use domain::{Event, TenantId};
use reqwest::Method;
use serde_json::{Value, json};
use store::Lease;
use uuid::Uuid;

use crate::helpers::{ALL_SCOPES, TestApi, token};

async fn hand_over(api: &TestApi, count: usize, at: DateTime<Utc>) {
    api.database.store.ensure_tenants(&[api.tenant]).await.unwrap();
    for number in 0..count {
        let event = Event {
            tenant_id: api.tenant,
            id: format!("e{number}").parse().unwrap(),
            event_type: "message.received".parse().unwrap(),
            occurred_at: at,
            session_id: None,
            ordering_key: None,
            trace: None,
            deliver_at: None,
            tags: Vec::new(),
            body: Bytes::from_static(br#"{"data":{}}"#),
        };
        let lease = Lease { holder: Uuid::nil(), until: at };
        api.database.store.hand_over(&[&event], at, lease, false).await.unwrap();
    }
    api.database.client().await.execute("DELETE FROM open_batches", &[]).await.unwrap();
}

fn ago(minutes: i64) -> String {
    (Utc::now() - TimeDelta::minutes(minutes)).to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_is_previewed_begun_watched_and_cancelled() {
    let api = TestApi::start().await;
    hand_over(&api, 3, Utc::now() - TimeDelta::minutes(5)).await;
    let webhook = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{webhook}/recoveries");
    let (from, to) = (ago(10), ago(1));
    let mut asked = json!({"kind": "missing", "from": from, "to": to, "rate": 7, "dryRun": true});
    let preview = api.post(&path, &asked.to_string()).await;
    assert_eq!((preview.status, &preview.body["data"]), (200, &json!({"deliveries": 3, "isExact": true})));
    assert_eq!(api.get(&path).await.body["data"], json!([]), "a preview begins nothing");

    asked["dryRun"] = json!(false);
    let begun = api.post(&path, &asked.to_string()).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let recovery = begun.body["data"].clone();
    let expected = json!({
        "id": recovery["id"], "webhookId": webhook, "kind": "missing", "state": "running", "reason": null,
        "from": from, "to": to, "eventType": null, "rate": 7, "estimate": {"deliveries": 3, "isExact": true},
        "scheduled": 0, "skipped": 0, "createdAt": recovery["createdAt"], "endedAt": null,
    });
    assert_eq!(recovery, expected);
    let one = format!("{path}/{}", recovery["id"].as_str().unwrap());
    assert_eq!(api.get(&one).await.body["data"], expected);
    assert_eq!(api.get(&path).await.body["data"], json!([expected]));
    let second = api.post(&path, &asked.to_string()).await;
    assert_eq!((second.status, second.code()), (409, "CONFLICT"), "one at a time");

    let cancelled = api.post(&format!("{one}/cancel"), "").await;
    assert_eq!((cancelled.status, &cancelled.body["data"]["state"]), (200, &json!("cancelled")));
    assert!(cancelled.body["data"]["endedAt"].is_string());
    assert_eq!(api.post(&format!("{one}/cancel"), "").await.code(), "CONFLICT", "it has ended");
    let next = api.post(&path, &asked.to_string()).await.id();
    let page = api.get(&format!("{path}?limit=1")).await;
    assert_eq!(page.body["data"][0]["id"], json!(next), "newest first");
    let cursor = page.body["nextCursor"].as_str().unwrap();
    let rest = api.get(&format!("{path}?limit=1&cursor={cursor}")).await;
    assert_eq!((&rest.body["data"][0]["id"], &rest.body["nextCursor"]), (&recovery["id"], &Value::Null));

    api.delete(&format!("/api/webhooks/{webhook}")).await;
    assert_eq!(api.get(&one).await.status, 200, "also when the webhook is gone");
    let other = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    for (token, path) in [
        (&other, one.clone()),
        (&other, path.clone()),
        (&api.token, format!("{path}/018f0000-0000-7000-8000-000000000000")),
        (&api.token, format!("{path}/nothing")),
    ] {
        assert_eq!(api.call_as(token, Method::GET, &path, None).await.code(), "NOT_FOUND", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_makes_no_sense_is_refused() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    let path = format!("/api/webhooks/{webhook}/recoveries");
    let good = json!({"kind": "failed", "from": ago(10)});
    for (field, value) in [
        ("kind", json!("all")),
        ("kind", Value::Null),
        ("from", json!("yesterday")),
        ("from", Value::Null),
        ("from", json!(ago(31 * 24 * 60))),
        ("from", json!(ago(-1))),
        ("to", json!(ago(-1))),
        ("eventType", json!("message.*")),
        ("rate", json!(0)),
        ("rate", json!(10_001)),
        ("since", json!(1)),
    ] {
        let mut asked = good.clone();
        asked[field] = value;
        let answer = api.post(&path, &asked.to_string()).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{asked}: {answer:?}");
        assert!(answer.body["errors"][field].is_string(), "{asked}: {answer:?}");
    }
    let readers = token(api.tenant, "webhooks:read");
    let refused = api.call_as(&readers, Method::POST, &path, Some(&good.to_string())).await;
    assert_eq!((refused.status, refused.code()), (403, "FORBIDDEN"));
    let nobody = "/api/webhooks/018f0000-0000-7000-8000-000000000000/recoveries";
    assert_eq!(api.post(nobody, &good.to_string()).await.code(), "NOT_FOUND");
    assert_eq!(api.get(nobody).await.code(), "NOT_FOUND");
    assert_eq!(api.get(&format!("{path}?cursor=x")).await.code(), "VALIDATION_ERROR");
    api.patch(&format!("/api/webhooks/{webhook}"), r#"{"isActive":false}"#).await;
    let answer = api.post(&path, &good.to_string()).await;
    assert_eq!((answer.status, answer.code()), (409, "CONFLICT"), "it is switched off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_five_recoveries_at_a_time() {
    let api = TestApi::start().await;
    for number in 0..6 {
        let webhook = api.create_webhook(&format!("https://example.com/{number}")).await;
        let asked = json!({"kind": "failed", "from": ago(10)}).to_string();
        let answer = api.post(&format!("/api/webhooks/{webhook}/recoveries"), &asked).await;
        if number < 5 {
            assert_eq!((answer.status, &answer.body["data"]["rate"]), (202, &json!(100)), "{answer:?}");
        } else {
            assert_eq!((answer.status, answer.code()), (403, "LIMIT_EXCEEDED"));
        }
    }
}
