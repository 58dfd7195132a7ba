//! TLS to a Postgres that a test's own certificate stands for.

use std::net::{Ipv4Addr, SocketAddr};

use postrider_store::Store;
use test_support::{TestDatabase, TlsProxy, certificate};

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The database's URL by way of another address, with what it says of TLS.
fn through(database: &TestDatabase, address: SocketAddr, words: &str) -> String {
    let (user, place) = database.url().rsplit_once('@').unwrap();
    let (_, name) = place.split_once('/').unwrap();
    format!("{user}@{address}/{name}?sslmode=verify-full{words}")
}

fn server(database: &TestDatabase) -> SocketAddr {
    let (_, place) = database.url().rsplit_once('@').unwrap();
    place.split_once('/').unwrap().0.parse().unwrap()
}

async fn failure(url: &str) -> String {
    Store::new(url, 1).unwrap().ping().await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_the_authority_vouches_for_is_spoken_to_and_no_other() {
    let database = TestDatabase::create().await;
    let server = server(&database);
    let proxy = TlsProxy::before_postgres(Ipv4Addr::LOCALHOST, server, false).await;
    let elsewhere = TlsProxy::before_postgres(ELSEWHERE, server, false).await;
    let ours = format!("&sslrootcert={}", certificate("ca.pem"));
    let other = format!("&sslrootcert={}", certificate("other-ca.pem"));

    let store = Store::new(&through(&database, proxy.address, &ours), 1).unwrap();
    store.check_schema().await.unwrap();
    assert_eq!(store.migrate(|_| ()).await.unwrap(), 0, "a patient connection speaks TLS too");

    for (what, url, reason) in [
        ("another authority", through(&database, proxy.address, &other), "UnknownIssuer"),
        ("the system's authorities", through(&database, proxy.address, ""), "invalid peer certificate"),
        ("another name", through(&database, elsewhere.address, &ours), "not valid for name"),
        ("a server without TLS", through(&database, server, &ours), "server does not support TLS"),
    ] {
        let failure = failure(&url).await;
        assert!(failure.contains(reason), "{what}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_certificate_is_shown_one() {
    let database = TestDatabase::create().await;
    let proxy = TlsProxy::before_postgres(Ipv4Addr::LOCALHOST, server(&database), true).await;
    let anonymous = format!("&sslrootcert={}", certificate("ca.pem"));
    let known =
        format!("{anonymous}&sslcert={}&sslkey={}", certificate("client.pem"), certificate("client.key"));
    Store::new(&through(&database, proxy.address, &known), 1).unwrap().ping().await.unwrap();
    failure(&through(&database, proxy.address, &anonymous)).await;
}
