use api_gateway::SchemaValidation;
use reqwest::Method;
use serde_json::{Value, json};
use test_support::eventually;

use crate::helpers::{Answer, TestApi, token};
use crate::publishing::next_message;

async fn as_admin(api: &TestApi, method: Method, event_type: &str, body: Option<&Value>) -> Answer {
    let path = format!("/api/webhooks/events/{event_type}");
    api.call_as(&token(api.tenant, "admin"), method, &path, body.map(Value::to_string).as_deref()).await
}

fn paid() -> Value {
    json!({
        "description": "An order was paid.",
        "schema": {"type": "object", "required": ["orderId"], "properties": {"orderId": {"type": "string"},
            "parts": {"type": "array", "items": {"type": "integer"}}}},
        "example": {"orderId": "1042", "parts": [1, 2]},
    })
}

fn event(data: &Value) -> String {
    json!({"type": "order.paid", "data": data}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_has_a_schema_and_an_example_that_fits_it() {
    let api = TestApi::start().await;
    let names = api.get("/api/webhooks/events?include=domain").await.body["data"].clone();
    for name in names.as_array().unwrap() {
        let name = name.as_str().unwrap();
        let request = api.request(Method::GET, &format!("/api/webhooks/events/{name}"));
        let shown = crate::helpers::send(request).await;
        assert_eq!(shown.status, 200, "public: {shown:?}");
        let shown = &shown.body["data"];
        let is_reserved = name.starts_with("webhook.") || name.starts_with("delivery.");
        assert_eq!((&shown["type"], &shown["reserved"]), (&json!(name), &json!(is_reserved)));
        assert!(shown["description"].is_string() && shown["schema"].is_object(), "{shown}");
        // What is put is checked as these should be.
        let copy = json!({"description": "A copy.", "schema": shown["schema"], "example": shown["example"]});
        let put = as_admin(&api, Method::PUT, &format!("copy.of.{name}"), Some(&copy)).await;
        assert_eq!(put.status, 201, "{name}: {put:?}");
    }
    assert_eq!(api.get("/api/webhooks/events/no.such").await.code(), "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_manage_types_and_all_gateways_know_within_two_seconds() {
    let api = TestApi::start().await;
    let another = api.start_another();
    // A gateway that has not read the types yet, within its patience, leaves the judgement to the dispatchers.
    assert_eq!(api.get("/api/webhooks/events").await.status, 200);
    let read = crate::helpers::send(another.request(&api, Method::GET, "/api/webhooks/events")).await;
    assert_eq!(read.status, 200);
    assert_eq!(api.post("/api/events", &event(&json!({}))).await.status, 400, "not a type yet");
    assert_eq!(another.post(&api, "/api/events", &event(&json!({}))).await.status, 400);
    let created = as_admin(&api, Method::PUT, "order.paid", Some(&paid())).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.body["data"]["schema"], paid()["schema"]);
    let began = std::time::Instant::now();
    eventually("the other gateway knows", async || {
        (another.post(&api, "/api/events", &event(&json!({}))).await.status == 202).then_some(())
    })
    .await;
    assert!(began.elapsed().as_secs_f64() < 2.5, "{:?}", began.elapsed());
    assert_eq!(api.post("/api/events", &event(&json!(7))).await.status, 202, "schemas are not looked at");
    let list = api.get("/api/webhooks/events").await.body["data"].clone();
    assert_eq!(list.as_array().unwrap().last(), Some(&json!("order.paid")));
    let changed = as_admin(&api, Method::PUT, "order.paid", Some(&json!({"description": "Paid."}))).await;
    assert_eq!((changed.status, &changed.body["data"]["schema"]), (200, &json!(null)));

    let webhook = r#"{"url":"https://example.com/","events":["order.paid"]}"#;
    let webhook = api.post("/api/webhooks", webhook).await.id();
    let used = as_admin(&api, Method::DELETE, "order.paid", None).await;
    assert_eq!((used.status, used.code()), (409, "CONFLICT"), "{used:?}");
    assert_eq!(api.delete(&format!("/api/webhooks/{webhook}")).await.status, 200);
    assert_eq!(as_admin(&api, Method::DELETE, "order.paid", None).await.status, 200);
    assert_eq!(as_admin(&api, Method::DELETE, "order.paid", None).await.status, 404);
    assert_eq!(api.post("/api/events", &event(&json!({}))).await.status, 400);
    another.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_type_is_refused() {
    let api = TestApi::start().await;
    let large = json!({"description": "d", "schema": {"description": "x".repeat(64 * 1024)}});
    for (name, body, field) in [
        ("webhook.mine", paid(), "type"),
        ("a..b", paid(), "type"),
        ("order.paid", json!({"schema": {}}), "description"),
        ("order.paid", json!({"description": "", "schema": {}}), "description"),
        ("order.paid", json!({"description": "d", "schema": {"type": "nothing"}}), "schema"),
        (
            "order.paid",
            json!({"description": "d", "schema": {"$ref": "https://example.com/s.json"}}),
            "schema",
        ),
        ("order.paid", large, "schema"),
        (
            "order.paid",
            json!({"description": "d", "schema": {"items": {"type": "string"}}, "example": ["a", 7]}),
            "example/1",
        ),
    ] {
        let answer = as_admin(&api, Method::PUT, name, Some(&body)).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{name} {answer:?}");
        assert!(answer.body["errors"][field].is_string(), "{field}: {answer:?}");
    }
    let path = "/api/webhooks/events/order.paid";
    let mine = api.call_as(&api.token, Method::PUT, path, Some(&paid().to_string())).await;
    assert_eq!(mine.code(), "FORBIDDEN");
    let reserved = as_admin(&api, Method::DELETE, "webhook.created", None).await;
    assert_eq!((reserved.status, reserved.code()), (409, "CONFLICT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_not_as_the_schema_says_is_refused_where_it_is_configured() {
    let api = TestApi::start_with(|config| config.schema_validation = SchemaValidation::Reject).await;
    api.wait_until_order_is_known().await;
    as_admin(&api, Method::PUT, "order.paid", Some(&paid())).await;
    let bad = api.post("/api/events", &event(&json!({"orderId": "1", "parts": [1, "x"]}))).await;
    assert_eq!((bad.status, bad.code()), (400, "VALIDATION_ERROR"), "{bad:?}");
    let problem = bad.body["errors"]["data/parts/1"].as_str().unwrap();
    assert!(problem.contains("integer"), "{problem}");
    let missing = api.post("/api/events", &event(&json!({}))).await;
    assert!(missing.body["errors"]["data"].as_str().unwrap().contains("orderId"), "{missing:?}");
    let batch = json!({"events": [{"type": "order.paid", "data": {"orderId": "1"}}, {"type": "order.paid", "data": 7}]});
    let batch = api.post("/api/events/batch", &batch.to_string()).await;
    assert_eq!((batch.status, &batch.body["data"][1]["status"]), (207, &json!(400)), "{batch:?}");
    assert_eq!(next_message(&api).await.len(), 1, "only the good one");
    // What is changed holds for the next event.
    as_admin(&api, Method::PUT, "order.paid", Some(&json!({"description": "Paid."}))).await;
    assert_eq!(api.post("/api/events", &event(&json!({}))).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn or_it_is_accepted_with_a_warning() {
    let api = TestApi::start_with(|config| config.schema_validation = SchemaValidation::Warn).await;
    as_admin(&api, Method::PUT, "order.paid", Some(&paid())).await;
    let warned = api.post("/api/events", &event(&json!({"orderId": 7}))).await;
    assert_eq!(warned.status, 202, "{warned:?}");
    let warnings = warned.body["data"]["warnings"].as_array().unwrap();
    assert_eq!((warnings.len(), &warnings[0]["pointer"]), (1, &json!("/orderId")), "{warnings:?}");
    let good = api.post("/api/events", &event(&json!({"orderId": "7"}))).await;
    assert_eq!((good.status, good.body["data"].get("warnings")), (202, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_who_would_receive_an_event_and_why_not() {
    let api = TestApi::start().await;
    let create = async |more: Value| {
        let mut body = json!({"url": format!("https://example.com/{more}").replace(['{', '}', '"', ' '], ""), "events": ["message.*"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let created = api.post("/api/webhooks", &body.to_string()).await;
        assert_eq!(created.status, 201, "{created:?}");
        created.id()
    };
    let all = create(json!({})).await;
    let off = create(json!({"isActive": false})).await;
    let other = create(json!({"events": ["campaign.completed"], "sessionIds": ["s2"]})).await;
    let filtered = create(json!({"filter": {"amount": {"$gte": 100}}})).await;
    let paused = create(json!({"sessionIds": ["s1"]})).await;
    api.post(&format!("/api/webhooks/{paused}/pause"), "").await;
    let event = r#"{"type":"message.sent","sessionId":"s1","data":{"amount":99}}"#;
    let answer = api.post("/api/events/preview", event).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let preview = &answer.body["data"];
    assert_eq!((&preview["accepted"], &preview["receivers"]), (&json!(true), &json!(2)), "{preview}");
    assert_eq!(preview["schemaProblems"][0]["pointer"], json!(""), "`to` is missing");
    let found = |id: &str| {
        let webhooks = preview["webhooks"].as_array().unwrap();
        let webhook = webhooks.iter().find(|webhook| webhook["id"] == json!(id)).unwrap();
        (webhook["receives"].clone(), webhook["reasons"].clone(), webhook["waits"].clone())
    };
    assert_eq!(found(&all), (json!(true), json!([]), json!([])));
    assert_eq!(found(&off), (json!(false), json!(["inactive"]), json!([])));
    assert_eq!(found(&other), (json!(false), json!(["type", "session"]), json!([])));
    assert_eq!(found(&filtered), (json!(false), json!(["filter"]), json!([])));
    assert_eq!(found(&paused), (json!(true), json!([]), json!(["paused"])));
    let queued = api.database.count("SELECT count(*) FROM deliveries").await;
    assert_eq!(queued, 0, "nothing is published");
    let invalid = api.post("/api/events/preview", r#"{"type":"message.lost","data":1}"#).await;
    assert_eq!((invalid.status, invalid.code()), (400, "VALIDATION_ERROR"));
}
