use chrono::{TimeDelta, Utc};
use domain::{Scope, TenantId};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use test_support::{JWT_AUDIENCE, JWT_ISSUER, JWT_SECRET, Receiver};
use uuid::Uuid;

use crate::helpers::{TestApi, filled_in, send, token};

fn claims() -> Value {
    json!({
        "sub": "tester",
        "tenant_id": Uuid::now_v7(),
        "scope": "webhooks:read",
        "exp": (Utc::now() + TimeDelta::hours(1)).timestamp(),
        "iss": JWT_ISSUER,
        "aud": JWT_AUDIENCE,
    })
}

fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

fn changed(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    signed(&claims)
}

fn without(name: &str) -> String {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    signed(&claims)
}

/// The same claims under another header, with the signature of the right key over it.
fn with_header(header: &Value) -> String {
    let token = signed(&claims());
    let payload = token.split('.').nth(1).unwrap();
    let encode = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    };
    format!("{}.{payload}.", encode(header.to_string().as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_ours_current_and_complete_are_refused() {
    let api = TestApi::start().await;
    let good = api.call_as(&signed(&claims()), Method::GET, "/api/webhooks", None).await;
    assert_eq!(good.status, 200);
    let hour = TimeDelta::hours(1);
    let other_key = EncodingKey::from_secret(b"another secret, as long as the right one is");
    for (what, token) in [
        ("expired", changed("exp", json!((Utc::now() - hour).timestamp()))),
        ("not yet valid", changed("nbf", json!((Utc::now() + hour).timestamp()))),
        ("a date as text", changed("exp", json!("2099-01-01T00:00:00Z"))),
        ("another issuer", changed("iss", json!("https://evil.test"))),
        ("another audience", changed("aud", json!("somebody-else"))),
        ("a tenant that is not a UUID", changed("tenant_id", json!("acme"))),
        ("a scope that is not text", changed("scope", json!(["webhooks:read"]))),
        ("no sub", without("sub")),
        ("no tenant_id", without("tenant_id")),
        ("no scope", without("scope")),
        ("no exp", without("exp")),
        ("no iss", without("iss")),
        ("no aud", without("aud")),
        ("another key", encode(&Header::new(Algorithm::HS256), &claims(), &other_key).unwrap()),
        ("alg none", with_header(&json!({"alg": "none", "typ": "JWT"}))),
        ("alg RS256", with_header(&json!({"alg": "RS256", "typ": "JWT"}))),
        ("an embedded key", with_header(&json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}}))),
        ("a hostile kid", with_header(&json!({"alg": "HS256", "kid": "../../dev/null"}))),
        ("not a token", "abc".to_owned()),
        ("oversized", "a".repeat(20_000)),
    ] {
        let answer = api.call_as(&token, Method::GET, "/api/webhooks", None).await;
        assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"), "{what}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_list_that_names_us_is_accepted() {
    let api = TestApi::start().await;
    let token = changed("aud", json!(["somebody-else", JWT_AUDIENCE]));
    assert_eq!(api.call_as(&token, Method::GET, "/api/webhooks", None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_schemes_and_doubled_headers_are_refused() {
    let api = TestApi::start().await;
    for header in ["Basic dXNlcjpwdw==", "Bearer", "Bearer ", &api.token] {
        let request = api.request(Method::GET, "/api/webhooks").header("authorization", header);
        assert_eq!(send(request).await.status, 401, "{header}");
    }
    let doubled = api.request(Method::GET, "/api/webhooks").bearer_auth(&api.token).bearer_auth(&api.token);
    assert_eq!(send(doubled).await.status, 401);
    let lower =
        api.request(Method::GET, "/api/webhooks").header("authorization", format!("bearer {}", api.token));
    assert_eq!(send(lower).await.status, 200);
}

/// A body that an operation takes: the example of its schema.
fn example_body(document: &Value, operation: &Value) -> Option<String> {
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let named =
        [schema, &schema["oneOf"][1], &schema["anyOf"][1]].into_iter().find_map(|one| one["$ref"].as_str());
    let name = named?.rsplit('/').next()?;
    let schema = &document["components"]["schemas"][name];
    let example = [&schema["example"], &schema["examples"][0]].into_iter().find(|example| !example.is_null());
    Some(example.unwrap_or_else(|| panic!("{name} has no example")).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_of_the_document_is_public_or_names_the_one_scope_that_it_wants() {
    let api = TestApi::start().await;
    let document = send(api.request(Method::GET, "/openapi.json")).await.body;
    let (mut public, mut guarded) = (0, 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let what = format!("{method} {path}");
            let description = operation["description"].as_str().unwrap();
            let description = description.split_whitespace().collect::<Vec<_>>().join(" ");
            let Some(security) = operation.get("security") else {
                assert!(
                    description.contains("Public"),
                    "{what} says neither its scope nor that it is public"
                );
                public += 1;
                continue;
            };
            guarded += 1;
            let scope = security[0]["bearer"][0].as_str().unwrap_or_else(|| panic!("{what} names no scope"));
            assert_eq!(*security, json!([{"bearer": [scope]}, {"apiKey": [scope]}]), "{what}");
            assert!(description.contains(&format!("Scope `{scope}`")), "{what}");
            let path = filled_in(path);
            let method: Method = method.to_uppercase().parse().unwrap();
            let body = example_body(&document, operation);
            let call = async |scopes: &str| {
                api.call_as(&token(api.tenant, scopes), method.clone(), &path, body.as_deref()).await
            };
            let others = Scope::ALL.map(Scope::as_str).into_iter().filter(|other| *other != scope);
            let all_others = others.clone().collect::<Vec<_>>().join(" ");
            for lacking in others.chain(["", &all_others]) {
                let answer = call(lacking).await;
                assert_eq!(
                    (answer.status, answer.code()),
                    (403, "FORBIDDEN"),
                    "{what} with {lacking:?}: {answer:?}"
                );
                assert!(answer.body["message"].as_str().unwrap().contains(scope), "{answer:?}");
            }
            let answer = call(scope).await;
            let message = answer.body["message"].as_str().unwrap_or_default();
            let is_let_in = answer.status != 401 && !message.contains("lacks the scope");
            assert!(is_let_in && answer.status < 500, "{what} with {scope}: {answer:?}");
        }
    }
    assert!(public >= 3 && guarded > 30, "{public} public and {guarded} others");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_wants_its_scope_and_admin_alone_opens_none() {
    let api = TestApi::start().await;
    let receiver = Receiver::start().await;
    let id = api.create_webhook(&receiver.url("/")).await;
    let create = r#"{"url":"https://example.com/2","events":["*"]}"#;
    let event = r#"{"type":"message.sent","data":1}"#;
    for (method, path, body, scope) in [
        (Method::GET, "/api/webhooks".to_owned(), None, "webhooks:read"),
        (Method::POST, "/api/webhooks".to_owned(), Some(create), "webhooks:write"),
        (Method::GET, format!("/api/webhooks/{id}"), None, "webhooks:read"),
        (Method::PATCH, format!("/api/webhooks/{id}"), Some("{}"), "webhooks:write"),
        (Method::POST, format!("/api/webhooks/{id}/pause"), None, "webhooks:write"),
        (Method::POST, format!("/api/webhooks/{id}/resume"), None, "webhooks:write"),
        (Method::POST, format!("/api/webhooks/{id}/test"), None, "webhooks:write"),
        (Method::POST, "/api/webhooks/url/test".to_owned(), Some(r#"{"url":"x"}"#), "webhooks:write"),
        (Method::GET, format!("/api/webhooks/{id}/history"), None, "webhooks:read"),
        (Method::GET, format!("/api/webhooks/{id}/secret"), None, "webhooks:write"),
        (Method::POST, format!("/api/webhooks/{id}/secret/rotate"), None, "webhooks:write"),
        (
            Method::POST,
            "/api/webhooks/filter/test".to_owned(),
            Some(r#"{"filter":{"a":1},"data":1}"#),
            "webhooks:read",
        ),
        (Method::POST, "/api/webhooks/retry-schedule/preview".to_owned(), None, "webhooks:read"),
        (Method::POST, "/api/events".to_owned(), Some(event), "events:publish"),
        (Method::GET, "/api/usage".to_owned(), None, "webhooks:read"),
        (Method::GET, "/api/audit-log".to_owned(), None, "audit:read"),
        (Method::GET, "/api/tenants".to_owned(), None, "admin"),
        (Method::GET, format!("/api/tenants/{}", api.tenant), None, "admin"),
        (Method::PUT, format!("/api/tenants/{}", api.tenant), Some(r#"{"plan":"trial"}"#), "admin"),
        (Method::GET, "/api/plans".to_owned(), None, "admin"),
        (Method::PUT, "/api/plans/team".to_owned(), Some(r#"{"maxWebhooks":1}"#), "admin"),
        (Method::DELETE, "/api/plans/team".to_owned(), None, "admin"),
        (Method::DELETE, format!("/api/webhooks/{id}"), None, "webhooks:write"),
    ] {
        for other in ["webhooks:read", "webhooks:write", "events:publish", "audit:read", "admin"] {
            if other != scope {
                let answer = api.call_as(&token(api.tenant, other), method.clone(), &path, body).await;
                assert_eq!(
                    (answer.status, answer.code()),
                    (403, "FORBIDDEN"),
                    "{method} {path} with {other}"
                );
                assert!(answer.body["message"].as_str().unwrap().contains(scope));
            }
        }
        let answer = api.call_as(&token(api.tenant, scope), method.clone(), &path, body).await;
        assert!(answer.status < 300, "{method} {path} with {scope}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tenant_is_known_by_its_first_token_unless_that_is_turned_off() {
    let api = TestApi::start().await;
    api.create_webhook("https://example.com/").await;
    assert_eq!(api.database.count("SELECT count(*) FROM tenants WHERE plan = 'trial'").await, 1);

    let strict = TestApi::start_with(|config| config.tenant_auto_create = false).await;
    let create = r#"{"url":"https://example.com/","events":["*"]}"#;
    let event = r#"{"type":"message.sent","data":1}"#;
    for (path, body) in [("/api/webhooks", create), ("/api/events", event)] {
        let answer = strict.post(path, body).await;
        assert_eq!((answer.status, answer.code()), (403, "FORBIDDEN"), "{path}");
    }
    let TenantId(id) = strict.tenant;
    let client = strict.database.client().await;
    client.execute("INSERT INTO tenants (id) VALUES ($1)", &[&id]).await.unwrap();
    assert_eq!(strict.post("/api/webhooks", create).await.status, 201);
    assert_eq!(strict.post("/api/events", event).await.status, 202);
}
