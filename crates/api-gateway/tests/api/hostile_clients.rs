//! Clients that are slow, greedy or many: each is ended in bounded time, and others are served meanwhile.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::helpers::{Answer, TestApi, send};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(api: &TestApi) -> TcpStream {
    TcpStream::connect(api.address()).await.unwrap()
}

/// All that comes until the gateway ends the connection, which it must.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection is ended");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends the text a byte at a time, until the other side wants no more.
async fn drip(stream: &mut TcpStream, text: &str) -> bool {
    let mut ticks = interval(Duration::from_millis(50));
    for byte in text.bytes() {
        ticks.tick().await;
        if stream.write_all(&[byte]).await.is_err() {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_come_in_time_end_the_connection() {
    let api = TestApi::start_with(|config| config.clients.header_timeout = Duration::from_millis(500)).await;
    let mut silent = connect(&api).await;
    let mut half = connect(&api).await;
    half.write_all(b"GET /api/webhooks/events HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut dripping = connect(&api).await;
    let endless = format!("GET /api/webhooks/events HTTP/1.1\r\nhost: x\r\nx-a: {}", "a".repeat(2000));
    assert!(!drip(&mut dripping, &endless).await, "a byte now and then does not keep it");
    for (what, stream) in [("silent", &mut silent), ("half", &mut half)] {
        let answer = read_to_end(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{what}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_in_time_is_408_and_the_end() {
    let api = TestApi::start_with(|config| config.clients.body_timeout = Duration::from_millis(500)).await;
    let head = |token: &str| {
        format!(
            "POST /api/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: 5000\r\n\r\n{{"
        )
    };
    let mut stream = connect(&api).await;
    stream.write_all(head(&api.token).as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    // The rest comes, far too slowly.
    let dripping = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            if writer.write_all(b" ").await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("the connection is ended");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("REQUEST_TIMEOUT"), "{answer}");
    timeout(PATIENCE, dripping).await.expect("and takes no more").unwrap();

    let mut stranger = connect(&api).await;
    stranger.write_all(head("nonsense").as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stranger.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 401", "the body of a stranger is not waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_kept_for_a_while_and_then_ended() {
    let api = TestApi::start_with(|config| config.clients.keep_alive = Duration::from_secs(1)).await;
    let mut stream = connect(&api).await;
    for _ in 0..2 {
        stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut status = [0; 15];
        timeout(PATIENCE, stream.read_exact(&mut status)).await.unwrap().unwrap();
        assert_eq!(&status, b"HTTP/1.1 200 OK");
        let mut rest = vec![0; 4096];
        let _ = timeout(PATIENCE, stream.read(&mut rest)).await.unwrap().unwrap();
    }
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_cap_wait_until_idle_ones_have_ended() {
    let api = TestApi::start_with(|config| {
        config.clients.max_connections = 2;
        config.clients.header_timeout = Duration::from_secs(1);
    })
    .await;
    // Whatever place each takes, all of them are taken.
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(connect(&api).await);
    }
    let mut honest = connect(&api).await;
    honest.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut honest).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "its turn comes: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_over_the_limits_are_refused() {
    let api = TestApi::start().await;
    let long = send(api.request(Method::GET, &format!("/api/webhooks?x={}", "a".repeat(9000)))).await;
    assert_eq!((long.status, long.code()), (414, "URI_TOO_LONG"));
    let large = api.request(Method::GET, "/api/webhooks").header("x-a", "a".repeat(40_000));
    let large = send(large).await;
    assert_eq!((large.status, large.code()), (431, "HEADERS_TOO_LARGE"));

    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let huge = format!("x-a: {}\r\n", "a".repeat(300_000));
    for headers in [many, huge] {
        let mut stream = connect(&api).await;
        let head = format!("GET /api/webhooks/events HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = read_to_end(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_requests_without_a_valid_token_and_others_are_not_hurt() {
    let api = TestApi::start_with(|config| {
        config.clients.strangers_per_second = 1;
        config.proxies.trusted = "127.0.0.0/8".parse().unwrap();
    })
    .await;
    let ask = async |path: &str, token: &str, address: &str| -> Answer {
        let request = api.request(Method::GET, path).header("x-forwarded-for", address);
        send(request.bearer_auth(token)).await
    };
    let mut refused = None;
    for _ in 0..20 {
        let answer = ask("/api/webhooks", "guess", "203.0.113.7").await;
        match answer.status {
            401 => assert!(refused.is_none()),
            429 => refused = Some(answer),
            other => panic!("{other}"),
        }
    }
    let refused = refused.expect("guessing comes to an end");
    assert_eq!(refused.code(), "RATE_LIMITED");
    assert!(refused.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(refused.header("ratelimit-policy"), "\"address\";q=60;w=60");
    assert_eq!(ask("/api/webhooks/events", "", "203.0.113.7").await.status, 429, "public routes too");

    assert_eq!(ask("/api/webhooks", &api.token, "203.0.113.7").await.status, 200, "who shares the address");
    assert_eq!(ask("/api/webhooks", "guess", "203.0.113.8").await.status, 401, "another address");
    assert_eq!(ask("/health/live", "", "203.0.113.7").await.status, 200, "probes");
    let network = async |address: &str| ask("/api/webhooks/events", "", address).await.status;
    for host in 1..=10 {
        assert_eq!(network(&format!("2001:db8:1:1::{host}")).await, 200);
    }
    assert_eq!(network("2001:db8:1:1::ffff").await, 429, "hosts of one network are one");
    assert_eq!(network("2001:db8:1:2::1").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_busy_publisher_is_never_limited_by_its_address() {
    let api = TestApi::start_with(|config| config.clients.strangers_per_second = 1).await;
    for number in 0..100 {
        let body = json!({"type": "message.sent", "data": number}).to_string();
        assert_eq!(api.post("/api/events", &body).await.status, 202);
    }
}
