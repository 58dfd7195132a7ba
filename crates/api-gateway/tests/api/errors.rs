use reqwest::Method;
use serde_json::json;

use crate::helpers::{TestApi, send};

#[tokio::test(flavor = "multi_thread")]
async fn bad_json_is_a_clear_400_in_the_envelope() {
    let api = TestApi::start().await;
    let deep = format!(r#"{{"type":"message.sent","data":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
    let very_deep = format!(r#"{{"type":"message.sent","data":{}"#, "[".repeat(200_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"[]".to_vec(),
        b"17".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe".to_vec(),
        b"{\"type\":\"message.sent\",\"data\":\"\xff\"}".to_vec(),
        br#"{"type":"message.sent","data":1} trailing"#.to_vec(),
        br#"{"type":"message.sent","type":"message.sent","data":1}"#.to_vec(),
        br#"{"type":"message.sent"}"#.to_vec(),
        br#"["message.sent",1,"id-1",null,null]"#.to_vec(),
        br#"{"type":"message.sent","data":1,"occurredAt":"9999-12-31T23:59:59-14:00"}"#.to_vec(),
        br#"{"type":"message.sent","data":1,"id":"a\u0000b"}"#.to_vec(),
        br#"{"type":"message.sent","data":1,"id":"\ud800"}"#.to_vec(),
        br#"{"type":"message.sent","data":1,"id":""}"#.to_vec(),
        br#"{"type":"message.sent","data":1,"sessionId":"\udc00\ud800"}"#.to_vec(),
        br#"{"type":"message.sent","data":1,"sessionId":"\u0000"}"#.to_vec(),
        b"{\"type\":\"message.sent\",\"data\":\"a\0b\"}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        br#"{"type":"message.sent","data":NaN}"#.to_vec(),
        br#"{"type":"message.sent","data":01}"#.to_vec(),
        br#"{"type":"message.sent","data":1,}"#.to_vec(),
        br#"{"type":"message.sent","data":1,"data":2}"#.to_vec(),
        br#"{"type":1e999,"data":1}"#.to_vec(),
        br#"{"type":"message.sent","data":1,"occurredAt":"yesterday"}"#.to_vec(),
        br#"{"type":"message.*","data":1}"#.to_vec(),
        br#"{"type":"*","data":1}"#.to_vec(),
        format!(r#"{{"type":"{}","data":1}}"#, "x".repeat(256)).into_bytes(),
        format!(r#"{{"type":"message.sent","data":1,"id":"{}"}}"#, "x".repeat(129)).into_bytes(),
        deep.into_bytes(),
        very_deep.into_bytes(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let request = api.request(Method::POST, "/api/events").bearer_auth(&api.token);
        let answer = send(request.header("content-type", "application/json").body(body)).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{shown}");
        assert!(!answer.body["errors"].as_object().unwrap().is_empty(), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_type_is_415_and_a_body_over_the_limit_is_413() {
    let api = TestApi::start().await;
    let request = || api.request(Method::POST, "/api/events").bearer_auth(&api.token);
    let form = send(request().header("content-type", "application/x-www-form-urlencoded").body("a=b")).await;
    assert_eq!((form.status, form.code()), (415, "UNSUPPORTED_MEDIA_TYPE"));
    let charset = request().header("content-type", "application/json; charset=utf-8");
    assert_eq!(send(charset.body(r#"{"type":"message.sent","data":1}"#)).await.status, 202);
    let body = format!(r#"{{"type":"message.sent","data":"{}"}}"#, "x".repeat(300 * 1024));
    let large = api.post("/api/events", &body).await;
    assert_eq!((large.status, large.code()), (413, "PAYLOAD_TOO_LARGE"));
    let body = format!(r#"{{"type":"message.sent","data":"{}"}}"#, "x".repeat(domain::MAX_DATA_BYTES));
    let over = api.post("/api/events", &body).await;
    assert_eq!(
        (over.status, over.code()),
        (400, "VALIDATION_ERROR"),
        "within the body's limit, over that of data"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_answered_in_the_envelope() {
    let api = TestApi::start().await;
    let answer = send(api.request(Method::GET, "/api/nothing")).await;
    assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"));
    for (method, path, allow) in [
        (Method::PUT, "/api/webhooks", "GET, HEAD, POST, OPTIONS"),
        (Method::POST, "/api/webhooks/events", "GET, HEAD, OPTIONS"),
        (Method::GET, "/api/events/batch", "POST, OPTIONS"),
        (
            Method::POST,
            "/api/webhooks/018f0000-0000-7000-8000-000000000000",
            "GET, HEAD, PATCH, DELETE, OPTIONS",
        ),
    ] {
        let answer = send(api.request(method.clone(), path)).await;
        assert_eq!((answer.status, answer.code()), (405, "METHOD_NOT_ALLOWED"), "{method} {path}");
        assert_eq!(answer.header("allow"), allow);
        assert_eq!(answer.body["success"], json!(false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_like_get_without_a_body() {
    let api = TestApi::start().await;
    let answer = send(api.request(Method::HEAD, "/api/webhooks/events")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, Some("")));
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_announced_too_large_is_refused_before_it_comes() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let api = TestApi::start().await;
    let mut stream = tokio::net::TcpStream::connect(api.address()).await.unwrap();
    let token = &api.token;
    let head = format!(
        "POST /api/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 99999999999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_a_request_id_the_clients_own_where_it_sent_one() {
    let api = TestApi::start().await;
    let request = || api.request(Method::GET, "/api/webhooks/events");
    assert!(!send(request()).await.header("x-request-id").is_empty());
    let named = send(request().header("x-request-id", "my-request-1")).await;
    assert_eq!(named.header("x-request-id"), "my-request-1");
    let hostile = send(request().header("x-request-id", "x".repeat(1000))).await;
    assert!(hostile.header("x-request-id").len() < 100);
    let failed = send(api.request(Method::GET, "/api/webhooks").header("x-request-id", "my-request-2")).await;
    assert_eq!((failed.status, failed.header("x-request-id")), (401, "my-request-2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_webhooks_are_503_and_say_when_to_come_back() {
    let nowhere = store::Store::new("postgres://nobody@127.0.0.1:1/none", 1).unwrap();
    let api = TestApi::start_with(|config| config.store = nowhere).await;
    let answer = api.get("/api/webhooks").await;
    assert_eq!((answer.status, answer.code()), (503, "SERVICE_UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), "2");
    let text = answer.body.to_string();
    assert!(
        !text.contains("127.0.0.1") && !text.contains("postgres"),
        "nothing of the inside is told: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_out_of_range_and_duplicate_keys_are_refused_wherever_they_stand() {
    let api = TestApi::start().await;
    let webhook = |more: &str| format!(r#"{{"url":"https://example.com/","events":["*"],{more}}}"#);
    for more in [
        r#""rateLimit":1e400"#,
        r#""rateLimit":99999999999999999999"#,
        r#""rateLimit":-1"#,
        r#""rateLimit":1.5"#,
        r#""rateLimit":"5""#,
        r#""retrySchedule":[1,99999999999999999999]"#,
        r#""timeoutMs":-99999999999999999999"#,
        r#""metadata":{"a":"1","a":"2"}"#,
        r#""headers":{"X-A":"1","x-a":"2"}"#,
        r#""filter":{"a":1,"a":2}"#,
        r#""description":"\u0000""#,
        r#""description":"\ud800""#,
        r#""metadata":{"a":"\u0000"}"#,
        r#""url":"https://example.com/2""#,
    ] {
        let answer = api.post("/api/webhooks", &webhook(more)).await;
        assert_eq!((answer.status, answer.code()), (400, "VALIDATION_ERROR"), "{more}: {answer:?}");
    }
    assert_eq!(api.get("/api/webhooks").await.body["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_data_is_the_publishers_and_carried_as_it_is() {
    let api = TestApi::start().await;
    // No program need be able to hold it; receivers get the same bytes.
    for data in [r#""a\u0000b""#, r#""\ud800""#, "1e400", r#"{"a":1,"a":2}"#] {
        let answer = api.post("/api/events", &format!(r#"{{"type":"message.sent","data":{data}}}"#)).await;
        assert_eq!(answer.status, 202, "{data}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_ours_is_a_500_that_tells_nothing_but_its_request_id() {
    let api = TestApi::start().await;
    let client = api.database.client().await;
    client.batch_execute("ALTER TABLE webhooks RENAME TO webhooks_of_old").await.unwrap();
    let request = api.request(Method::GET, "/api/webhooks").bearer_auth(&api.token);
    let answer = send(request.header("x-request-id", "find-me")).await;
    assert_eq!((answer.status, answer.code()), (500, "INTERNAL_ERROR"));
    assert_eq!(answer.body, json!({"success": false, "message": "Internal error", "code": "INTERNAL_ERROR"}));
    assert_eq!(answer.header("x-request-id"), "find-me");
}
