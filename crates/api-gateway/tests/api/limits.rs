use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use test_support::eventually;
use tokio::time::Instant;

use crate::helpers::{Answer, TestApi, token};

const EVENT: &str = r#"{"type":"message.sent","data":1}"#;

async fn as_admin(api: &TestApi, method: Method, path: &str, body: Option<Value>) -> Answer {
    let body = body.map(|body| body.to_string());
    api.call_as(&token(api.tenant, "admin"), method, path, body.as_deref()).await
}

/// Puts the tenant on a plan of its own, and publishes once so that the gateway knows it.
async fn put_on_plan(api: &TestApi, limits: Value) {
    assert_eq!(as_admin(api, Method::PUT, "/api/plans/test", Some(limits)).await.status, 201);
    subscribe(api, json!({"plan": "test"})).await;
}

async fn subscribe(api: &TestApi, subscription: Value) {
    let path = format!("/api/tenants/{}", api.tenant);
    let put = as_admin(api, Method::PUT, &path, Some(subscription)).await;
    assert_eq!(put.status, 200, "{put:?}");
}

async fn used_today(api: &TestApi) -> Value {
    let usage = api.get("/api/usage").await;
    assert_eq!(usage.status, 200, "{usage:?}");
    usage.body["data"]["usedToday"]["events"].clone()
}

