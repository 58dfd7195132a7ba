use std::time::Duration;

use broker::Intake;
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use serde_json::{Value, json};
use test_support::eventually;
use tokio::time::timeout;

use crate::helpers::TestApi;

/// The events in the next message of the dispatch queue.
pub(crate) async fn next_message(api: &TestApi) -> Vec<Value> {
    next_message_of(api, Intake::Shared).await
}

pub(crate) async fn next_message_of(api: &TestApi, intake: Intake) -> Vec<Value> {
    let (_connection, channel) = api.broker.channel().await;
    let queue = api.broker.topology.dispatch_queue(intake);
    // Consumed, because a queue that keeps order gives nothing otherwise; one at a time, so that the next stays there.
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut messages = channel.basic_consume(queue.into(), "test".into(), options, arguments).await.unwrap();
    let message = timeout(Duration::from_secs(10), messages.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(message.properties.delivery_mode(), &Some(2), "persistent");
    assert_eq!(message.exchange.as_str(), api.broker.topology.ingest_exchange(intake));
    channel.basic_cancel("test".into(), BasicCancelOptions::default()).await.unwrap();
    message.ack(BasicAckOptions::default()).await.unwrap();
    serde_json::from_slice(&message.data).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_202_means_that_the_event_is_in_the_queue_as_it_was_given() {
    let api = TestApi::start().await;
    api.wait_until_order_is_known().await;
    let body = r#"{"type":"message.sent","data":{ "n": 1.0, "b":[1e2 ] },"id":"order 1","sessionId":"s1",
        "occurredAt":"2026-05-30T12:00:00.5+02:00"}"#;
    let answer = api.post("/api/events", body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.body, json!({"success": true, "data": {"id": "order 1"}}));
    let events = next_message(&api).await;
    assert_eq!(
        events,
        [json!({
            "id": "order 1",
            "tenantId": api.tenant.to_string(),
            "type": "message.sent",
            "occurredAt": "2026-05-30T10:00:00.500Z",
            "data": {"n": 1.0, "b": [1e2]},
            "sessionId": "s1",
        })]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_webhook_wants_in_order_take_the_way_that_keeps_it() {
    let api = TestApi::start().await;
    api.wait_until_order_is_known().await;
    api.post("/api/webhooks", r#"{"url":"https://example.com/","events":["*"],"ordered":true}"#).await;
    // The gateway learns of it within a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let event = |key: &str| format!(r#"{{"type":"message.sent","data":1{key}}}"#);
    for key in [r#","orderingKey":"k1""#, r#","sessionId":"s1""#, ""] {
        assert_eq!(api.post("/api/events", &event(key)).await.status, 202);
    }
    let first = next_message_of(&api, Intake::InOrder).await;
    assert_eq!(first[0]["orderingKey"], json!("k1"));
    assert_eq!(next_message_of(&api, Intake::InOrder).await[0]["sessionId"], json!("s1"));
    let other = next_message(&api).await;
    assert_eq!((other[0].get("orderingKey"), other[0].get("sessionId")), (None, None), "needs no order");
    let bad = api.post("/api/events", &event(r#","orderingKey":"""#)).await;
    assert_eq!((bad.status, bad.code()), (400, "VALIDATION_ERROR"));
    assert!(bad.body["errors"]["orderingKey"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_id_gets_one_and_without_time_happens_now() {
    let api = TestApi::start().await;
    let answer = api.post("/api/events", r#"{"type":"message.sent","data":null}"#).await;
    let id = answer.id();
    assert!(id.starts_with("evt_") && !id.contains('.'), "{id}");
    let event = next_message(&api).await.remove(0);
    assert_eq!(event["id"], json!(id));
    assert_eq!(event["data"], json!(null));
    let occurred_at: chrono::DateTime<chrono::Utc> = event["occurredAt"].as_str().unwrap().parse().unwrap();
    assert!((chrono::Utc::now() - occurred_at).num_seconds() < 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_published_at_once_all_arrive_and_travel_together() {
    let api = std::sync::Arc::new(TestApi::start().await);
    api.wait_until_ready().await;
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let api = std::sync::Arc::clone(&api);
            let body = format!(r#"{{"type":"message.sent","data":{number},"id":"e{number}"}}"#);
            tokio::spawn(async move { api.post("/api/events", &body).await.status })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 202);
    }
    let mut ids = std::collections::BTreeSet::new();
    let mut messages = 0;
    while ids.len() < 200 {
        messages += 1;
        ids.extend(next_message(&api).await.into_iter().map(|event| event["id"].to_string()));
    }
    assert!(messages < 200, "{messages} messages for 200 events");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbound_queue_is_503_then_the_binding_is_restored() {
    let api = TestApi::start().await;
    api.wait_until_ready().await;
    let event = r#"{"type":"message.sent","data":1}"#;
    assert_eq!(api.post("/api/events", event).await.status, 202);
    let (_connection, channel) = api.broker.channel().await;
    let queue = api.broker.topology.dispatch_queue(Intake::Shared);
    let exchange = api.broker.topology.ingest_exchange(Intake::Shared);
    channel.queue_unbind(queue.into(), exchange.into(), "event".into(), FieldTable::default()).await.unwrap();
    let answer = api.post("/api/events", event).await;
    assert_eq!((answer.status, answer.code()), (503, "SERVICE_UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), "2");
    // Another HTTP worker's publisher may come before the binding is there again.
    eventually("the binding", async || (api.post("/api/events", event).await.status == 202).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_publishing_is_503_within_the_timeout() {
    let topology = broker::Topology::new("nowhere");
    let nowhere = broker::BrokerConfig::new("amqp://127.0.0.1:1/%2f", topology, "test").unwrap();
    let api = TestApi::start_with(|config| {
        config.broker = nowhere;
        config.publish_timeout = Duration::from_millis(300);
    })
    .await;
    let began = std::time::Instant::now();
    let answer = api.post("/api/events", r#"{"type":"message.sent","data":1}"#).await;
    assert_eq!((answer.status, answer.code()), (503, "SERVICE_UNAVAILABLE"));
    assert!(began.elapsed() < Duration::from_secs(5));
    let ready = crate::helpers::send(api.request(reqwest::Method::GET, "/health/ready")).await;
    assert_eq!(ready.status, 503);
    let live = crate::helpers::send(api.request(reqwest::Method::GET, "/health/live")).await;
    assert_eq!(live.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_events_are_accepted_all_the_same() {
    let nowhere = store::Store::new("postgres://nobody@127.0.0.1:1/none", 1).unwrap();
    let api = TestApi::start_with(|config| config.store = nowhere).await;
    let answer = api.post("/api/events", r#"{"type":"message.sent","data":1}"#).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(next_message(&api).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_postrider_publishes_what_happens_to_webhooks_but_all_can_subscribe_to_it() {
    let api = TestApi::start().await;
    for reserved in ["webhook.created", "delivery.exhausted", "webhook.anything"] {
        let answer = api.post("/api/events", &format!(r#"{{"type":"{reserved}","data":1}}"#)).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{answer:?}");
        assert!(answer.body["errors"]["type"].as_str().unwrap().contains("reserved"));
    }
    let body = r#"{"url":"https://example.com/","events":["webhook.*","delivery.exhausted"]}"#;
    assert_eq!(api.post("/api/webhooks", body).await.status, 201);
    let unknown =
        api.post("/api/webhooks", r#"{"url":"https://example.com/","events":["webhook.made"]}"#).await;
    assert_eq!(unknown.status, 400);

    let ordinary = api.get("/api/webhooks/events").await.body["data"].as_array().unwrap().clone();
    let all = api.get("/api/webhooks/events?include=domain").await.body["data"].as_array().unwrap().clone();
    assert_eq!((ordinary.len(), all.len()), (5, 15));
    assert!(all.starts_with(&ordinary) && all.contains(&"delivery.recovered".into()));
    assert_eq!(api.get("/api/webhooks/events?include=others").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_wait_or_has_tags_is_published_so() {
    let api = TestApi::start().await;
    let publish = |more: String| {
        let api = &api;
        async move { api.post("/api/events", &format!(r#"{{"type":"message.sent","data":1,{more}}}"#)).await }
    };
    let days = |days: i64| (chrono::Utc::now() + chrono::TimeDelta::days(days)).to_rfc3339();
    let in_a_week = days(7);
    let answer = publish(format!(r#""deliverAt":"{in_a_week}","tags":["b","a","b"]"#)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let event = next_message(&api).await.remove(0);
    let sent: chrono::DateTime<chrono::Utc> = event["deliverAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(sent.to_rfc3339(), in_a_week);
    assert_eq!(event["tags"], json!(["a", "b"]));
    assert_eq!(publish(format!(r#""deliverAt":"{}""#, days(-7))).await.status, 202);
    assert_eq!(next_message(&api).await[0].get("deliverAt"), None, "what has passed is now");
    let many: Vec<String> = (0..11).map(|n| n.to_string()).collect();
    for (more, field) in [
        (format!(r#""deliverAt":"{}""#, days(26)), "deliverAt"),
        (r#""deliverAt":"tomorrow""#.to_owned(), "deliverAt"),
        (r#""tags":[""]"#.to_owned(), "tags"),
        (format!(r#""tags":{}"#, json!(many)), "tags"),
    ] {
        let answer = publish(more).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{answer:?}");
        assert!(answer.body["errors"][field].is_string(), "{answer:?}");
    }
}
