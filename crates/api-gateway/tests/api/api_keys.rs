//! API keys: made, used in place of tokens, revoked.

use std::collections::HashSet;
use std::time::Duration;

use domain::TenantId;
use reqwest::Method;
use serde_json::{Value, json};
use store::Store;
use test_support::{ENCRYPTION_KEYS, Proxy, eventually, server_of, through};
use tokio::time::Instant;
use uuid::Uuid;

use crate::helpers::{ALL_SCOPES, Answer, TestApi, send, token};

const KEYS: &str = "/api/api-keys";
const EVENT: &str = r#"{"type":"message.sent","data":1}"#;
/// Longer than a gateway uses a key before it reads it again.
const FRESH_FOR: Duration = Duration::from_millis(5_500);

fn manager(tenant: TenantId) -> String {
    token(tenant, &format!("{ALL_SCOPES} keys:manage"))
}

async fn create(api: &TestApi, body: &Value) -> Answer {
    api.call_as(&manager(api.tenant), Method::POST, KEYS, Some(&body.to_string())).await
}

async fn key(api: &TestApi, scopes: &[&str]) -> (String, String) {
    let created = create(api, &json!({"name": "CRM", "scopes": scopes})).await;
    assert_eq!(created.status, 201, "{created:?}");
    (created.id(), created.body["data"]["key"].as_str().unwrap().to_owned())
}

async fn call_with(api: &TestApi, key: &str, method: Method, path: &str, body: &str) -> Answer {
    let request = api.request(method, path).header("x-api-key", key);
    send(request.header("content-type", "application/json").body(body.to_owned())).await
}