/// Waits until the gateway has read what is in the database now: it does so after each write of its own counts.
async fn wait_until_read(api: &TestApi) {
    for _ in 0..2 {
        let requests = async || api.database.count("SELECT sum(requests)::bigint FROM tenant_usage").await;
        let before = requests().await;
        eventually("another write", async || {
            api.get("/api/usage").await;
            (requests().await > before).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_over_the_plans_rate_are_429_and_say_when_there_is_room() {
    let api = TestApi::start().await;
    put_on_plan(&api, json!({"maxWebhooks": 1, "eventsPerMinute": 60})).await;
    for _ in 0..10 {
        assert_eq!(api.post("/api/events", EVENT).await.status, 202, "a burst of ten");
    }
    let answer = api.post("/api/events", EVENT).await;
    assert_eq!((answer.status, answer.code()), (429, "RATE_LIMITED"), "{answer:?}");
    assert_eq!(answer.body["message"], json!("Your plan allows 60 events a minute"));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.header("ratelimit-policy"), r#""events";q=60;w=60"#);
    assert_eq!(answer.header("ratelimit"), r#""events";r=0;t=1"#);
    assert_eq!(api.get("/api/webhooks").await.status, 200, "only events are used up");
    eventually("room for one more", async || {
        (api.post("/api/events", EVENT).await.status == 202).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_at_once_is_held_back() {
    let api = TestApi::start().await;
    put_on_plan(&api, json!({"maxWebhooks": 1, "eventsPerMinute": 1})).await;
    assert_eq!(api.post("/api/events", EVENT).await.status, 202);
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(api.post("/api/events", EVENT).await.status, 429);
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_plans_rate_are_429() {
    let api = TestApi::start().await;
    put_on_plan(&api, json!({"maxWebhooks": 1, "requestsPerMinute": 10})).await;
    for _ in 0..10 {
        assert_eq!(api.get("/api/webhooks").await.status, 200);
    }
    let answer = api.get("/api/webhooks").await;
    assert_eq!((answer.status, answer.code()), (429, "RATE_LIMITED"));
    assert_eq!(answer.header("ratelimit-policy"), r#""requests";q=10;w=60"#);
    assert_eq!(api.post("/api/events", EVENT).await.status, 202, "publishing is counted for itself");
    assert_eq!(
        as_admin(&api, Method::GET, "/api/plans", None).await.status,
        200,
        "admins are never locked out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_day_are_counted_at_all_gateways_together() {
    let api = TestApi::start().await;
    let other = api.start_another();
    put_on_plan(&api, json!({"maxWebhooks": 1, "eventsPerDay": 30})).await;
    for _ in 0..10 {
        assert_eq!(api.post("/api/events", EVENT).await.status, 202);
        assert_eq!(other.post(&api, "/api/events", EVENT).await.status, 202);
    }
    eventually("both counts", async || (used_today(&api).await == json!(20)).then_some(())).await;
    wait_until_read(&api).await;
    let mut accepted = 20;
    let refused = eventually("the limit", async || {
        let answer = api.post("/api/events", EVENT).await;
        if answer.status == 202 {
            accepted += 1;
            return None;
        }
        Some(answer)
    })
    .await;
    assert_eq!((refused.status, refused.code()), (403, "LIMIT_EXCEEDED"), "{refused:?}");
    assert_eq!(accepted, 30, "what the other gateway let through counts here");
    // What was counted last is written down on the way out.
    other.shut_down().await;
    eventually("the count", async || (used_today(&api).await == json!(30)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_accepted_is_not_counted() {
    let api = TestApi::start_with(|config| config.publish_timeout = Duration::from_secs(5)).await;
    api.wait_until_ready().await;
    assert_eq!(api.post("/api/events", EVENT).await.status, 202);
    let (_connection, channel) = api.broker.channel().await;
    let topology = &api.broker.topology;
    let (queue, exchange) =
        (topology.dispatch_queue(broker::Intake::Shared), topology.ingest_exchange(broker::Intake::Shared));
    let arguments = lapin::types::FieldTable::default();
    channel.queue_unbind(queue.into(), exchange.into(), "event".into(), arguments).await.unwrap();
    assert_eq!(api.post("/api/events", EVENT).await.status, 503);
    assert_eq!(api.post("/api/events", r#"{"type":"nothing","data":1}"#).await.status, 400);
    // Another HTTP worker's publisher may come before the binding is there again.
    eventually("the binding", async || (api.post("/api/events", EVENT).await.status == 202).then_some(()))
        .await;
    eventually("two events", async || (used_today(&api).await == json!(2)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_can_read_and_nothing_else() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    for subscription in [
        json!({"plan": "trial", "status": "suspended"}),
        json!({"plan": "trial", "status": "trial", "trialEndsAt": "2020-01-01T00:00:00Z"}),
    ] {
        subscribe(&api, json!({"plan": "trial"})).await;
        eventually("an active tenant", async || {
            (api.post("/api/events", EVENT).await.status == 202).then_some(())
        })
        .await;
        subscribe(&api, subscription).await;
        let refused = eventually("the gateway to know", async || {
            let answer = api.post("/api/events", EVENT).await;
            (answer.status != 202).then_some(answer)
        })
        .await;
        assert_eq!((refused.status, refused.code()), (403, "SUBSCRIPTION_INACTIVE"), "{refused:?}");
        let path = format!("/api/webhooks/{id}");
        assert_eq!(api.patch(&path, "{}").await.code(), "SUBSCRIPTION_INACTIVE");
        assert_eq!(api.post(&format!("{path}/pause"), "{}").await.code(), "SUBSCRIPTION_INACTIVE");
        assert_eq!(api.delete(&path).await.code(), "SUBSCRIPTION_INACTIVE");
        assert_eq!(api.get(&path).await.status, 200);
        assert_eq!(api.get("/api/usage").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_manage_plans_and_tenants() {
    let api = TestApi::start().await;
    let limits =
        json!({"maxWebhooks": 1, "eventsPerMinute": 600, "eventsPerDay": 1000, "requestsPerMinute": 60});
    let created = as_admin(&api, Method::PUT, "/api/plans/team", Some(limits.clone())).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(as_admin(&api, Method::PUT, "/api/plans/team", Some(limits.clone())).await.status, 200);
    subscribe(&api, json!({"plan": "team"})).await;
    let plans = as_admin(&api, Method::GET, "/api/plans", None).await;
    let names: Vec<&Value> =
        plans.body["data"].as_array().unwrap().iter().map(|plan| &plan["name"]).collect();
    assert_eq!(names, ["team", "trial", "unlimited"]);
    assert_eq!(plans.body["data"][0]["tenants"], json!(1));
    assert_eq!(as_admin(&api, Method::DELETE, "/api/plans/team", None).await.code(), "CONFLICT");
    assert_eq!(as_admin(&api, Method::DELETE, "/api/plans/trial", None).await.code(), "CONFLICT");
    assert_eq!(as_admin(&api, Method::DELETE, "/api/plans/none", None).await.code(), "NOT_FOUND");

    let tenant = as_admin(&api, Method::GET, &format!("/api/tenants/{}", api.tenant), None).await;
    assert_eq!(
        (&tenant.body["data"]["plan"], &tenant.body["data"]["status"]),
        (&json!("team"), &json!("active"))
    );
    assert_eq!(tenant.body["data"]["limits"], limits);
    api.create_webhook("https://example.com/").await;
    let second = api.post("/api/webhooks", r#"{"url":"https://example.com/2","events":["*"]}"#).await;
    assert_eq!((second.status, second.code()), (403, "LIMIT_EXCEEDED"), "the plan allows one webhook");

    let other = "/api/tenants/018f0000-0000-7000-8000-000000000000";
    let trial = json!({"plan": "trial", "status": "trial", "trialEndsAt": "2099-01-01T00:00:00Z"});
    let put = as_admin(&api, Method::PUT, other, Some(trial)).await;
    assert_eq!(put.body["data"]["trialEndsAt"], json!("2099-01-01T00:00:00.000Z"));
    let first = as_admin(&api, Method::GET, "/api/tenants?limit=1", None).await;
    assert_eq!(first.body["data"].as_array().unwrap().len(), 1);
    let cursor = first.body["nextCursor"].as_str().unwrap();
    let next = as_admin(&api, Method::GET, &format!("/api/tenants?cursor={cursor}"), None).await;
    assert_eq!(next.body["data"][0]["id"], json!(api.tenant.to_string()));
    assert_eq!(next.body["nextCursor"], json!(null));

    subscribe(&api, json!({"plan": "trial"})).await;
    assert_eq!(as_admin(&api, Method::DELETE, "/api/plans/team", None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_plans_and_tenants_are_refused_field_by_field() {
    let api = TestApi::start().await;
    let own = format!("/api/tenants/{}", api.tenant);
    for (path, body, field) in [
        ("/api/plans/Team", json!({"maxWebhooks": 1}), "name"),
        ("/api/plans/team", json!({}), "maxWebhooks"),
        ("/api/plans/team", json!({"maxWebhooks": -1}), "maxWebhooks"),
        ("/api/plans/team", json!({"maxWebhooks": 1, "eventsPerMinute": 0}), "eventsPerMinute"),
        ("/api/plans/team", json!({"maxWebhooks": 1, "eventsPerDay": 0}), "eventsPerDay"),
        (
            "/api/plans/team",
            json!({"maxWebhooks": 1, "requestsPerMinute": 1_000_000_000_000_i64}),
            "requestsPerMinute",
        ),
        (&own, json!({}), "plan"),
        (&own, json!({"plan": "none"}), "plan"),
        (&own, json!({"plan": "trial", "status": "paused"}), "status"),
        (&own, json!({"plan": "trial", "trialEndsAt": "2099-01-01T00:00:00Z"}), "trialEndsAt"),
        (&own, json!({"plan": "trial", "status": "trial", "trialEndsAt": "soon"}), "trialEndsAt"),
    ] {
        let answer = as_admin(&api, Method::PUT, path, Some(body.clone())).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{path} {body}: {answer:?}");
        assert!(answer.body["errors"][field].is_string(), "{path} {body}: {answer:?}");
    }
    for query in ["limit=0", "limit=1001", "cursor=x", "unknown=1"] {
        let answer = as_admin(&api, Method::GET, &format!("/api/tenants?{query}"), None).await;
        assert_eq!(answer.code(), "VALIDATION_ERROR", "{query}");
    }
    assert_eq!(as_admin(&api, Method::GET, "/api/tenants/acme", None).await.code(), "NOT_FOUND");
    assert_eq!(api.get("/api/tenants").await.code(), "FORBIDDEN", "not without the scope");
    assert_eq!(api.get("/api/plans").await.code(), "FORBIDDEN");
}
