//! What one request to a receiver comes to, and what is kept of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::net::TcpListener;
use std::time::Duration;

use chrono::Utc;
use domain::{
    Cause, Event, EventId, GateSettings, Outcome, SecretBytes, TenantId, UrlPolicy, Webhook, WebhookId,
    WebhookUrl,
};
use postrider_sender::{
    Attempted, Capture, Exchange, MAX_KEPT_BODY_BYTES, MAX_KEPT_HEADER_BYTES, MAX_KEPT_HEADERS, Sender,
    Target,
};
use test_support::{NameServer, Receiver, local_url_policy};
use uuid::Uuid;

fn target(url: &str) -> Target {
    let now = Utc::now();
    Target::new(Webhook {
        id: WebhookId::generate(),
        tenant_id: TenantId(Uuid::nil()),
        url: WebhookUrl::parse_stored(url).unwrap(),
        events: vec!["*".parse().unwrap()],
        session_ids: None,
        secret: Ok(SecretBytes::new(*b"your-signing-secret")),
        is_active: true,
        disabled: None,
        gate: GateSettings::default(),
        paused_at: None,
        created_at: now,
        updated_at: now,
    })
}

fn event() -> Event {
    Event {
        tenant_id: TenantId(Uuid::nil()),
        id: EventId::generate(),
        event_type: "message.sent".parse().unwrap(),
        occurred_at: Utc::now(),
        session_id: None,
        ordering_key: None,
        body: r#"{"id":"e1"}"#.into(),
    }
}

fn sender(policy: UrlPolicy, names: &NameServer) -> Sender {
    service::install_crypto();
    Sender::new(policy, Duration::from_secs(5), vec![names.address()]).unwrap()
}

async fn attempt(url: &str, capture: Capture) -> Attempted {
    let names = NameServer::start().await;
    sender(local_url_policy(), &names).send(&target(url), &event(), Utc::now(), capture).await.unwrap()
}

fn exchange(attempted: &Attempted) -> &Exchange {
    attempted.exchange.as_deref().unwrap()
}

#[tokio::test]
async fn the_headers_that_are_captured_are_those_that_the_receiver_sees() {
    let mut receiver = Receiver::start().await;
    let attempted = attempt(&receiver.url("/hook"), Capture::All).await;
    assert_eq!(attempted.outcome, Outcome::Delivered);
    let mut captured = exchange(&attempted).request_headers.clone();
    let mut seen = receiver.next().await.headers;
    captured.sort();
    seen.sort();
    assert_eq!(captured, seen);
    assert!(captured.iter().any(|(name, _)| name == "host") && captured.len() == 8, "{captured:?}");
}

#[tokio::test]
async fn an_answer_is_captured_with_headers_and_body() {
    let receiver = Receiver::start().await;
    let headers = [("content-type", "text/plain"), ("x-request-id", "r-1")];
    receiver.answer_next_in_full(500, &headers, "it broke");
    let attempted = attempt(&receiver.url("/"), Capture::Failures).await;
    let response = exchange(&attempted).response.as_ref().unwrap();
    assert_eq!((response.status, attempted.status_code), (500, Some(500)));
    assert_eq!(response.content_type.as_deref(), Some("text/plain"));
    assert!(response.headers.contains(&("x-request-id".to_owned(), "r-1".to_owned())));
    assert_eq!(
        (&response.body[..], response.body_cut, response.headers_cut),
        (&b"it broke"[..], false, false)
    );
}

#[tokio::test]
async fn a_success_is_captured_only_where_all_are() {
    let receiver = Receiver::start().await;
    assert_eq!(attempt(&receiver.url("/"), Capture::Failures).await.exchange, None);
    assert!(attempt(&receiver.url("/"), Capture::All).await.exchange.is_some());
}

#[tokio::test]
async fn a_long_answer_is_cut() {
    let receiver = Receiver::start().await;
    let (few_long, many_short) =
        (vec![("x-long", "l".repeat(3_000)); 5], vec![("x-short", String::new()); 90]);
    for headers in [few_long, many_short] {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        receiver.answer_next_in_full(200, &headers, vec![b'x'; 200_000]);
        let attempted = attempt(&receiver.url("/"), Capture::All).await;
        assert_eq!(attempted.outcome, Outcome::Delivered);
        let response = exchange(&attempted).response.as_ref().unwrap();
        let bytes: usize = response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(response.headers_cut && bytes <= MAX_KEPT_HEADER_BYTES);
        assert!(response.headers.len() <= MAX_KEPT_HEADERS);
        assert!(response.body_cut && response.body.len() == MAX_KEPT_BODY_BYTES);
    }
}

#[tokio::test]
async fn a_failure_without_an_answer_is_explained_and_names_no_address() {
    let names = NameServer::start().await;
    names.know("private.test", &["10.1.2.3"]);
    let sender = sender(local_url_policy(), &names);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let receiver = Receiver::start().await;
    let plain = receiver.url("/").replace("http://", "https://");
    for (url, cause, explanation) in [
        (format!("http://{closed}/"), Cause::Connect, "connection refused"),
        (plain, Cause::Tls, "received corrupt message of type InvalidContentType"),
        ("http://nowhere.test/".to_owned(), Cause::Dns, "the name cannot be resolved"),
        (
            "http://private.test/".to_owned(),
            Cause::AddressRefused,
            "the name leads to an address that is not public",
        ),
    ] {
        let attempted = sender.send(&target(&url), &event(), Utc::now(), Capture::Failures).await.unwrap();
        assert_eq!(attempted.outcome, Outcome::Retryable(cause), "{url}");
        let exchange = exchange(&attempted);
        assert_eq!(exchange.explanation.as_deref(), Some(explanation), "{url}");
        assert!(exchange.response.is_none() && !exchange.request_headers.is_empty());
    }
}
