//! What the gateway says of itself shows no secret, however much it is told to say.

use std::process::Command;

use chrono::{TimeDelta, Utc};
use domain::TenantId;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use test_support::{
    JWT_AUDIENCE, JWT_ISSUER, LoggedProcess, Receiver, Secrets, TestBroker, TestDatabase, metrics_at,
    password_of,
};
use uuid::Uuid;

use crate::helpers::{ALL_SCOPES, send};

const JWT_SECRET: &str = "jwt-secret-6f1c9b52e7a04d3388d2c5";
const ENCRYPTION_KEY: &str = "ZW5jcnlwdGlvbi1rZXktdGhhdC1uby1sb2ctc2hvd3M=";
const WEBHOOK_SECRET: &str = "webhook-secret-3d0f7a";
const ROTATED_SECRET: &str = "rotated-secret-91be44";
const HEADER_VALUE: &str = "Bearer header-value-58aa02";
const REFUSED_HEADER: &str = "refused-header-value-77c1";
const URL_PASSWORD: &str = "url-password-c07d1e";
const REFUSED_SECRET: &str = "refused-secret-\n-a81d";

/// A gateway's process that says everything.
struct Gateway {
    process: LoggedProcess,
    client: Client,
    url: String,
    answers: String,
}

impl Gateway {
    async fn start(database: &TestDatabase, broker: &TestBroker) -> Self {
        service::install_crypto();
        let mut command = Command::new(env!("CARGO_BIN_EXE_api-gateway"));
        command
            .env_clear()
            .env("POSTRIDER_LOG", "trace")
            .env("POSTRIDER_DATABASE_URL", database.url())
            .env("POSTRIDER_AMQP_URL", broker.url())
            .env("POSTRIDER_AMQP_PREFIX", broker.prefix())
            .env("POSTRIDER_JWT_SECRET", JWT_SECRET)
            .env("POSTRIDER_JWT_ISSUER", JWT_ISSUER)
            .env("POSTRIDER_JWT_AUDIENCE", JWT_AUDIENCE)
            .env("POSTRIDER_ENCRYPTION_KEYS", format!("k1:{ENCRYPTION_KEY}"))
            .env("POSTRIDER_HTTP_ADDRESS", "127.0.0.1:0")
            .env("POSTRIDER_HEALTH_ADDRESS", "127.0.0.1:0")
            .env("POSTRIDER_RECEIVER_ALLOW_HTTP", "true")
            .env("POSTRIDER_RECEIVER_ALLOWED_NETWORKS", "127.0.0.0/8");
        let process = LoggedProcess::start(&mut command);
        let url = format!("http://{}", process.address("address").await);
        Self { process, client: Client::new(), url, answers: String::new() }
    }

    fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        request.header("content-type", "application/json")
    }

    /// Makes a request that must fail or show nothing, and keeps the answer.
    async fn call(&mut self, method: Method, path: &str, token: &str, body: impl ToString) -> Value {
        let answer = send(self.request(method, path, token).body(body.to_string())).await;
        self.answers.push_str(&format!("{} {:?} {}\n", answer.status, answer.headers, answer.body));
        assert!(answer.status < 500, "{path}: {answer:?}");
        answer.body
    }
}

