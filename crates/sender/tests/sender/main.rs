//! What one request to a receiver comes to, and what is kept of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod certificates;
mod connections;
mod hostile;
mod rebinding;

use std::net::TcpListener;
use std::time::Duration;

use chrono::Utc;
use domain::{
    AttemptTimeout, Cause, CustomHeaders, Event, EventId, EventLinks, Exchange, Outcome, SecretBytes,
    TenantId, UrlPolicy, Webhook, WebhookUrl,
};
use postrider_sender::{
    Attempted, Capture, FoundAddress, MAX_KEPT_BODY_BYTES, MAX_KEPT_HEADER_BYTES, MAX_KEPT_HEADERS, Sender,
    Target,
};
use test_support::{NameServer, Receiver, local_url_policy};
use uuid::Uuid;

fn webhook(url: &str) -> Webhook {
    let url = WebhookUrl::parse_stored(url).unwrap();
    let secret = SecretBytes::new(*b"your-signing-secret");
    Webhook::new(TenantId(Uuid::nil()), url, vec!["*".parse().unwrap()], secret, Utc::now())
}

fn target(url: &str) -> Target {
    Target::new(webhook(url))
}

fn event() -> Event {
    Event {
        tenant_id: TenantId(Uuid::nil()),
        id: EventId::generate(),
        event_type: "message.sent".parse().unwrap(),
        occurred_at: Utc::now(),
        session_id: None,
        ordering_key: None,
        trace: None,
        deliver_at: None,
        tags: Vec::new(),
        body: r#"{"id":"e1"}"#.into(),
    }
}

fn links() -> EventLinks {
    "https://api.example.com".parse().unwrap()
}

fn sender(policy: UrlPolicy, names: &NameServer) -> Sender {
    sender_with_deadline(policy, names, Duration::from_secs(5))
}

fn sender_with_deadline(policy: UrlPolicy, names: &NameServer, deadline: Duration) -> Sender {
    service::install_crypto();
    Sender::new(policy, deadline, vec![names.address()], links()).unwrap()
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
    assert!(captured.iter().any(|(name, _)| name == "host") && captured.len() == 9, "{captured:?}");
}

