use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use domain::Invalid;
use lapin::options::ConfirmSelectOptions;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use prometheus_client::registry::Registry;
use tokio::time::timeout;

use crate::Topology;
use crate::metrics::{Connecting, Metrics};

/// How long connecting, or declaring the topology, may take.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that vanished without a word is noticed after two of these, in seconds. The URL can say otherwise.
const HEARTBEAT_SECONDS: u16 = 10;

/// Where the broker is, and what is declared there.
#[derive(Clone)]
pub struct BrokerConfig {
    pub(crate) uri: AMQPUri,
    pub(crate) topology: Topology,
    pub(crate) metrics: Metrics,
    name: String,
}

impl BrokerConfig {
    /// How exchanges and queues are called.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Reads an `amqp://` or `amqps://` URL. `name` is shown in the broker's list of connections.
    pub fn new(url: &str, topology: Topology, name: impl Into<String>) -> Result<Self, Invalid> {
        let mut uri = AMQPUri::from_str(url)
            .map_err(|error| Invalid::new(format!("the AMQP URL cannot be read: {error}")))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(Self { uri, topology, metrics: Metrics::default(), name: name.into() })
    }

    /// Adds what is counted of this broker, by all that use this configuration or a clone of it.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Connects, and opens a channel on which everything is declared.
    pub(crate) async fn connect(&self, purpose: &str) -> Result<(Connection, Channel), ConnectError> {
        let setup = async {
            let connection = self.connect_only(purpose).await?;
            let channel = connection.create_channel().await?;
            self.declare(&channel).await?;
            Ok((connection, channel))
        };
        let connected = timeout(SETUP_TIMEOUT, setup).await.map_err(|_| ConnectError::Timeout).flatten();
        let result = if connected.is_ok() { Connecting::Connected } else { Connecting::Failed };
        self.metrics.connections.of(result).inc();
        connected
    }

    /// Connects, however long it takes, and declares nothing.
    pub(crate) async fn connect_only(&self, purpose: &str) -> lapin::Result<Connection> {
        let name = format!("{} {purpose}", self.name).into();
        let properties = ConnectionProperties::default().with_connection_name(name);
        Connection::connect_uri(self.uri.clone(), properties).await
    }

    /// Declares everything, and takes in what the broker says of the queues.
    pub(crate) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        for depth in self.topology.declare(channel).await? {
            self.metrics.messages.of(depth.queue).set(depth.messages.into());
            self.metrics.consumers.of(depth.queue).set(depth.consumers.into());
        }
        Ok(())
    }

    /// Like [`BrokerConfig::connect`], with a channel that confirms what is published on it.
    pub(crate) async fn connect_to_publish(
        &self,
        purpose: &str,
    ) -> Result<(Connection, Channel), ConnectError> {
        let (connection, channel) = self.connect(purpose).await?;
        timeout(SETUP_TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default()))
            .await
            .map_err(|_| ConnectError::Timeout)??;
        Ok((connection, channel))
    }
}

impl fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL: it holds a password.
        f.debug_struct("BrokerConfig").field("topology", &self.topology).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no answer within {} s", SETUP_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Broker(#[from] lapin::Error),
}
