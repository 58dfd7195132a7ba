use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use dispatcher::{Config, Dispatcher};
use domain::{
    Clock as _, GateChange, SecretBytes, SignatureScheme, TenantId, UrlPolicy, WebhookId, WebhookUrl,
};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use prometheus_client::registry::Registry;
use signing::{Secret, SigningKey};
use store::{NewWebhook, WebhookChange};
use test_support::{ManualClock, TestBroker, TestDatabase, eventually, local_url_policy};
use uuid::Uuid;

pub(crate) const SECRET: &str = "your-signing-secret";

/// A database, a broker scope and a tenant, and as many dispatchers as a test starts.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) broker: TestBroker,
    pub(crate) tenant: TenantId,
    pub(crate) clock: ManualClock,
    _connection: Connection,
    channel: Channel,
}

/// A row of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) event_id: String,
    pub(crate) attempt: i32,
    pub(crate) status_code: Option<i16>,
    pub(crate) error: Option<String>,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) next_attempt_at: Option<DateTime<Utc>>,
}

impl World {
    pub(crate) async fn create() -> Self {
        service::install_crypto();
        let database = TestDatabase::create().await;
        let broker = TestBroker::create();
        let tenant = TenantId(Uuid::now_v7());
        database.store.ensure_tenants(&[tenant]).await.unwrap();
        let (connection, channel) = broker.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self {
            database,
            broker,
            tenant,
            clock: ManualClock::starting_now(),
            _connection: connection,
            channel,
        }
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            url_policy: local_url_policy(),
            poll_interval: Duration::from_millis(20),
            clock: Arc::new(self.clock.clone()),
            drain_timeout: Duration::from_secs(10),
            drain_rate: 10_000, // the clock stands still, unless a test moves it
            ..Config::new(self.database.store_of("dispatcher"), self.broker.config_of("dispatcher"))
        }
    }

    /// Starts a dispatcher and waits until it has declared the queues.
    pub(crate) async fn dispatcher(&self) -> Dispatcher {
        self.dispatcher_with(|_| ()).await
    }

    pub(crate) async fn dispatcher_with(&self, change: impl FnOnce(&mut Config)) -> Dispatcher {
        let mut config = self.config();
        change(&mut config);
        let dispatcher = Dispatcher::start(config, &mut Registry::default()).unwrap();
        self.broker.wait_until_declared().await;
        dispatcher
    }

    pub(crate) async fn webhook(&self, url: &str, events: &[&str]) -> WebhookId {
        self.webhook_of(self.tenant, url, events, None).await
    }

    pub(crate) async fn webhook_of(
        &self,
        tenant: TenantId,
        url: &str,
        events: &[&str],
        sessions: Option<&[&str]>,
    ) -> WebhookId {
        let anything = UrlPolicy { allow_http: true, ..local_url_policy() };
        let url = WebhookUrl::parse(url, &anything).or_else(|_| WebhookUrl::parse_stored(url)).unwrap();
        let events = events.iter().map(|event| event.parse().unwrap()).collect();
        let secret = SecretBytes::new(SECRET.parse::<Secret>().unwrap().expose_bytes());
        let new = NewWebhook {
            session_ids: sessions.map(|ids| ids.iter().map(|id| id.parse().unwrap()).collect()),
            ..NewWebhook::new(url, events, secret)
        };
        self.database.store.create_webhook(tenant, &new, self.clock.now()).await.unwrap().id
    }

    /// A webhook whose deliveries are signed with a private key.
    pub(crate) async fn webhook_signed_with(&self, key: &SigningKey, url: &str) -> WebhookId {
        let url = WebhookUrl::parse_stored(url).unwrap();
        let secret = SecretBytes::new(SECRET.as_bytes());
        let mut new = NewWebhook::new(url, vec!["*".parse().unwrap()], secret);
        new.delivery.signature_scheme = SignatureScheme::Ed25519;
        new.signing_key = Some(SecretBytes::new(key.expose_seed()));
        self.database.store.create_webhook(self.tenant, &new, self.clock.now()).await.unwrap().id
    }

    /// Changes how a webhook is delivered to.
    pub(crate) async fn set_gate(&self, webhook: WebhookId, gate: GateChange) {
        let change = WebhookChange { gate, ..WebhookChange::default() };
        let changed =
            self.database.store.change_webhook(self.tenant, webhook, &change, self.clock.now()).await;
        changed.unwrap().unwrap();
    }

    /// The JSON of an event, as the queue contract has it.
    pub(crate) fn event(&self, id: &str, event_type: &str, data: &str) -> String {
        let tenant = self.tenant;
        format!(
            r#"{{"id":"{id}","tenantId":"{tenant}","type":"{event_type}","occurredAt":"2026-05-30T10:00:00Z","data":{data}}}"#
        )
    }

    /// Publishes `message.sent` of a session to the exchange that keeps order.
    pub(crate) async fn publish_in_order(&self, id: &str, session: &str) {
        let event = self.event(id, "message.sent", "{}");
        let event = format!(r#"{},"sessionId":"{session}"}}"#, event.strip_suffix('}').unwrap());
        let exchange = format!("{}.events.ordered", self.broker.prefix());
        self.publish_to(exchange, "message.sent", event, BasicProperties::default()).await;
    }

    /// Publishes `message.sent` with bare lapin and waits for the confirm.
    pub(crate) async fn publish(&self, id: &str) {
        self.publish_raw("message.sent", &self.event(id, "message.sent", "{}"), BasicProperties::default())
            .await;
    }

    pub(crate) async fn publish_raw(
        &self,
        routing_key: &str,
        body: impl AsRef<[u8]>,
        properties: BasicProperties,
    ) {
        let exchange = format!("{}.events", self.broker.prefix());
        self.publish_to(exchange, routing_key, body, properties).await;
    }

    async fn publish_to(
        &self,
        exchange: String,
        routing_key: &str,
        body: impl AsRef<[u8]>,
        properties: BasicProperties,
    ) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirmation = self
            .channel
            .basic_publish(
                exchange.into(),
                routing_key.into(),
                options,
                body.as_ref(),
                properties.with_delivery_mode(2),
            )
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!(confirmation, Confirmation::Ack(None));
    }

    /// The history of a webhook, oldest first.
    pub(crate) async fn history(&self, webhook: WebhookId) -> Vec<Attempt> {
        let query = "SELECT event_id, attempt, status_code, error, started_at, next_attempt_at
            FROM delivery_attempts WHERE webhook_id = $1 ORDER BY started_at, event_id, attempt";
        let rows = self.database.client().await.query(query, &[&webhook.0]).await.unwrap();
        rows.iter()
            .map(|row| Attempt {
                event_id: row.get(0),
                attempt: row.get(1),
                status_code: row.get(2),
                error: row.get(3),
                started_at: row.get(4),
                next_attempt_at: row.get(5),
            })
            .collect()
    }

    /// Waits until the history has so many rows.
    pub(crate) async fn wait_for_history(&self, webhook: WebhookId, rows: usize) -> Vec<Attempt> {
        eventually("history", async || {
            let history = self.history(webhook).await;
            (history.len() >= rows).then_some(history)
        })
        .await
    }

    /// Waits until nothing is under way: no open batch, no unfinished delivery.
    pub(crate) async fn wait_until_settled(&self) {
        let query = "SELECT (SELECT count(*) FROM open_batches) + (SELECT count(*) FROM deliveries)";
        eventually("everything settled", async || (self.database.count(query).await == 0).then_some(()))
            .await;
    }
}
