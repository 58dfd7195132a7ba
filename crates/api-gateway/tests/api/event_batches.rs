use std::time::Duration;

use broker::Intake;
use reqwest::Method;
use serde_json::{Value, json};
use test_support::eventually;

use crate::helpers::{TestApi, token};
use crate::publishing::{next_message, next_message_of};

const BATCH: &str = "/api/events/batch";

fn event(id: &str) -> Value {
    json!({"type": "message.sent", "id": id, "data": {"of": id}})
}

fn batch(events: &[Value]) -> String {
    json!({"events": events}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_batch_travel_together_in_their_order() {
    let api = TestApi::start().await;
    api.wait_until_order_is_known().await;
    let events: Vec<Value> = (0..200).map(|number| event(&format!("e{number}"))).collect();
    let answer = api.post(BATCH, &batch(&events)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let items = answer.body["data"].as_array().unwrap();
    assert_eq!(items.len(), 200);
    assert_eq!(items[7], json!({"index": 7, "status": 202, "id": "e7"}));
    let sent = next_message(&api).await;
    let ids: Vec<&str> = sent.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids, (0..200).map(|number| format!("e{number}")).collect::<Vec<_>>());
    assert_eq!(
        (&sent[3]["data"], &sent[3]["tenantId"]),
        (&json!({"of": "e3"}), &json!(api.tenant.to_string()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_event_keeps_none_of_the_others_back() {
    let api = TestApi::start().await;
    api.wait_until_order_is_known().await;
    let unknown = json!({"type": "message.lost", "data": 1});
    let misspelt = json!({"type": "message.sent", "date": 1});
    let events =
        [event("good-1"), unknown, json!(7), misspelt, json!({"type": "message.sent", "data": null})];
    let answer = api.post(BATCH, &batch(&events)).await;
    assert_eq!((answer.status, &answer.body["success"]), (207, &json!(true)), "{answer:?}");
    let items = answer.body["data"].as_array().unwrap();
    let statuses: Vec<&Value> = items.iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, [202, 400, 400, 400, 202]);
    let error = &items[1]["error"];
    assert_eq!((&error["success"], &error["code"]), (&json!(false), &json!("VALIDATION_ERROR")));
    assert!(error["errors"]["type"].as_str().unwrap().contains("message.lost"), "{error}");
    assert!(items[4]["id"].as_str().unwrap().starts_with("evt_"));
    assert_eq!(next_message(&api).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_which_nothing_is_accepted_is_an_error_that_names_the_places() {
    let api = TestApi::start().await;
    let answer = api.post(BATCH, &batch(&[json!({"type": "message.sent"}), json!(7)])).await;
    assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{answer:?}");
    let errors = answer.body["errors"].as_object().unwrap();
    assert_eq!(errors["events[0].data"], json!("data is required"));
    assert!(errors.contains_key("events[1]"), "{errors:?}");

    let too_many = batch(&vec![event("e"); 501]);
    let large = json!({"type": "message.sent", "data": "x".repeat(256 * 1024 - 2)});
    let (large_alone, largest) = (batch(std::slice::from_ref(&large)), batch(&vec![large; 17]));
    for (body, status, code) in [
        (r#"{"events":[]}"#, 400, "VALIDATION_ERROR"),
        ("{}", 400, "VALIDATION_ERROR"),
        ("[]", 400, "VALIDATION_ERROR"),
        (r#"{"events":{}}"#, 400, "VALIDATION_ERROR"),
        (r#"{"events":[1],"more":2}"#, 400, "VALIDATION_ERROR"),
        (&too_many, 400, "VALIDATION_ERROR"),
        (&largest, 413, "PAYLOAD_TOO_LARGE"),
    ] {
        let answer = api.post(BATCH, body).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{}", &body[..body.len().min(40)]);
    }
    assert_eq!(api.post(BATCH, &large_alone).await.status, 202, "as large as alone");
    let reader = token(api.tenant, "webhooks:read");
    let answer = api.call_as(&reader, Method::POST, BATCH, Some(&batch(&[event("e")]))).await;
    assert_eq!((answer.status, answer.code()), (403, "FORBIDDEN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_batch_that_need_order_take_the_way_that_keeps_it() {
    let api = TestApi::start().await;
    api.wait_until_order_is_known().await;
    let webhook = r#"{"url":"https://example.com/","events":["*"],"ordered":true}"#;
    assert_eq!(api.post("/api/webhooks", webhook).await.status, 201);
    let keyed = |id: &str| json!({"type": "message.sent", "id": id, "data": 1, "orderingKey": "k"});
    api.wait_until_order_is_read_again().await;
    let answer = api.post(BATCH, &batch(&[keyed("o1"), event("s1"), keyed("o2")])).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let in_order = next_message_of(&api, Intake::InOrder).await;
    assert_eq!(in_order.iter().map(|event| &event["id"]).collect::<Vec<_>>(), ["o1", "o2"]);
    assert_eq!(next_message(&api).await[0]["id"], json!("s1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_counts_as_its_valid_events() {
    let api = TestApi::start().await;
    assert_eq!(api.post(BATCH, &batch(&[event("a"), event("b"), json!(7)])).await.status, 207);
    eventually("two events of the plan are used", async || {
        let usage = api.get("/api/usage").await;
        (usage.body["data"]["usedToday"]["events"] == json!(2)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_not_confirmed_is_503() {
    let topology = broker::Topology::new("nowhere");
    let nowhere = broker::BrokerConfig::new("amqp://127.0.0.1:1/%2f", topology, "test").unwrap();
    let api = TestApi::start_with(|config| {
        config.broker = nowhere;
        config.publish_timeout = Duration::from_millis(300);
    })
    .await;
    let answer = api.post(BATCH, &batch(&[json!(7), event("b")])).await;
    assert_eq!((answer.status, answer.code()), (503, "SERVICE_UNAVAILABLE"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), "2");
    assert!(answer.body["errors"]["events[1]"].is_string(), "{answer:?}");
}
