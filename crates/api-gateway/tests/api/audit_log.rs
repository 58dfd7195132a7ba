//! The audit log: who did what, when and from where.

use std::collections::BTreeSet;

use domain::TenantId;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::helpers::{Answer, TestApi, send, token};

const SCOPES: &str = "webhooks:read webhooks:write events:publish events:erase keys:manage audit:read admin";
/// Operations that change nothing, or only publish: the history tells of those.
const UNLOGGED: [&str; 6] = [
    "POST /api/events",
    "POST /api/events/batch",
    "POST /api/events/preview",
    "POST /api/webhooks/filter/test",
    "POST /api/webhooks/retry-schedule/preview",
    "POST /api/webhooks/url/test",
];

async fn log(api: &TestApi, query: &str) -> Vec<Value> {
    let token = token(api.tenant, "audit:read");
    let answer = api.call_as(&token, Method::GET, &format!("/api/audit-log{query}"), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["data"].as_array().unwrap().clone()
}

async fn call(api: &TestApi, method: &str, path: &str, body: &Value) -> Answer {
    let body = (!body.is_null()).then(|| body.to_string());
    let method = method.parse().unwrap();
    let answer = api.call_as(&token(api.tenant, SCOPES), method, path, body.as_deref()).await;
    assert!(answer.status < 300, "{path}: {answer:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_that_changes_something_leaves_an_entry() {
    let api = TestApi::start().await;
    let (tenant, event) = (Uuid::now_v7().to_string(), "e1");
    let receiver = test_support::Receiver::start().await;
    let new = json!({"url": receiver.url("/"), "events": ["*"]});
    let id = call(&api, "POST", "/api/webhooks", &new).await.id();
    let placed = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        VALUES (1, now(), now(), current_date, $1, $2, 'message.sent', '{}')";
    api.database.client().await.execute(placed, &[&api.tenant.0, &event]).await.unwrap();

    let key =
        call(&api, "POST", "/api/api-keys", &json!({"name": "k", "scopes": ["webhooks:write"]})).await.id();
    call(&api, "DELETE", &format!("/api/api-keys/{key}"), &Value::Null).await;

    let recoveries = format!("/api/webhooks/{id}/recoveries");
    let asked = json!({"kind": "failed", "from": chrono::Utc::now() - chrono::TimeDelta::hours(1)});
    let recovery = call(&api, "POST", &recoveries, &asked).await.id();
    call(&api, "POST", &format!("{recoveries}/{recovery}/cancel"), &Value::Null).await;

    let before = [
        "POST /api/webhooks",
        "POST /api/api-keys",
        "DELETE /api/api-keys/{id}",
        "POST /api/webhooks/{id}/recoveries",
        "POST /api/webhooks/{id}/recoveries/{recoveryId}/cancel",
    ];
    let mut done = BTreeSet::from(before.map(str::to_owned));
    let mut logged = vec![
        ("webhook.created", id.as_str()),
        ("api_key.created", &key),
        ("api_key.revoked", &key),
        ("recovery.begun", &recovery),
        ("recovery.cancelled", &recovery),
    ];
    let nothing = Value::Null;
    for (operation, body, action, resource) in [
        (
            "PATCH /api/webhooks/{id}",
            &json!({"isActive": true, "rateLimit": 5}),
            "webhook.updated",
            id.as_str(),
        ),
        ("POST /api/webhooks/{id}/pause", &nothing, "webhook.paused", &id),
        ("POST /api/webhooks/{id}/resume", &nothing, "webhook.resumed", &id),
        ("POST /api/webhooks/{id}/secret/rotate", &nothing, "webhook.secret_rotated", &id),
        ("GET /api/webhooks/{id}/secret", &nothing, "webhook.secret_read", &id),
        ("POST /api/webhooks/{id}/test", &nothing, "webhook.tested", &id),
        ("POST /api/webhooks/{id}/deliveries/{eventId}/resend", &nothing, "delivery.resent", event),
        ("POST /api/webhooks/{id}/deliveries/{eventId}/cancel", &nothing, "delivery.cancelled", event),
        ("DELETE /api/webhooks/{id}", &nothing, "webhook.deleted", &id),
        ("PUT /api/plans/{name}", &json!({"maxWebhooks": 3}), "plan.put", "team"),
        ("PUT /api/tenants/{id}", &json!({"plan": "team"}), "tenant.put", &tenant),
        ("PUT /api/tenants/{id}", &json!({"plan": "trial"}), "tenant.put", &tenant),
        (
            "POST /api/events/erasures",
            &json!({"tag": "customer-77"}),
            "events.erased",
            "04e039174546ae3f571d1d54ca04f38f",
        ),
        ("PUT /api/webhooks/events/{type}", &json!({"description": "Paid."}), "event_type.put", "order.paid"),
        ("DELETE /api/webhooks/events/{type}", &nothing, "event_type.deleted", "order.paid"),
        ("DELETE /api/plans/{name}", &nothing, "plan.deleted", "team"),
    ] {
        let (method, path) = operation.split_once(' ').unwrap();
        let of = if path.starts_with("/api/tenants") { &tenant } else { &id };
        let path = path
            .replace("{id}", of)
            .replace("{eventId}", event)
            .replace("{name}", "team")
            .replace("{type}", "order.paid");
        call(&api, method, &path, body).await;
        done.insert(operation.to_owned());
        logged.push((action, resource));
    }
    let entries = log(&api, "?limit=100").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found: Vec<_> = entries.iter().rev().map(|e| (text(&e["action"]), text(&e["resourceId"]))).collect();
    let expected: Vec<_> = logged.iter().map(|(a, r)| ((*a).to_owned(), (*r).to_owned())).collect();
    assert_eq!(found, expected);

    let document = send(api.request(Method::GET, "/openapi.json")).await.body;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|method| *method != "get") {
            let operation = format!("{} {path}", method.to_uppercase());
            let is_covered = done.contains(&operation) || UNLOGGED.contains(&operation.as_str());
            assert!(is_covered, "{operation} is in the audit log, and above, or in UNLOGGED");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_says_who_when_from_where_and_what_but_no_secret() {
    let api = TestApi::start_with(|config| config.proxies.trusted = "127.0.0.0/8".parse().unwrap()).await;
    let secrets = ["first-signing-secret", "second-signing-secret", "Bearer receiver-token"];
    let new = json!({"url": "https://example.com/", "events": ["*"], "secret": secrets[0],
        "headers": {"Authorization": secrets[2]}});
    let id = api.post("/api/webhooks", &new.to_string()).await.id();
    let change = json!({"rateLimit": 5, "secret": secrets[1], "headers": {"Authorization": "Bearer receiver-token-2"}});
    let request = api.request(Method::PATCH, &format!("/api/webhooks/{id}")).bearer_auth(&api.token);
    let request = request.header("x-forwarded-for", "6.6.6.6, 203.0.113.7").header("x-request-id", "find-me");
    let request = request.header("user-agent", "a-program/1.0").header("content-type", "application/json");
    assert_eq!(send(request.body(change.to_string())).await.status, 200);
    api.get(&format!("/api/webhooks/{id}/secret")).await;

    let entries = log(&api, "").await;
    assert_eq!(entries[1]["action"], "webhook.updated");
    let at = entries[1]["at"].as_str().unwrap().to_owned();
    assert_eq!(
        entries[1],
        json!({
            "at": at,
            "action": "webhook.updated",
            "resource": "webhook",
            "resourceId": id,
            "changes": {
                "rateLimit": {"from": null, "to": 5},
                "secret": {"from": "********", "to": "********"},
                "headers": {"from": "********", "to": "********"},
            },
            "actor": {"kind": "token", "id": "tester"},
            "address": "203.0.113.7",
            "userAgent": "a-program/1.0",
            "requestId": "find-me",
        })
    );
    assert_eq!(entries[2]["changes"]["url"], json!({"from": null, "to": "https://example.com/"}));
    let new = json!({"name": "deploys", "scopes": ["webhooks:write"]});
    let key = call(&api, "POST", "/api/api-keys", &new).await;
    let request = api.request(Method::POST, &format!("/api/webhooks/{id}/pause"));
    assert_eq!(
        send(request.header("x-api-key", key.body["data"]["key"].as_str().unwrap())).await.status,
        200
    );
    let by_key = log(&api, "?action=webhook.paused").await;
    assert_eq!(by_key[0]["actor"], json!({"kind": "api_key", "id": key.id()}));
    let shown = Value::from(entries).to_string();
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    let kept = "SELECT count(*) FROM audit_log WHERE audit_log::text ~ 'signing-secret|receiver-token'";
    assert_eq!(api.database.count(kept).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_and_its_entry_are_made_both_or_neither() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let again = r#"{"url":"https://example.com/","events":["message.received"]}"#;
    assert_eq!(api.post("/api/webhooks", again).await.code(), "CONFLICT");
    assert_eq!(api.get("/api/webhooks/018f0000-0000-7000-8000-000000000000/secret").await.status, 404);
    assert_eq!(log(&api, "").await.len(), 1, "what was refused was not done");

    api.database.client().await.batch_execute("ALTER TABLE audit_log RENAME TO gone").await.unwrap();
    let path = format!("/api/webhooks/{id}");
    assert_eq!(api.patch(&path, r#"{"rateLimit": 7}"#).await.code(), "INTERNAL_ERROR");
    assert_eq!(api.delete(&path).await.code(), "INTERNAL_ERROR");
    assert_eq!(api.get(&format!("{path}/secret")).await.code(), "INTERNAL_ERROR", "nobody looks unseen");
    assert_eq!(api.get(&path).await.body["data"]["rateLimit"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_filtered_and_read_page_by_page() {
    let api = TestApi::start().await;
    let first = api.create_webhook("https://example.com/1").await;
    let second = api.create_webhook("https://example.com/2").await;
    for id in [&first, &second, &first] {
        api.patch(&format!("/api/webhooks/{id}"), r#"{"description": "x"}"#).await;
    }
    let all = log(&api, "").await;
    assert_eq!(all.len(), 5);
    let at = all[2]["at"].as_str().unwrap();
    for (query, count) in [
        ("?action=webhook.created".to_owned(), 2),
        ("?resource=webhook".to_owned(), 5),
        ("?resource=plan".to_owned(), 0),
        (format!("?resourceId={first}&action=webhook.updated"), 2),
        ("?actor=tester".to_owned(), 5),
        ("?actor=somebody".to_owned(), 0),
        ("?from=2000-01-01T00:00:00Z&to=2001-01-01T00:00:00Z".to_owned(), 0),
        (format!("?from={at}&actor=tester"), 3),
    ] {
        assert_eq!(log(&api, &query).await.len(), count, "{query}");
    }
    let token = token(api.tenant, "audit:read");
    let (mut read, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/audit-log?limit=2{cursor}");
        let page = api.call_as(&token, Method::GET, &path, None).await.body;
        read.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(read, all);
    for query in [
        "limit=0",
        "cursor=x",
        "cursor=LTgwMDAwMDAwMDAwMDAwMDAwMDAuMQ",
        "from=yesterday",
        "action=",
        "acton=x",
        "actor=%00",
    ] {
        let answer = api.call_as(&token, Method::GET, &format!("/api/audit-log?{query}"), None).await;
        assert_eq!(answer.code(), "VALIDATION_ERROR", "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_log_with_the_scope_for_it() {
    let api = TestApi::start().await;
    api.create_webhook("https://example.com/").await;
    assert_eq!(api.get("/api/audit-log").await.code(), "FORBIDDEN");
    let other = token(TenantId(Uuid::now_v7()), "audit:read");
    let answer = api.call_as(&other, Method::GET, "/api/audit-log", None).await;
    assert_eq!((answer.status, &answer.body["data"]), (200, &json!([])));
}