fn token(tenant: TenantId, minutes: i64) -> String {
    let scopes = format!("{ALL_SCOPES} keys:manage").parse().unwrap();
    let caller = service::access_token::Caller { subject: "tester".to_owned(), tenant_id: tenant, scopes };
    let end = Utc::now() + TimeDelta::minutes(minutes);
    let secret = JWT_SECRET.parse().unwrap();
    service::access_token::mint(&secret, JWT_ISSUER, JWT_AUDIENCE, &caller, end - TimeDelta::hours(1), end)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_gateways_logs_metrics_or_errors() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create());
    let receiver = Receiver::start().await;
    let mut gateway = Gateway::start(&database, &broker).await;
    let tenant = TenantId(Uuid::now_v7());
    let (token, expired) = (token(tenant, 60), token(tenant, -60));

    // These three answers are meant to show a secret.
    let webhook = json!({
        "url": receiver.url("/hook"), "events": ["*"], "secret": WEBHOOK_SECRET,
        "headers": {"Authorization": HEADER_VALUE},
    });
    let created =
        send(gateway.request(Method::POST, "/api/webhooks", &token).body(webhook.to_string())).await;
    assert_eq!(created.status, 201, "{created:?}");
    let path = format!("/api/webhooks/{}", created.id());
    let rotate = gateway.request(Method::POST, &format!("{path}/secret/rotate"), &token);
    let rotated = send(rotate.body(json!({"secret": ROTATED_SECRET}).to_string())).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let key = json!({"name": "CRM", "scopes": ["webhooks:read"]}).to_string();
    let key = send(gateway.request(Method::POST, "/api/api-keys", &token).body(key)).await;
    let key = key.body["data"]["key"].as_str().unwrap().to_owned();

    for path in [&*path, &format!("{path}/history"), "/api/webhooks", "/api/api-keys"] {
        gateway.call(Method::GET, path, &token, "").await;
    }
    for (method, path, token, body) in [
        (Method::POST, format!("{path}/test"), &*token, json!({})),
        (Method::PATCH, path.clone(), &token, json!({"headers": {"X-Other": HEADER_VALUE}})),
        (Method::PATCH, path.clone(), &token, json!({"headers": {"Host": REFUSED_HEADER}})),
        (
            Method::PATCH,
            path.clone(),
            &token,
            json!({"headers": {"X-A": format!("{REFUSED_HEADER}\r\nX: y")}}),
        ),
        (Method::PATCH, path.clone(), &token, json!({"secret": REFUSED_SECRET})),
        (Method::PATCH, path.clone(), &token, json!({"secret": [WEBHOOK_SECRET]})),
        (Method::POST, "/api/webhooks".to_owned(), &token, json!({"secret": WEBHOOK_SECRET, "url": 1})),
        (
            Method::POST,
            "/api/webhooks".to_owned(),
            &token,
            json!({
                "url": format!("https://user:{URL_PASSWORD}@example.com/"), "events": ["*"], "secret": WEBHOOK_SECRET,
            }),
        ),
        (
            Method::POST,
            "/api/webhooks/url/test".to_owned(),
            &token,
            json!({
                "url": format!("https://user:{URL_PASSWORD}@example.com/"),
            }),
        ),
        (Method::POST, "/api/events".to_owned(), &token, json!({"type": "message.sent", "data": {}})),
        (Method::GET, "/api/webhooks".to_owned(), &expired, json!({})),
        (Method::GET, "/api/webhooks".to_owned(), JWT_SECRET, json!({})),
        (Method::GET, format!("/api/webhooks?access_token={token}&api_key={key}"), "", json!({})),
    ] {
        gateway.call(method, &path, token, body).await;
    }
    let half = format!(r#"{{"url":"https://example.com/","secret":"{WEBHOOK_SECRET}"#);
    gateway.call(Method::POST, "/api/webhooks", &token, half).await;
    for key in [&*key, &key[..key.len() - 1]] {
        let request = gateway.client.get(format!("{}/api/webhooks", gateway.url)).header("x-api-key", key);
        let answer = send(request).await;
        gateway.answers.push_str(&format!("{:?} {}\n", answer.headers, answer.body));
    }

    let mut secrets = Secrets::default();
    for (what, secret) in [
        ("JWT secret", JWT_SECRET),
        ("encryption key", ENCRYPTION_KEY),
        ("encryption key, decoded", "encryption-key-that-no-log-shows"),
        ("webhook secret", WEBHOOK_SECRET),
        ("rotated secret", ROTATED_SECRET),
        ("header value", HEADER_VALUE),
        ("refused header value", REFUSED_HEADER),
        ("refused secret", REFUSED_SECRET.split('\n').next().unwrap()),
        ("database password", password_of(database.url())),
        ("AMQP password", password_of(broker.url())),
        ("access token", &token),
        ("expired access token", &expired),
        ("signature of the access token", token.rsplit('.').next().unwrap()),
        ("API key", &key),
        ("API key without its last digit", &key[..key.len() - 1]),
        ("password in a URL", URL_PASSWORD),
    ] {
        secrets.add(what, secret);
    }
    let metrics = metrics_at(gateway.process.address("health").await).await;
    let log = gateway.process.log();
    assert!(log.contains("\"level\":\"TRACE\"") || log.contains("\"level\":\"DEBUG\""), "it says much");
    for (place, text) in [("log", &log), ("metrics", &metrics), ("answers", &gateway.answers)] {
        let shown = secrets.shown_in(text);
        let lines = text.lines().filter(|line| !secrets.shown_in(line).is_empty());
        let lines: Vec<String> = lines.map(|line| line.chars().take(400).collect()).take(10).collect();
        assert!(shown.is_empty(), "the {place} show: {shown:?}\n{}", lines.join("\n"));
    }
}