#[tokio::test]
async fn an_answer_is_captured_with_headers_and_body() {
    let receiver = Receiver::start().await;
    let headers = [("content-type", "text/plain"), ("x-request-id", "r-1")];
    receiver.answer_next_in_full(500, &headers, "it broke");
    let attempted = attempt(&receiver.url("/"), Capture::Failures).await;
    let response = exchange(&attempted).response.as_ref().unwrap();
    assert_eq!((response.status, attempted.status_code), (500, Some(500)));
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

#[tokio::test]
async fn custom_headers_are_sent_and_what_is_kept_does_not_show_them() {
    let mut receiver = Receiver::start().await;
    let mut webhook = webhook(&receiver.url("/"));
    let headers = [("Authorization", "Bearer receiver-token"), ("Accept", "text/plain"), ("X-Env", "prod")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    webhook.delivery.headers = Ok(CustomHeaders::new(headers).unwrap());
    let names = NameServer::start().await;
    let sender = sender(local_url_policy(), &names);
    let attempted = sender.send(&Target::new(webhook), &event(), Utc::now(), Capture::All).await.unwrap();
    let seen = receiver.next().await;
    assert_eq!(seen.header("authorization"), "Bearer receiver-token");
    assert_eq!((seen.header("accept"), seen.header("x-env")), ("text/plain", "prod"));
    assert!(seen.is_signed_with("your-signing-secret"));
    let kept = &exchange(&attempted).request_headers;
    assert!(kept.contains(&("authorization".to_owned(), "********".to_owned())), "{kept:?}");
    assert!(!format!("{kept:?}").contains("receiver-token"));
}

#[tokio::test]
async fn a_thin_body_links_to_the_event_and_is_signed_like_any_other() {
    let mut receiver = Receiver::start().await;
    let mut webhook = webhook(&receiver.url("/"));
    webhook.delivery.is_thin = true;
    let names = NameServer::start().await;
    let event = Event { id: "e1".parse().unwrap(), ..event() };
    let sender = sender(local_url_policy(), &names);
    sender.send(&Target::new(webhook), &event, Utc::now(), Capture::Failures).await.unwrap();
    let seen = receiver.next().await;
    let body = std::str::from_utf8(&seen.body).unwrap();
    assert!(body.starts_with(r#"{"id":"e1","type":"message.sent","timestamp":""#), "{body}");
    assert!(body.ends_with(r#"","url":"https://api.example.com/api/events/e1"}"#), "{body}");
    assert!(seen.is_signed_with("your-signing-secret"));
    assert_eq!(seen.header("webhook-payload-version"), "1");
}

#[tokio::test]
async fn a_webhooks_own_timeout_takes_the_place_of_the_usual_one() {
    let receiver = Receiver::start().await;
    receiver.hang();
    let mut webhook = webhook(&receiver.url("/"));
    webhook.delivery.timeout = Some(AttemptTimeout::from_ms(1_000).unwrap());
    let names = NameServer::start().await;
    let sender = sender(local_url_policy(), &names);
    let attempted = sender.send(&Target::new(webhook), &event(), Utc::now(), Capture::All).await.unwrap();
    assert_eq!(attempted.outcome, Outcome::Retryable(Cause::Timeout));
    assert!((1_000..3_000).contains(&attempted.duration.as_millis()), "{:?}", attempted.duration);
    assert_eq!(exchange(&attempted).explanation.as_deref(), Some("no complete answer within 1000 ms"));
}

#[tokio::test]
async fn a_dry_run_follows_a_url_step_by_step_and_connects_to_nothing_that_is_refused() {
    let names = NameServer::start().await;
    let receiver = Receiver::start().await;
    let port = receiver.url("").rsplit(':').next().unwrap().to_owned();
    names.know("good.test", &["127.0.0.1"]);
    names.know("mixed.test", &["127.0.0.1", "10.1.2.3", "fd00::1"]);
    let sender = sender(local_url_policy(), &names);
    let run = async |url: &str| {
        sender.dry_run(&WebhookUrl::parse_stored(&url.replace("PORT", &port)).unwrap()).await
    };
    let loopback = FoundAddress::Allowed("127.0.0.1".parse().unwrap());

    let good = run("http://good.test:PORT/hook").await;
    assert!(good.is_reachable() && good.tls.is_none(), "{good:?}");
    assert_eq!(good.addresses, Some(Ok(vec![loopback])));
    assert_eq!(good.connection.unwrap().unwrap().address.to_string(), "127.0.0.1");

    let mixed = run("http://mixed.test:PORT/").await;
    let refused = [false, true].map(|is_ipv6| FoundAddress::Refused { is_ipv6 });
    assert_eq!(mixed.addresses, Some(Ok(vec![loopback, refused[0], refused[1]])));
    assert!(mixed.connection.is_none() && !mixed.is_reachable());
    assert!(!format!("{mixed:?}").contains("10.1"));

    let unknown = run("http://nowhere.test/").await;
    assert_eq!(unknown.addresses, Some(Err("the name cannot be resolved".to_owned())));
    let plain = run("https://good.test:PORT/").await;
    assert!(plain.connection.as_ref().unwrap().is_ok() && !plain.is_reachable());
    let tls = plain.tls.unwrap();
    assert!(tls.version.unwrap_err().contains("corrupt message") && tls.certificate.is_none());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = run(&format!("http://{closed}/")).await;
    assert_eq!(closed.connection, Some(Err("connection refused".to_owned())));
    let private = run("http://10.1.2.3/").await;
    assert!(private.policy.is_err() && private.addresses.is_none());
    assert!(receiver_is_untouched(receiver), "no request is made");
}

fn receiver_is_untouched(mut receiver: Receiver) -> bool {
    receiver.try_next().is_none()
}
