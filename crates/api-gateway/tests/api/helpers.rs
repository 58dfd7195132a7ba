use std::time::Duration;

use api_gateway::{ClientLimits, Config, Gateway, Origins, Proxies, SchemaValidation, TokenKeyConfig};
use chrono::{TimeDelta, Utc};
use domain::{EventLinks, RetrySchedule, TenantId};
use prometheus_client::registry::Registry;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use service::access_token::{Caller, mint};
use service::health::Readiness;
use test_support::{
    JWT_AUDIENCE, JWT_ISSUER, JWT_SECRET, TestBroker, TestDatabase, eventually, local_url_policy,
};
use tokio::sync::watch::Sender;
use traces::Tracer;
use uuid::Uuid;

pub(crate) const ALL_SCOPES: &str = "webhooks:read webhooks:write events:publish";

/// A gateway of one test's own.
pub(crate) struct TestApi {
    pub(crate) database: TestDatabase,
    pub(crate) broker: TestBroker,
    pub(crate) tenant: TenantId,
    pub(crate) token: String,
    url: String,
    client: Client,
    gateway: Gateway,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn id(&self) -> String {
        self.body["data"]["id"].as_str().unwrap().to_owned()
    }
}

impl TestApi {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_counted(&mut Registry::default(), change).await
    }

    /// With the metrics added to a registry of the test's.
    pub(crate) async fn start_counted(registry: &mut Registry, change: impl FnOnce(&mut Config)) -> Self {
        service::install_crypto();
        let database = TestDatabase::create().await;
        let broker = TestBroker::create();
        let mut config = config(&database, &broker);
        change(&mut config);
        let gateway = Gateway::start(config, registry).unwrap();
        let tenant = TenantId(Uuid::now_v7());
        Self {
            url: format!("http://{}", gateway.address()),
            token: token(tenant, ALL_SCOPES),
            tenant,
            database,
            broker,
            client: Client::new(),
            gateway,
        }
    }

    /// Another gateway beside this one, on the same database and broker.
    pub(crate) fn start_another(&self) -> AnotherGateway {
        self.start_another_with(|_| ())
    }

    pub(crate) fn start_another_with(&self, change: impl FnOnce(&mut Config)) -> AnotherGateway {
        let mut config = config(&self.database, &self.broker);
        change(&mut config);
        let gateway = Gateway::start(config, &mut Registry::default()).unwrap();
        AnotherGateway { url: format!("http://{}", gateway.address()), gateway }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.gateway.readiness()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub(crate) async fn call_as(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<&str>,
    ) -> Answer {
        let mut request = self.request(method, path).bearer_auth(token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        send(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call_as(&self.token, Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.call_as(&self.token, Method::POST, path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &str) -> Answer {
        self.call_as(&self.token, Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call_as(&self.token, Method::DELETE, path, None).await
    }

    /// Creates a webhook and gives its id.
    pub(crate) async fn create_webhook(&self, url: &str) -> String {
        let body =
            format!(r#"{{"url":"{url}","events":["message.received"],"secret":"your-signing-secret"}}"#);
        let created = self.post("/api/webhooks", &body).await;
        assert_eq!(created.status, 201, "{created:?}");
        created.id()
    }

    /// Waits until the gateway has read which tenants want order; before, it keeps all that could need it in order.
    pub(crate) async fn wait_until_order_is_known(&self) {
        let asked = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE '-- tenants_with_order%' AND state = 'idle'";
        eventually("the tenants with order", async || (self.database.count(asked).await > 0).then_some(()))
            .await;
    }

    /// Waits until the gateway has read it once more.
    pub(crate) async fn wait_until_order_is_read_again(&self) {
        let now = self.database.count("SELECT (extract(epoch FROM clock_timestamp()) * 1e6)::bigint").await;
        let asked = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'
             AND query LIKE '-- tenants_with_order%' AND extract(epoch FROM query_start) * 1e6 > {now}"
        );
        eventually("the tenants with order", async || (self.database.count(&asked).await > 0).then_some(()))
            .await;
    }

    pub(crate) async fn wait_until_ready(&self) {
        eventually("readiness", async || {
            let answer = send(self.request(Method::GET, "/health/ready")).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

/// A second gateway of a test.
pub(crate) struct AnotherGateway {
    url: String,
    gateway: Gateway,
}

impl AnotherGateway {
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub(crate) fn request(&self, api: &TestApi, method: Method, path: &str) -> RequestBuilder {
        api.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn post(&self, api: &TestApi, path: &str, body: &str) -> Answer {
        let request = api.client.post(format!("{}{path}", self.url)).bearer_auth(&api.token);
        send(request.header("content-type", "application/json").body(body.to_owned())).await
    }

    pub(crate) async fn shut_down(self) {
        assert!(self.gateway.shut_down().await);
    }
}

fn config(database: &TestDatabase, broker: &TestBroker) -> Config {
    Config {
        http_address: "127.0.0.1:0".parse().unwrap(),
        store: database.store_of("gateway"),
        broker: broker.config.clone().only_publishing(),
        publish_timeout: Duration::from_secs(20),
        token_keys: TokenKeyConfig {
            secret: Sender::new(JWT_SECRET.parse().ok()),
            ..TokenKeyConfig::default()
        },
        jwt_issuer: JWT_ISSUER.to_owned(),
        jwt_audience: JWT_AUDIENCE.to_owned(),
        tenant_auto_create: true,
        url_policy: local_url_policy(),
        delivery_timeout: Duration::from_secs(5),
        dns_servers: Vec::new(),
        retry_schedule: RetrySchedule::default(),
        schema_validation: SchemaValidation::Off,
        retention: Duration::from_secs(30 * 86_400),
        event_links: EventLinks::default(),
        // Many tests are one address.
        clients: ClientLimits { strangers_per_second: 0, ..ClientLimits::default() },
        cors_origins: Origins::default(),
        proxies: Proxies::default(),
        tracer: Tracer::off(),
        drain_timeout: Duration::from_secs(5),
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

pub(crate) fn token(tenant: TenantId, scopes: &str) -> String {
    token_of(JWT_SECRET, tenant, scopes)
}

pub(crate) fn token_of(secret: &str, tenant: TenantId, scopes: &str) -> String {
    let caller = Caller { subject: "tester".to_owned(), tenant_id: tenant, scopes: scopes.parse().unwrap() };
    let now = Utc::now();
    mint(&secret.parse().unwrap(), JWT_ISSUER, JWT_AUDIENCE, &caller, now, now + TimeDelta::hours(1))
}

/// A path of the OpenAPI document, with a value for each of its parameters.
pub(crate) fn filled_in(path: &str) -> String {
    let value = |name: &str| match name {
        "name" => "team".to_owned(),
        "type" => "message.sent".to_owned(),
        _ => Uuid::now_v7().to_string(),
    };
    let fill = |part: &str| part.strip_prefix('{').and_then(|part| part.strip_suffix('}')).map(value);
    path.split('/').map(|part| fill(part).unwrap_or_else(|| part.to_owned())).collect::<Vec<_>>().join("/")
}
