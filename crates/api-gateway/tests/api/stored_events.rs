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
    hand_over_tagged(api, id, &[]).await;
}

async fn hand_over_tagged(api: &TestApi, id: &str, tags: &[&str]) {
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
        deliver_at: None,
        tags: domain::parse_tags(tags).unwrap(),
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

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_away_reads_what_it_has_missed_in_order() {
    let api = TestApi::start().await;
    let empty = api.get("/api/events").await;
    assert_eq!(
        (empty.status, empty.body),
        (200, json!({"success": true, "data": [], "nextCursor": null, "hasMore": false}))
    );
    for id in ["c", "a", "b"] {
        hand_over(&api, id).await;
    }
    let feed = |query: String| {
        let api = &api;
        async move { api.get(&format!("/api/events?{query}")).await.body }
    };
    let ids = |page: &serde_json::Value| -> Vec<String> {
        let events = page["data"].as_array().unwrap().iter();
        events.map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = feed("limit=2".to_owned()).await;
    assert_eq!((ids(&first), &first["hasMore"]), (vec!["c".to_owned(), "a".to_owned()], &json!(true)));
    assert_eq!(first["data"][0]["data"]["n"], json!(1.0));
    let cursor = first["nextCursor"].as_str().unwrap();
    let second =
        feed(format!("after={cursor}&type=message.sent&sessionId=s1&from=2026-01-01T00:00:00Z")).await;
    assert_eq!((ids(&second), &second["hasMore"]), (vec!["b".to_owned()], &json!(false)));
    let other = token(TenantId(Uuid::now_v7()), ALL_SCOPES);
    let theirs = api.call_as(&other, Method::GET, &format!("/api/events?after={cursor}"), None).await;
    assert_eq!(
        (theirs.status, &theirs.body["data"]),
        (200, &json!([])),
        "a cursor opens nobody else's events"
    );
    for (query, field) in [
        ("after=x", "after"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("type=a..b", "type"),
        ("sessionId=", "sessionId"),
        ("from=now", "from"),
        ("to=2026", "to"),
        ("color=1", "query"),
    ] {
        let answer = api.get(&format!("/api/events?{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{query}");
        assert!(field == "query" || answer.body["errors"][field].is_string(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_tag_are_erased_for_good_and_shown_as_erased() {
    let api = TestApi::start().await;
    let webhook = api.create_webhook("https://example.com/").await;
    hand_over_tagged(&api, "e1", &["customer-77", "vip"]).await;
    hand_over_tagged(&api, "e2", &["customer-78"]).await;
    hand_over(&api, "e3").await;
    assert_eq!(api.get("/api/events/e1").await.body["data"]["tags"], json!(["customer-77", "vip"]));
    assert_eq!(api.post(&format!("/api/webhooks/{webhook}/deliveries/e1/resend"), "").await.status, 202);
    let tagged = api.get("/api/events?tag=vip").await;
    assert_eq!(tagged.body["data"].as_array().unwrap().len(), 1, "{tagged:?}");

    let eraser = token(api.tenant, "events:erase");
    let erase = |token: String| {
        let api = &api;
        let body = r#"{"tag":"customer-77"}"#;
        async move { api.call_as(&token, Method::POST, "/api/events/erasures", Some(body)).await }
    };
    assert_eq!(erase(api.token.clone()).await.code(), "FORBIDDEN", "it has a scope of its own");
    let theirs = erase(token(TenantId(Uuid::now_v7()), "events:erase")).await;
    assert_eq!(theirs.body["data"]["events"], json!(0), "tags are each tenant's own");
    let erased = erase(eraser.clone()).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    let counts = &erased.body["data"];
    assert_eq!((&counts["events"], &counts["cancelledDeliveries"]), (&json!(1), &json!(1)));
    assert_eq!(erase(eraser.clone()).await.body["data"]["events"], json!(0), "once is enough");

    let shown = api.get("/api/events/e1").await.body["data"].clone();
    assert_eq!(
        (&shown["data"], &shown["tags"], &shown["sessionId"]),
        (&json!(null), &json!([]), &json!(null))
    );
    assert!(shown["erasedAt"].is_string(), "{shown}");
    let feed = api.get("/api/events").await.body;
    assert!(feed["data"][0]["erasedAt"].is_string() && feed["data"][1]["erasedAt"].is_null(), "{feed}");
    assert_eq!(feed["data"][1]["data"]["n"], json!(1.0), "the others are as they were");
    let again = api.post(&format!("/api/webhooks/{webhook}/deliveries/e1/resend"), "").await;
    assert_eq!((again.status, again.code()), (409, "CONFLICT"), "{again:?}");
    assert!(again.body["message"].as_str().unwrap().contains("erased"));
    let logged = "SELECT count(*) FROM audit_log WHERE action = 'events.erased' AND audit_log::text NOT LIKE '%customer-77%'";
    assert_eq!(api.database.count(logged).await, 3);
    for bad in [r#"{"tag":""}"#, "{}", r#"{"tag":7}"#] {
        let answer = api.call_as(&eraser, Method::POST, "/api/events/erasures", Some(bad)).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{bad}");
    }
}
