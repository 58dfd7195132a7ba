//! What clients expect of any HTTP API, whatever it is about.

use std::io::Read as _;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::helpers::{Answer, TestApi, send};

async fn with_headers(api: &TestApi, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = api.request(method, path).bearer_auth(&api.token);
    send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

fn names(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_lowercase());
    values.flat_map(|value| value.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn options_is_answered_with_the_methods_of_the_path_and_no_token() {
    let api = TestApi::start().await;
    let webhook = "/api/webhooks/018f0000-0000-7000-8000-000000000000";
    for (path, allow) in [
        ("/api/webhooks", "GET, HEAD, POST, OPTIONS"),
        (webhook, "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("/api/events/batch", "POST, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/docs/index.html", "GET, HEAD, OPTIONS"),
        ("/health/live", "GET, HEAD, OPTIONS"),
    ] {
        let answer = send(api.request(Method::OPTIONS, path)).await;
        assert_eq!((answer.status, answer.header("allow"), &answer.body), (204, allow, &json!("")), "{path}");
        let refused = send(api.request(Method::TRACE, path)).await;
        assert_eq!((refused.status, refused.header("allow")), (405, allow), "{path}");
        assert_eq!(refused.code(), "METHOD_NOT_ALLOWED", "{path}");
    }
    assert_eq!(send(api.request(Method::OPTIONS, "/api/nothing")).await.code(), "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_as_get_does_on_every_path_that_can_be_read() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    for path in [
        "/api/webhooks",
        "/api/webhooks/events",
        &format!("/api/webhooks/{id}"),
        &format!("/api/webhooks/{id}/history"),
        "/openapi.json",
        "/docs/index.html",
        "/health/live",
        "/api/nothing",
    ] {
        let head = with_headers(&api, Method::HEAD, path, &[]).await;
        let get = with_headers(&api, Method::GET, path, &[]).await;
        assert_eq!((head.status, &head.body), (get.status, &json!("")), "{path}");
        for header in ["content-type", "content-length", "etag"] {
            assert_eq!(head.header(header), get.header(header), "{header} of {path}");
        }
    }
    assert_eq!(with_headers(&api, Method::HEAD, "/api/events/batch", &[]).await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_call_only_where_configuration_says_so() {
    let preflight = [
        ("origin", "https://app.example.com"),
        ("access-control-request-method", "PATCH"),
        ("access-control-request-headers", "authorization,if-match"),
    ];
    let closed = TestApi::start().await;
    let answer = with_headers(&closed, Method::OPTIONS, "/api/webhooks", &preflight).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, ""));

    let open = TestApi::start_with(|config| {
        config.cors_origins = "https://app.example.com,http://localhost:3000".parse().unwrap();
    })
    .await;
    let answer = with_headers(&open, Method::OPTIONS, "/api/webhooks", &preflight).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
    assert!(names(&answer.headers, "access-control-allow-methods").contains(&"patch".to_owned()));
    let headers = names(&answer.headers, "access-control-allow-headers");
    for header in ["authorization", "content-type", "if-match", "x-request-id", "idempotency-key"] {
        assert!(headers.contains(&header.to_owned()), "{header}");
    }
    assert_eq!(answer.header("access-control-allow-credentials"), "", "tokens are no cookies");

    // Errors too: a page must be able to read them.
    for (path, status) in [("/api/webhooks", 200), ("/api/webhooks/x", 404), ("/api/webhooks?x=1", 400)] {
        let answer = with_headers(&open, Method::GET, path, &[("origin", "http://localhost:3000")]).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), "http://localhost:3000", "{path}");
        let exposed = names(&answer.headers, "access-control-expose-headers");
        for header in ["etag", "ratelimit", "retry-after", "x-request-id"] {
            assert!(exposed.contains(&header.to_owned()), "{header}");
        }
        assert!(names(&answer.headers, "vary").contains(&"origin".to_owned()), "{path}");
    }
    for origin in ["https://evil.test", "null", "https://app.example.com.evil.test"] {
        let preflight = [("origin", origin), ("access-control-request-method", "GET")];
        for method in [Method::OPTIONS, Method::GET] {
            let answer = with_headers(&open, method, "/api/webhooks", &preflight).await;
            assert_eq!(answer.header("access-control-allow-origin"), "", "{origin}");
            assert!(names(&answer.headers, "vary").contains(&"origin".to_owned()), "{origin}");
        }
    }

    let any = TestApi::start_with(|config| config.cors_origins = "*".parse().unwrap()).await;
    let answer = with_headers(&any, Method::GET, "/api/webhooks", &[("origin", "https://evil.test")]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_for_who_takes_gzip_and_small_ones_never() {
    let api = TestApi::start().await;
    let fetch = async |path: &str, encoding: &'static str| {
        let request = api.request(Method::GET, path).bearer_auth(&api.token);
        let response = request.header("accept-encoding", encoding).send().await.unwrap();
        let headers = response.headers().clone();
        (headers, response.bytes().await.unwrap())
    };
    let (headers, plain) = fetch("/openapi.json", "identity").await;
    assert!(!headers.contains_key("content-encoding"));
    assert!(names(&headers, "vary").contains(&"accept-encoding".to_owned()));
    let (headers, packed) = fetch("/openapi.json", "gzip, deflate, br").await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(headers["content-length"], packed.len().to_string().as_str());
    assert!(packed.len() * 4 < plain.len(), "{} of {}", packed.len(), plain.len());
    assert!(names(&headers, "vary").contains(&"accept-encoding".to_owned()));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(packed.as_ref()).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);

    let (headers, small) = fetch("/api/webhooks", "gzip").await;
    assert!(!headers.contains_key("content-encoding"), "{small:?}");
    let (headers, _) = fetch("/openapi.json", "gzip;q=0").await;
    assert!(!headers.contains_key("content-encoding"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_of_a_compressed_answer_is_its_own_and_is_taken_back() {
    let api = TestApi::start().await;
    let description = "x".repeat(512);
    let metadata = json!({"a": "y".repeat(500)});
    let body = json!({"url": "https://example.com/", "events": ["*"], "description": description, "metadata": metadata});
    let path = format!("/api/webhooks/{}", api.post("/api/webhooks", &body.to_string()).await.id());
    let gzip = ("accept-encoding", "gzip");
    let plain = with_headers(&api, Method::GET, &path, &[]).await.header("etag").to_owned();
    let packed = with_headers(&api, Method::GET, &path, &[gzip]).await.header("etag").to_owned();
    assert_eq!(packed, format!("{}-gzip\"", plain.trim_end_matches('"')));
    for tag in [&plain, &packed] {
        let again = with_headers(&api, Method::GET, &path, &[gzip, ("if-none-match", tag)]).await;
        assert_eq!((again.status, again.header("etag")), (304, tag.as_str()));
    }
    let change = async |tag: &str| {
        let request = api.request(Method::PATCH, &path).bearer_auth(&api.token).header("if-match", tag);
        send(request.header("content-type", "application/json").body("{}")).await.status
    };
    assert_eq!(change(&packed).await, 200);
    assert_eq!(change(&packed).await, 412, "it is another now");
    let fresh = with_headers(&api, Method::GET, &path, &[gzip]).await.header("etag").to_owned();
    let request = api.request(Method::DELETE, &path).bearer_auth(&api.token).header("if-match", fresh);
    assert_eq!(send(request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_compressed() {
    let api = TestApi::start().await;
    let secret = "s".repeat(256);
    let body = json!({"url": "https://example.com/", "events": ["*"], "secret": secret});
    let id = api.post("/api/webhooks", &body.to_string()).await.id();
    for overlap in 0..4 {
        let body = json!({"secret": format!("{}{overlap}", "t".repeat(250))});
        api.post(&format!("/api/webhooks/{id}/secret/rotate"), &body.to_string()).await;
    }
    let path = format!("/api/webhooks/{id}/secret");
    let shown = with_headers(&api, Method::GET, &path, &[("accept-encoding", "gzip")]).await;
    assert_eq!((shown.status, shown.header("content-encoding")), (200, ""));
    assert!(shown.body.to_string().len() > 1024, "it is large enough to be");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_refused_with_a_hint() {
    let api = TestApi::start().await;
    for (path, body, field, hint) in [
        (
            "/api/webhooks",
            json!({"url": "https://example.com/", "evnts": ["*"]}),
            "evnts",
            "unknown field `evnts`; did you mean `events`?",
        ),
        (
            "/api/webhooks",
            json!({"url": "https://example.com/", "events": ["*"], "rate_limit": 5}),
            "rate_limit",
            "unknown field `rate_limit`; did you mean `rateLimit`?",
        ),
        (
            "/api/events",
            json!({"type": "message.sent", "data": 1, "zzz": 1}),
            "zzz",
            "unknown field `zzz`; known are type, data, id, occurredAt, sessionId, orderingKey",
        ),
    ] {
        let answer = api.post(path, &body.to_string()).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{body}");
        let said = answer.body["errors"][field].as_str().unwrap_or_default();
        assert!(said.starts_with(hint.split("; known").next().unwrap()), "{answer:?}");
        assert!(said == hint || hint.contains("known are"), "{answer:?}");
    }
    let id = api.create_webhook("https://example.com/").await;
    let answer = api.patch(&format!("/api/webhooks/{id}"), r#"{"isactive": false}"#).await;
    assert_eq!(answer.body["errors"]["isactive"], "unknown field `isactive`; did you mean `isActive`?");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_query_parameters_are_refused_with_a_hint_on_every_route_that_needs_a_token() {
    let api = TestApi::start().await;
    let id = api.create_webhook("https://example.com/").await;
    let history = format!("/api/webhooks/{id}/history");
    let hint = api.get(&format!("{history}?limit=1&evenType=message.sent")).await;
    assert_eq!((hint.status, hint.code()), (400, "VALIDATION_ERROR"));
    assert_eq!(
        hint.body["errors"]["evenType"],
        "unknown query parameter `evenType`; did you mean `eventType`?"
    );
    let document = send(api.request(Method::GET, "/openapi.json")).await.body;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{id}", &id).replace("{name}", "team").replace("{eventId}", "e1");
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = with_headers(&api, method.clone(), &format!("{path}?nonsense=1"), &[]).await;
            let is_refused = answer.body["errors"]["nonsense"] != Value::Null;
            assert_eq!(is_refused, operation.get("security").is_some(), "{method} {path}: {answer:?}");
        }
    }
    assert_eq!(api.get("/api/webhooks/events?_=1700000000").await.status, 200, "the public list takes any");
}
