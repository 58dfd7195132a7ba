//! TLS to a Postgres that a test's own certificate stands for.

use std::net::{Ipv4Addr, SocketAddr};

use postrider_store::Store;
use test_support::{TestDatabase, TlsProxy, certificate, server_of, through};

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The database's URL by way of another address, with what it says of TLS.
fn over_tls(database: &TestDatabase, address: SocketAddr, words: &str) -> String {
    format!("{}?sslmode=verify-full{words}", through(database.url(), address))
}

async fn failure(url: &str) -> String {
    Store::new(url, 1).unwrap().ping().await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_the_authority_vouches_for_is_spoken_to_and_no_other() {
    let database = TestDatabase::create().await;
    let server = server_of(database.url());
    let proxy = TlsProxy::before_postgres(Ipv4Addr::LOCALHOST, server, false).await;
    let elsewhere = TlsProxy::before_postgres(ELSEWHERE, server, false).await;
    let ours = format!("&sslrootcert={}", certificate("ca.pem"));
    let other = format!("&sslrootcert={}", certificate("other-ca.pem"));

    let store = Store::new(&over_tls(&database, proxy.address, &ours), 1).unwrap();
    store.check_schema().await.unwrap();
    assert_eq!(store.migrate(|_| ()).await.unwrap(), 0, "a patient connection speaks TLS too");

    for (what, url, reason) in [
        ("another authority", over_tls(&database, proxy.address, &other), "UnknownIssuer"),
        ("the system's authorities", over_tls(&database, proxy.address, ""), "invalid peer certificate"),
        ("another name", over_tls(&database, elsewhere.address, &ours), "not valid for name"),
        ("a server without TLS", over_tls(&database, server, &ours), "server does not support TLS"),
    ] {
        let failure = failure(&url).await;
        assert!(failure.contains(reason), "{what}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_certificate_is_shown_one() {
    let database = TestDatabase::create().await;
    let proxy = TlsProxy::before_postgres(Ipv4Addr::LOCALHOST, server_of(database.url()), true).await;
    let anonymous = format!("&sslrootcert={}", certificate("ca.pem"));
    let known =
        format!("{anonymous}&sslcert={}&sslkey={}", certificate("client.pem"), certificate("client.key"));
    Store::new(&over_tls(&database, proxy.address, &known), 1).unwrap().ping().await.unwrap();
    failure(&over_tls(&database, proxy.address, &anonymous)).await;
}
