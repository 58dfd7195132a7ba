//! Receivers whose TLS is wrong.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use domain::{Cause, Outcome};
use postrider_sender::{Attempted, Capture};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use test_support::{NameServer, RawReceiver, Step, local_url_policy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{event, exchange, sender_with_deadline, target};

const KEY: &[u8] = include_bytes!("../../testdata/server.key");
const GOOD: &[u8] = include_bytes!("../../testdata/server.pem");
const EXPIRED: &[u8] = include_bytes!("../../testdata/expired.pem");
const NOT_YET_VALID: &[u8] = include_bytes!("../../testdata/not_yet_valid.pem");
const SELF_SIGNED: &[u8] = include_bytes!("../../testdata/self_signed.pem");

const TLS: Outcome = Outcome::Retryable(Cause::Tls);

/// A receiver's side of TLS, for receiver.test.
pub(crate) fn acceptor() -> TlsAcceptor {
    acceptor_with(GOOD)
}

fn acceptor_with(certificate: &[u8]) -> TlsAcceptor {
    service::install_crypto();
    let chain = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A receiver that shows this certificate, and answers 204 to whoever takes it.
async fn tls_receiver(certificate: &[u8]) -> SocketAddr {
    let acceptor = acceptor_with(certificate);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    });
    address
}

async fn attempt(name: &str, receiver: SocketAddr, deadline: Duration) -> Attempted {
    let names = NameServer::start().await;
    names.know(name, &["127.0.0.1"]);
    let sender = sender_with_deadline(local_url_policy(), &names, deadline);
    let target = target(&format!("https://{name}:{}/", receiver.port()));
    sender.send(&target, &event(), Utc::now(), Capture::All).await.unwrap()
}

async fn outcome(name: &str, certificate: &[u8]) -> (Outcome, String) {
    let receiver = tls_receiver(certificate).await;
    let attempted = attempt(name, receiver, Duration::from_secs(10)).await;
    (attempted.outcome, exchange(&attempted).explanation.clone().unwrap_or_default())
}

#[tokio::test]
async fn a_certificate_of_somebody_whom_the_machine_does_not_trust_is_refused() {
    for certificate in [GOOD, SELF_SIGNED] {
        let (outcome, explanation) = outcome("receiver.test", certificate).await;
        assert_eq!(outcome, TLS);
        assert!(explanation.contains("invalid peer certificate"), "{explanation}");
    }
}

#[test]
fn a_certificate_that_is_trusted_must_be_for_the_name_and_for_today() {
    trusting_the_test_authority("certificates::where_the_test_authority_is_trusted");
}

/// Runs a test that is ignored otherwise. Whom the machine trusts is read from the environment, so it has a process of its own.
pub(crate) fn trusting_the_test_authority(test: &str) {
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/ca.pem");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test])
        .env("SSL_CERT_FILE", authority)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn where_the_test_authority_is_trusted() {
    assert_eq!(outcome("receiver.test", GOOD).await.0, Outcome::Delivered);
    assert_eq!(outcome("a.receiver.test", GOOD).await.0, Outcome::Delivered);
    for (name, certificate, reason) in [
        ("receiver.test", EXPIRED, "expired"),
        ("receiver.test", NOT_YET_VALID, "not valid yet"),
        ("receiver.test", SELF_SIGNED, "UnknownIssuer"),
        ("another.test", GOOD, "not valid for name"),
        ("a.b.receiver.test", GOOD, "not valid for name"),
        ("127.0.0.1", GOOD, "not valid for name"),
    ] {
        let (outcome, explanation) = outcome(name, certificate).await;
        assert_eq!(outcome, TLS, "{name}: {explanation}");
        assert!(explanation.contains(reason), "{name}: {explanation}");
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_or_breaks_off_or_is_none_ends_the_attempt() {
    let deadline = Duration::from_millis(600);
    // A handshake record that announces 16 KiB, of which nothing comes.
    let begun = Step::Write(vec![0x16, 0x03, 0x03, 0x40, 0x00, 0x02]);
    for (steps, causes) in [
        (vec![Step::Hang], &[Cause::Timeout][..]),
        (vec![begun.clone(), Step::Hang], &[Cause::Timeout]),
        (vec![Step::drip("\u{16}\u{3}\u{3}@\0\u{2}")], &[Cause::Timeout, Cause::Tls]),
        (vec![Step::write("HTTP/1.1 400 Bad\r\n\r\n"), Step::Hang], &[Cause::Tls]),
        (vec![Step::write_for_ever("HTTP/1.1 400 Bad\r\n\r\n")], &[Cause::Tls]),
        (vec![begun], &[Cause::Connect, Cause::Tls]),
        (vec![Step::Reset], &[Cause::Connect, Cause::Tls]),
    ] {
        let receiver = RawReceiver::start(steps.clone()).await;
        let outcome = attempt("receiver.test", receiver.address(), deadline).await.outcome;
        assert!(outcome.cause().is_some_and(|cause| causes.contains(&cause)), "{steps:?}: {outcome:?}");
    }
}
