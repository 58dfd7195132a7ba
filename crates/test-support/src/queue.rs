use broker::{BrokerConfig, Intake, Topology};
use lapin::options::{BasicAckOptions, BasicGetOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use uuid::Uuid;

use crate::{eventually, variable};

/// Exchanges and queues of one test's own, and a bare connection that uses none of the product's code.
pub struct TestBroker {
    /// The product's configuration.
    pub config: BrokerConfig,
    /// The names.
    pub topology: Topology,
    prefix: String,
    url: String,
}

/// A message from the dead letters.
#[derive(Debug)]
pub struct DeadLetter {
    /// The `postrider-reason` header.
    pub reason: String,
    /// The `postrider-detail` header.
    pub detail: String,
    /// What was published.
    pub body: String,
}

impl TestBroker {
    /// Chooses names that nobody else uses. The product declares them.
    pub fn create() -> Self {
        crate::show_log();
        let url = variable("POSTRIDER_TEST_AMQP_URL");
        let prefix = format!("test-{}", Uuid::now_v7().simple());
        let topology = Topology::new(prefix.clone());
        let config = BrokerConfig::new(&url, topology.clone(), "test").unwrap();
        Self { config, topology, prefix, url }
    }

    /// What the names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The configuration of a service, `gateway` or `dispatcher`, as a user with no more rights than it needs, where
    /// ./scripts/test has made one.
    pub fn config_of(&self, service: &str) -> BrokerConfig {
        let url = self.url_of(service);
        BrokerConfig::new(&url, self.topology.clone(), "test").unwrap()
    }

    /// Where the broker is, for a service.
    pub fn url_of(&self, service: &str) -> String {
        let name = format!("POSTRIDER_TEST_{}_AMQP_URL", service.to_uppercase());
        std::env::var(name).unwrap_or_else(|_| self.url.clone())
    }

    /// Where the broker is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A bare connection and channel.
    pub async fn channel(&self) -> (Connection, Channel) {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    /// Waits until the product has declared its exchanges and queues; the exchange for events is the last of them.
    pub async fn wait_until_declared(&self) {
        eventually("the exchange for events", async || {
            let (_connection, channel) = self.channel().await;
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let exchange = self.topology.events_exchange(Intake::InOrder).into();
            channel.exchange_declare(exchange, ExchangeKind::Topic, options, FieldTable::default()).await.ok()
        })
        .await;
    }

    /// The next dead letter.
    pub async fn dead_letter(&self) -> DeadLetter {
        let (_connection, channel) = self.channel().await;
        eventually("a dead letter", async || {
            let message =
                channel.basic_get(self.topology.dead().into(), BasicGetOptions::default()).await.unwrap()?;
            message.ack(BasicAckOptions::default()).await.unwrap();
            let headers = message.properties.headers().clone().unwrap_or_default();
            let header = |name: &str| {
                let value = headers.inner().get(name)?;
                Some(value.as_long_string()?.to_string())
            };
            Some(DeadLetter {
                reason: header("postrider-reason").unwrap_or_default(),
                detail: header("postrider-detail").unwrap_or_default(),
                body: String::from_utf8_lossy(&message.data).into_owned(),
            })
        })
        .await
    }

    /// Messages in the dispatch queue that are ready to be delivered.
    pub async fn ready_messages(&self) -> u32 {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.topology.dispatch_queue(Intake::Shared).into();
        channel.queue_declare(queue, options, FieldTable::default()).await.unwrap().message_count()
    }
}
