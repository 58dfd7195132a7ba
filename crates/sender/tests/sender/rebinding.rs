//! Names whose owner lets them lead elsewhere once they were looked at.

use chrono::Utc;
use domain::{AddressPolicy, Cause, Outcome, UrlPolicy, WebhookUrl};
use postrider_sender::Capture;
use test_support::{NameServer, RawReceiver, Step, local_url_policy};

use crate::{event, sender, target};

const REFUSED: Outcome = Outcome::Retryable(Cause::AddressRefused);

#[tokio::test]
async fn a_name_that_leads_inside_only_at_delivery_is_refused_then() {
    let names = NameServer::start().await;
    let inside = RawReceiver::start([]).await;
    let policy = UrlPolicy { allow_http: true, ..UrlPolicy::default() };
    let sender = sender(policy.clone(), &names);
    for (name, address) in [
        ("loopback.test", "127.0.0.1"),
        ("private.test", "10.0.0.7"),
        ("metadata.test", "169.254.169.254"),
        ("mapped.test", "::ffff:127.0.0.1"),
        ("translated.test", "64:ff9b::7f00:1"),
        ("six.test", "::1"),
    ] {
        let url = format!("http://{name}:{}/", inside.address().port());
        assert!(WebhookUrl::parse(&url, &policy).is_ok(), "the name alone tells nothing");
        names.know(name, &[address]);
        let attempted = sender.send(&target(&url), &event(), Utc::now(), Capture::All).await.unwrap();
        assert_eq!(attempted.outcome, REFUSED, "{name}");
    }
    // What was stored under another policy is judged by today's.
    let literal = inside.url("/");
    let attempted = sender.send(&target(&literal), &event(), Utc::now(), Capture::All).await.unwrap();
    assert_eq!(attempted.outcome, REFUSED);
    assert_eq!(inside.connections(), 0);
}

#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_dialled() {
    let names = NameServer::start().await;
    let answer = Step::write("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
    let receiver = RawReceiver::start([Step::ReadRequest, answer]).await;
    let port = receiver.address().port();
    // The same port, at an address that is denied. A second look-up would come upon it.
    let denied = tokio::net::TcpListener::bind(format!("127.0.0.66:{port}")).await.unwrap();
    names.alternate("rebinding.test", &["127.0.0.1", "127.0.0.66"]);
    let addresses = AddressPolicy::allowing(vec!["127.0.0.0/8".parse().unwrap()]);
    let addresses = addresses.denying(vec!["127.0.0.66/32".parse().unwrap()]);
    let sender = sender(UrlPolicy { addresses, ..local_url_policy() }, &names);
    let target = target(&format!("http://rebinding.test:{port}/"));
    let (mut delivered, mut refused) = (0, 0);
    for _ in 0..20 {
        match sender.send(&target, &event(), Utc::now(), Capture::All).await.unwrap().outcome {
            Outcome::Delivered => delivered += 1,
            REFUSED => refused += 1,
            outcome @ (Outcome::Retryable(_) | Outcome::Permanent(_)) => panic!("{outcome:?}"),
        }
    }
    assert_eq!((delivered, refused), (10, 10), "asked for anew at each attempt");
    let waiting = std::time::Duration::from_millis(1);
    assert!(tokio::time::timeout(waiting, denied.accept()).await.is_err(), "nobody connects there");
}