async fn listed(api: &TestApi, id: &str) -> Value {
    let list = api.call_as(&manager(api.tenant), Method::GET, KEYS, None).await;
    list.body["data"].as_array().unwrap().iter().find(|key| key["id"] == id).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_works_wherever_a_token_does_within_its_scopes() {
    let api = TestApi::start().await;
    let created = create(&api, &json!({"name": "CRM", "scopes": ["events:publish", "webhooks:read"]})).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.header("cache-control"), "no-store");
    let data = &created.body["data"];
    let key = data["key"].as_str().unwrap();
    assert!(key.starts_with(data["prefix"].as_str().unwrap()) && key.starts_with("pr_live_"));
    assert_eq!(data["scopes"], json!(["webhooks:read", "events:publish"]));
    assert_eq!((&data["createdBy"], &data["lastUsedAt"]), (&json!("tester"), &Value::Null));

    assert_eq!(call_with(&api, key, Method::POST, "/api/events", EVENT).await.status, 202);
    assert_eq!(call_with(&api, key, Method::GET, "/api/webhooks", "").await.status, 200);
    let refused = call_with(&api, key, Method::POST, "/api/webhooks", "{}").await;
    assert_eq!((refused.status, refused.code()), (403, "FORBIDDEN"));
    assert!(refused.body["message"].as_str().unwrap().contains("webhooks:write"));

    let list = api.call_as(&manager(api.tenant), Method::GET, KEYS, None).await.body.to_string();
    assert!(list.contains(&created.id()) && !list.contains(key), "{list}");
    let random = &key["pr_live_".len()..];
    let kept = format!("SELECT count(*) FROM api_keys k WHERE k::text LIKE '%{random}%'");
    assert_eq!(api.database.count(&kept).await, 0, "only a hash is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_none_and_two_credentials_at_once_are_refused() {
    let api = TestApi::start().await;
    let (_, good) = key(&api, &["webhooks:read"]).await;
    let mut mistyped = good.clone();
    mistyped.replace_range(10..11, if &good[10..11] == "0" { "1" } else { "0" });
    let made_up = service::api_key::ApiKey::generate();
    for bad in [
        "",
        "x",
        "pr_live_",
        "pr_live_'; DROP TABLE api_keys; --",
        &mistyped,
        made_up.reveal(),
        &"a".repeat(8_000),
    ] {
        let refused = call_with(&api, bad, Method::GET, "/api/webhooks", "").await;
        assert_eq!((refused.status, refused.code()), (401, "UNAUTHORIZED"), "{bad}");
        assert!(!refused.body.to_string().contains(&good[14..]), "nothing of a key is repeated");
    }
    let both = api.request(Method::GET, "/api/webhooks").bearer_auth(&api.token).header("x-api-key", &good);
    let refused = send(both).await;
    assert_eq!((refused.status, refused.code()), (401, "UNAUTHORIZED"));
    assert!(refused.body["message"].as_str().unwrap().contains("not both"));
    let twice =
        api.request(Method::GET, "/api/webhooks").header("x-api-key", &good).header("x-api-key", &good);
    assert_eq!(send(twice).await.status, 401);
    let as_token = api.call_as(&good, Method::GET, "/api/webhooks", None).await;
    assert_eq!(as_token.status, 401, "a key is no token");
    let none = send(api.request(Method::GET, "/api/webhooks")).await;
    let message = none.body["message"].as_str().unwrap();
    assert!(message.contains("Authorization: Bearer") && message.contains("X-API-Key"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gets_no_scope_that_its_maker_lacks_not_even_through_another_key() {
    let api = TestApi::start().await;
    for body in [
        json!({"name": "a", "scopes": ["admin"]}),
        json!({"name": "a", "scopes": ["webhooks:read", "admin"]}),
    ] {
        let refused = create(&api, &body).await;
        assert_eq!((refused.status, refused.code()), (403, "FORBIDDEN"), "{body}");
        assert!(refused.body["message"].as_str().unwrap().contains("admin"));
    }
    let (id, narrow) = key(&api, &["keys:manage", "webhooks:read"]).await;
    let more = r#"{"name":"b","scopes":["webhooks:write"]}"#;
    assert_eq!(call_with(&api, &narrow, Method::POST, KEYS, more).await.status, 403);
    let same = r#"{"name":"b","scopes":["webhooks:read"]}"#;
    let made = call_with(&api, &narrow, Method::POST, KEYS, same).await;
    assert_eq!((made.status, &made.body["data"]["createdBy"]), (201, &json!(format!("api-key:{id}"))));
    let without = api.call_as(&token(api.tenant, "admin"), Method::POST, KEYS, Some(same)).await;
    assert_eq!((without.status, without.code()), (403, "FORBIDDEN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_name_the_field() {
    let api = TestApi::start().await;
    for (body, field) in [
        (json!({"scopes": ["webhooks:read"]}), "name"),
        (json!({"name": "", "scopes": ["webhooks:read"]}), "name"),
        (json!({"name": "x".repeat(101), "scopes": ["webhooks:read"]}), "name"),
        (json!({"name": "two\nlines", "scopes": ["webhooks:read"]}), "name"),
        (json!({"name": "a"}), "scopes"),
        (json!({"name": "a", "scopes": []}), "scopes"),
        (json!({"name": "a", "scopes": ["root"]}), "scopes"),
        (json!({"name": "a", "scopes": ["webhooks:read webhooks:write"]}), "scopes"),
        (json!({"name": "a", "scopes": ["webhooks:read"], "expiresAt": "tomorrow"}), "expiresAt"),
        (json!({"name": "a", "scopes": ["webhooks:read"], "expiresAt": "2020-01-01T00:00:00Z"}), "expiresAt"),
        (json!({"name": "a", "scopes": ["webhooks:read"], "requestsPerMinute": 0}), "requestsPerMinute"),
        (
            json!({"name": "a", "scopes": ["webhooks:read"], "requestsPerMinute": 1_000_001}),
            "requestsPerMinute",
        ),
        (json!({"name": "a", "scopes": ["webhooks:read"], "requestsPerMinute": 1.5}), "requestsPerMinute"),
        (json!({"name": "a", "scopes": ["webhooks:read"], "scope": "x"}), "scope"),
    ] {
        let refused = create(&api, &body).await;
        assert_eq!((refused.status, refused.code()), (400, "VALIDATION_ERROR"), "{body}");
        assert!(refused.body["errors"][field].is_string(), "{refused:?}");
    }
    for (query, field) in [("?limit=0", "limit"), ("?limit=1001", "limit"), ("?cursor=x", "cursor")] {
        let refused = api.call_as(&manager(api.tenant), Method::GET, &format!("{KEYS}{query}"), None).await;
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.body["errors"][field].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_stops_working_at_once_here_and_within_seconds_elsewhere() {
    let api = TestApi::start().await;
    let another = api.start_another();
    let (id, key) = key(&api, &["webhooks:read"]).await;
    assert_eq!(call_with(&api, &key, Method::GET, "/api/webhooks", "").await.status, 200);
    let elsewhere =
        async || send(another.request(&api, Method::GET, "/api/webhooks").header("x-api-key", &key)).await;
    assert_eq!(elsewhere().await.status, 200);
    let path = format!("{KEYS}/{id}");
    let revoked = api.call_as(&manager(api.tenant), Method::DELETE, &path, None).await;
    assert_eq!(revoked.status, 200);
    let revoked_at = revoked.body["data"]["revokedAt"].clone();
    assert!(revoked_at.is_string());
    let refused = call_with(&api, &key, Method::GET, "/api/webhooks", "").await;
    assert_eq!((refused.status, refused.code()), (401, "UNAUTHORIZED"));
    assert!(refused.body["message"].as_str().unwrap().contains("revoked"));
    let since = Instant::now();
    eventually("the revocation elsewhere", async || (elsewhere().await.status == 401).then_some(())).await;
    assert!(since.elapsed() < Duration::from_secs(10));
    let again = api.call_as(&manager(api.tenant), Method::DELETE, &path, None).await;
    assert_eq!((again.status, &again.body["data"]["revokedAt"]), (200, &revoked_at));
    another.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_opens_nothing() {
    let api = TestApi::start().await;
    let body = json!({"name": "a", "scopes": ["webhooks:read"], "expiresAt": "2099-01-01T00:00:00Z"});
    let created = create(&api, &body).await;
    assert_eq!(created.body["data"]["expiresAt"], "2099-01-01T00:00:00.000Z");
    let key = created.body["data"]["key"].as_str().unwrap().to_owned();
    assert_eq!(call_with(&api, &key, Method::GET, "/api/webhooks", "").await.status, 200);
    let expire = "UPDATE api_keys SET expires_at = now() - interval '1 second'";
    api.database.client().await.execute(expire, &[]).await.unwrap();
    let refused = eventually("the end of the key", async || {
        Some(call_with(&api, &key, Method::GET, "/api/webhooks", "").await)
            .filter(|answer| answer.status == 401)
    })
    .await;
    assert!(refused.body["message"].as_str().unwrap().contains("expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_another_tenant_there_is_nothing_to_see_or_to_revoke() {
    let api = TestApi::start().await;
    let (id, key) = key(&api, &["webhooks:read"]).await;
    let stranger = manager(TenantId(Uuid::now_v7()));
    let list = api.call_as(&stranger, Method::GET, KEYS, None).await;
    assert_eq!((list.status, &list.body["data"]), (200, &json!([])));
    for path in [format!("{KEYS}/{id}"), format!("{KEYS}/{}", Uuid::now_v7()), format!("{KEYS}/x")] {
        let refused = api.call_as(&stranger, Method::DELETE, &path, None).await;
        assert_eq!((refused.status, refused.code()), (404, "NOT_FOUND"), "{path}");
    }
    assert_eq!(call_with(&api, &key, Method::GET, "/api/webhooks", "").await.status, 200);
    let webhook = api.create_webhook("https://example.com/").await;
    let (other_api_key, path) = (&key, format!("/api/webhooks/{webhook}"));
    assert_eq!(call_with(&api, other_api_key, Method::GET, &path, "").await.status, 200, "its own tenant's");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_in_pages_the_newest_first() {
    let api = TestApi::start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(key(&api, &["webhooks:read"]).await.0);
    }
    made.reverse();
    let (mut seen, mut path) = (Vec::new(), format!("{KEYS}?limit=2"));
    loop {
        let page = api.call_as(&manager(api.tenant), Method::GET, &path, None).await.body;
        seen.extend(
            page["data"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["nextCursor"].as_str() else { break };
        path = format!("{KEYS}?limit=2&cursor={next}");
    }
    assert_eq!(seen, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_keys_work_at_a_time_also_when_they_are_made_at_once() {
    let api = TestApi::start().await;
    let body = json!({"name": "a", "scopes": ["webhooks:read"]});
    let made = futures_util::future::join_all((0..104).map(|_| create(&api, &body))).await;
    let refused: Vec<_> = made.iter().filter(|answer| answer.status != 201).collect();
    assert_eq!(refused.len(), 4);
    assert!(
        refused.iter().all(|answer| (answer.status, answer.code()) == (403, "LIMIT_EXCEEDED")),
        "{refused:?}"
    );
    let keys: HashSet<_> = made.iter().filter_map(|answer| answer.body["data"]["key"].as_str()).collect();
    assert_eq!(keys.len(), 100);
    let revoke = "UPDATE api_keys SET revoked_at = now() - interval '91 days' WHERE id = (SELECT min(id::text)::uuid FROM api_keys)";
    api.database.client().await.execute(revoke, &[]).await.unwrap();
    assert_eq!(create(&api, &body).await.status, 201, "one has ended");
    assert_eq!(api.database.count("SELECT count(*) FROM api_keys").await, 100, "and is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_written_down_when_a_key_was_used_once_a_minute() {
    let api = TestApi::start().await;
    let (id, key) = key(&api, &["webhooks:read"]).await;
    call_with(&api, &key, Method::GET, "/api/webhooks", "").await;
    let used = eventually("the last use", async || {
        let last = listed(&api, &id).await["lastUsedAt"].clone();
        last.is_string().then_some(last)
    })
    .await;
    let until = Instant::now() + FRESH_FOR;
    eventually("some requests more", async || {
        assert_eq!(call_with(&api, &key, Method::GET, "/api/webhooks", "").await.status, 200);
        (Instant::now() > until).then_some(())
    })
    .await;
    assert_eq!(listed(&api, &id).await["lastUsedAt"], used);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_own_limit_holds_for_all_its_requests_and_for_nobody_elses() {
    let api = TestApi::start().await;
    let scopes = ["events:publish", "webhooks:read"];
    let created = create(&api, &json!({"name": "a", "scopes": scopes, "requestsPerMinute": 60})).await;
    assert_eq!((created.status, &created.body["data"]["requestsPerMinute"]), (201, &json!(60)));
    assert_eq!(listed(&api, &created.id()).await["requestsPerMinute"], 60);
    let limited = created.body["data"]["key"].as_str().unwrap();
    let (other_id, other) = key(&api, &scopes).await;

    let batch = format!(r#"{{"events":[{}]}}"#, [EVENT; 20].join(","));
    assert_eq!(call_with(&api, limited, Method::POST, "/api/events/batch", &batch).await.status, 202);
    for _ in 0..4 {
        assert_eq!(call_with(&api, limited, Method::POST, "/api/events", EVENT).await.status, 202);
    }
    for _ in 0..5 {
        assert_eq!(call_with(&api, limited, Method::GET, "/api/webhooks", "").await.status, 200);
    }
    for (method, path, body) in [
        (Method::GET, "/api/webhooks", String::new()),
        (Method::POST, "/api/events", EVENT.to_owned()),
        (Method::POST, "/api/events/batch", batch),
    ] {
        let refused = call_with(&api, limited, method, path, &body).await;
        assert_eq!((refused.status, refused.code()), (429, "RATE_LIMITED"), "{path}: {refused:?}");
        assert_eq!(refused.body["message"], "This API key may make 60 requests a minute");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.header("ratelimit-policy"), r#""key";q=60;w=60"#);
        assert_eq!(refused.header("ratelimit"), r#""key";r=0;t=1"#);
        assert_eq!(call_with(&api, &other, Method::GET, "/api/webhooks", "").await.status, 200);
        assert_eq!(api.get("/api/webhooks").await.status, 200, "a token of the same tenant");
    }
    eventually("room for one more", async || {
        (call_with(&api, limited, Method::GET, "/api/webhooks", "").await.status == 200).then_some(())
    })
    .await;

    assert_eq!(listed(&api, &other_id).await["requestsPerMinute"], Value::Null);
    for _ in 0..30 {
        assert_eq!(call_with(&api, &other, Method::GET, "/api/webhooks", "").await.status, 200, "no limit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_has_used_of_its_limit_is_not_forgotten_when_the_key_is_read_again() {
    let api = TestApi::start().await;
    let another = api.start_another();
    let new = json!({"name": "a", "scopes": ["webhooks:read"], "requestsPerMinute": 2});
    let created = create(&api, &new).await;
    let key = created.body["data"]["key"].as_str().unwrap();
    let call = async || {
        let request = another.request(&api, Method::GET, "/api/webhooks").header("x-api-key", key);
        send(request).await.status
    };
    assert_eq!([call().await, call().await, call().await], [200, 200, 429], "a minute's worth at once");
    let until = Instant::now() + FRESH_FOR;
    eventually("the key to be read again", async || {
        assert_eq!(call().await, 429);
        (Instant::now() > until).then_some(())
    })
    .await;
    assert_eq!(
        call_with(&api, key, Method::GET, "/api/webhooks", "").await.status,
        200,
        "each gateway by itself"
    );
    another.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_use_publishes_while_the_database_is_away_and_an_unknown_one_is_asked_to_wait() {
    let api = TestApi::start().await;
    let (_, key) = key(&api, &["events:publish"]).await;
    let proxy = Proxy::start(vec![server_of(api.database.url())]).await;
    let url = through(api.database.url(), proxy.address());
    let store = Store::new(&url, 4).unwrap().with_keys(ENCRYPTION_KEYS.parse().unwrap());
    let cut_off = api.start_another_with(|config| config.store = store);
    let publish = async |key: &str| {
        let request = cut_off.request(&api, Method::POST, "/api/events").header("x-api-key", key);
        send(request.header("content-type", "application/json").body(EVENT)).await
    };
    assert_eq!(publish(&key).await.status, 202);
    proxy.refuse();
    proxy.cut();
    let until = Instant::now() + FRESH_FOR;
    eventually("the end of the time in which a key is not read again", async || {
        assert_eq!(publish(&key).await.status, 202);
        (Instant::now() > until).then_some(())
    })
    .await;
    let made_up = service::api_key::ApiKey::generate();
    let unknown = publish(made_up.reveal()).await;
    assert_eq!((unknown.status, unknown.code()), (503, "SERVICE_UNAVAILABLE"));
    cut_off.shut_down().await;
}
