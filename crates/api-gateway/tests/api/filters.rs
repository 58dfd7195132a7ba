//! Payload filters: set, shown, tried.

use serde_json::{Value, json};

use crate::helpers::TestApi;

const TEST: &str = "/api/webhooks/filter/test";

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_shown_as_it_was_written_and_null_wants_everything_again() {
    let api = TestApi::start().await;
    let filter = r#"{"z": 1.50, "a.b": {"$in": ["x", null]}}"#;
    let create = format!(r#"{{"url":"https://example.com/","events":["*"],"filter":{filter}}}"#);
    let created = api.post("/api/webhooks", &create).await;
    assert_eq!(created.status, 201, "{created:?}");
    let path = format!("/api/webhooks/{}", created.id());
    let text = |answer: &crate::helpers::Answer| answer.body["data"]["filter"].clone();
    assert_eq!(text(&api.get(&path).await), serde_json::from_str::<Value>(filter).unwrap());
    assert_eq!(
        text(&api.patch(&path, r#"{"isActive":true}"#).await)["z"],
        json!(1.5),
        "an absent field stays"
    );
    assert_eq!(text(&api.patch(&path, r#"{"filter":{"b":2}}"#).await), json!({"b": 2}));
    assert_eq!(text(&api.patch(&path, r#"{"filter":null}"#).await), json!(null));
    for bad in
        ["{}", "[]", "7", r#"{"a":{"$like":1}}"#, r#"{"a":1,"a":2}"#, r#"{"a":1e400}"#, r#"{"$or":[]}"#]
    {
        let create = format!(r#"{{"url":"https://example.com/2","events":["*"],"filter":{bad}}}"#);
        let change = format!(r#"{{"filter":{bad}}}"#);
        for answer in [api.post("/api/webhooks", &create).await, api.patch(&path, &change).await] {
            assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{bad}");
            assert!(answer.body["errors"]["filter"].is_string(), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_whether_a_filter_matches_and_what_decided() {
    let api = TestApi::start().await;
    let filter = r#"{"amount": {"$gte": 100}, "$or": [{"country": "DE"}, {"vip": true}]}"#;
    let test = async |data: Value| {
        let answer = api.post(TEST, &format!(r#"{{"filter":{filter},"data":{data}}}"#)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["data"].clone()
    };
    let wanted = test(json!({"amount": 250, "country": "FR", "vip": true})).await;
    assert_eq!((&wanted["matches"], &wanted["judged"]), (&json!(true), &json!(true)));
    let decisive = |result: &Value| -> Vec<bool> {
        result["conditions"].as_array().unwrap().iter().map(|c| c["decisive"].as_bool().unwrap()).collect()
    };
    assert_eq!(decisive(&wanted), [true, false, true]);
    let unwanted = test(json!({"amount": 99.5, "country": {"code": "DE"}})).await;
    assert_eq!(unwanted["matches"], json!(false));
    assert_eq!(decisive(&unwanted), [true, false, false]);
    let conditions = &unwanted["conditions"];
    let first = json!({"field": "amount", "operator": "$gte", "operand": 100, "foundType": "number", "found": 99.5,
        "holds": false, "decisive": true});
    assert_eq!(conditions[0], first);
    let second = json!({"field": "country", "operator": "$eq", "operand": "DE", "foundType": "object", "holds": false,
        "decisive": false});
    assert_eq!(conditions[1], second);
    assert_eq!(conditions[2]["foundType"], json!("missing"));
    let long = test(json!({"amount": 1, "country": "x".repeat(1000)})).await;
    assert_eq!(long["conditions"][1]["found"].as_str().unwrap().len(), 256);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_refuses_what_is_no_filter_and_lets_through_what_cannot_be_judged() {
    let api = TestApi::start().await;
    for (body, field) in [
        ("{}", "filter"),
        (r#"{"filter":{"a":1}}"#, "data"),
        (r#"{"filter":null,"data":1}"#, "filter"),
        (r#"{"filter":{"a":{"b":1}},"data":1}"#, "filter"),
        (r#"{"filter":{"a":1},"sample":1}"#, "sample"),
    ] {
        let answer = api.post(TEST, body).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{body}");
        assert!(answer.body["errors"][field].is_string(), "{answer:?}");
    }
    let unjudged = api.post(TEST, r#"{"filter":{"a":1},"data":{"a":1e400}}"#).await;
    assert_eq!(unjudged.body["data"], json!({"matches": true, "judged": false, "conditions": []}));
}
