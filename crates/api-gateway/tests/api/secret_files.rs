//! Secrets in files, of a real process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use broker::{BrokerConfig, Topology};
use domain::TenantId;
use reqwest::{Client, StatusCode};
use test_support::{
    ENCRYPTION_KEYS, JWT_AUDIENCE, JWT_ISSUER, JWT_SECRET, OTHER_ENCRYPTION_KEY, TestBroker, TestDatabase,
    TlsProxy, certificate, eventually, server_of, through,
};
use uuid::Uuid;

use crate::helpers::{ALL_SCOPES, send, token, token_of};

const OTHER_JWT_SECRET: &str = "another secret that only tests know, long enough";

/// A gateway process, and the directory of its secrets.
struct Process {
    child: Child,
    secrets: PathBuf,
    url: String,
    client: Client,
    tenant: TenantId,
    token: String,
}

impl Process {
    async fn start(database_url: &str, broker: &TestBroker) -> Self {
        service::install_crypto();
        let secrets = std::env::temp_dir().join(format!("postrider-{}", Uuid::now_v7().simple()));
        std::fs::create_dir(&secrets).unwrap();
        std::fs::write(secrets.join("database-url"), format!("{database_url}\n")).unwrap();
        std::fs::write(secrets.join("encryption-keys"), ENCRYPTION_KEYS).unwrap();
        std::fs::write(secrets.join("jwt-secret"), JWT_SECRET).unwrap();
        std::fs::write(secrets.join("amqp-url"), broker.url()).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_api-gateway"))
            .env_clear()
            .env("POSTRIDER_DATABASE_URL_FILE", secrets.join("database-url"))
            .env("POSTRIDER_ENCRYPTION_KEYS_FILE", secrets.join("encryption-keys"))
            .env("POSTRIDER_JWT_SECRET_FILE", secrets.join("jwt-secret"))
            .env("POSTRIDER_AMQP_URL_FILE", secrets.join("amqp-url"))
            .env("POSTRIDER_AMQP_PREFIX", broker.prefix())
            .env("POSTRIDER_JWT_ISSUER", JWT_ISSUER)
            .env("POSTRIDER_JWT_AUDIENCE", JWT_AUDIENCE)
            .env("POSTRIDER_HTTP_ADDRESS", format!("127.0.0.1:{port}"))
            .env("POSTRIDER_HEALTH_ADDRESS", "127.0.0.1:0")
            // Tokens are tried until they are believed.
            .env("POSTRIDER_UNAUTHENTICATED_RATE", "0")
            .env("POSTRIDER_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let tenant = TenantId(Uuid::now_v7());
        let (url, token) = (format!("http://127.0.0.1:{port}"), token(tenant, ALL_SCOPES));
        let process = Self { child, secrets, url, client: Client::new(), tenant, token };
        eventually("the gateway", async || process.create("first").await).await;
        process
    }

    /// The id of a new webhook, if one can be made.
    async fn create(&self, name: &str) -> Option<String> {
        let body = format!(
            r#"{{"url":"https://example.com/{name}","events":["*"],"secret":"your-signing-secret"}}"#
        );
        let request = self.client.post(format!("{}/api/webhooks", self.url)).bearer_auth(&self.token);
        let answer = request.header("content-type", "application/json").body(body).send().await.ok()?;
        let created = answer.status() == StatusCode::CREATED;
        let answer: serde_json::Value = serde_json::from_str(&answer.text().await.ok()?).ok()?;
        created.then(|| answer["data"]["id"].as_str().unwrap().to_owned())
    }

    async fn secret_of(&self, webhook: &str, token: &str) -> u16 {
        let request = self.client.get(format!("{}/api/webhooks/{webhook}/secret", self.url));
        send(request.bearer_auth(token)).await.status
    }

    /// As Kubernetes does it: a new file takes the place of the old one at once.
    fn change(&self, name: &str, secret: &str) {
        let new = self.secrets.join("new");
        std::fs::write(&new, secret).unwrap();
        std::fs::rename(new, self.secrets.join(name)).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(Path::new(&self.secrets));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_and_keys_are_rotated_under_a_running_gateway() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create());
    let admin = database.client().await;
    let user = format!("rotated_{}", Uuid::now_v7().simple());
    let create = format!("CREATE ROLE {user} LOGIN PASSWORD 'first' IN ROLE postrider_gateway");
    admin.batch_execute(&create).await.unwrap();
    let (_, place) = database.url().rsplit_once('@').unwrap();
    let gateway = Process::start(&format!("postgres://{user}:first@{place}"), &broker).await;
    let old = gateway.create("old-key").await.unwrap();

    admin.batch_execute(&format!("ALTER ROLE {user} PASSWORD 'second'")).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    admin.execute(end, &[&user]).await.unwrap();
    eventually("the end of the first password", async || {
        gateway.create(&Uuid::now_v7().to_string()).await.is_none().then_some(())
    })
    .await;
    gateway.change("database-url", &format!("postgres://{user}:second@{place}"));
    eventually("the second password", async || gateway.create(&Uuid::now_v7().to_string()).await).await;

    gateway.change("encryption-keys", &format!("{OTHER_ENCRYPTION_KEY},{ENCRYPTION_KEYS}"));
    let with_other = "SELECT count(*) FROM webhooks WHERE secret_key_id = 'other'";
    let new = eventually("the other key", async || {
        let webhook = gateway.create(&Uuid::now_v7().to_string()).await?;
        (database.count(with_other).await > 0).then_some(webhook)
    })
    .await;
    for webhook in [&old, &new] {
        assert_eq!(
            gateway.secret_of(webhook, &gateway.token).await,
            200,
            "both keys open what they have closed"
        );
    }

    gateway.change("jwt-secret", "");
    gateway.change("jwt-secret", OTHER_JWT_SECRET);
    let other_token = token_of(OTHER_JWT_SECRET, gateway.tenant, ALL_SCOPES);
    eventually("the other secret of tokens", async || {
        (gateway.secret_of(&new, &other_token).await == 200).then_some(())
    })
    .await;
    assert_eq!(gateway.secret_of(&new, &gateway.token).await, 401, "the former secret is not believed");
    drop(gateway);
    admin.batch_execute(&format!("DROP ROLE {user}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_spoken_to_over_tls_that_is_verified() {
    service::install_crypto();
    let broker = TestBroker::create();
    let server = server_of(broker.url());
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    let (ours, other) = (certificate("ca.pem"), certificate("other-ca.pem"));
    let proxy = TlsProxy::before(Ipv4Addr::LOCALHOST, server, false).await.address;
    let strict = TlsProxy::before(Ipv4Addr::LOCALHOST, server, true).await.address;
    let elsewhere = TlsProxy::before(elsewhere, server, false).await.address;
    let client =
        format!("{ours}&certfile={}&keyfile={}", certificate("client.pem"), certificate("client.key"));
    let inspect = async |address: SocketAddr, query: &str| {
        let url = through(broker.url(), address).replace("amqp://", "amqps://");
        let config =
            BrokerConfig::new(&format!("{url}?{query}"), Topology::new(broker.prefix()), "test").unwrap();
        config.inspect().await
    };
    inspect(proxy, &format!("cacertfile={ours}")).await.unwrap();
    inspect(strict, &format!("cacertfile={client}")).await.unwrap();
    for (what, address, query, reason) in [
        ("another authority", proxy, format!("cacertfile={other}"), "UnknownIssuer"),
        ("the system's authorities", proxy, String::new(), "UnknownIssuer"),
        ("another name", elsewhere, format!("cacertfile={ours}"), "not valid for name"),
        ("no certificate of our own", strict, format!("cacertfile={ours}"), ""),
        ("a server without TLS", server, format!("cacertfile={ours}"), ""),
    ] {
        let failure = inspect(address, &query).await.unwrap_err();
        assert!(failure.contains(reason), "{what}: {failure}");
    }
    let plain = BrokerConfig::new(&format!("{}?cacertfile={ours}", broker.url()), Topology::new("x"), "test");
    assert!(plain.unwrap_err().to_string().contains("amqps:// only"));
}
