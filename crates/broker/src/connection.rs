use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domain::Invalid;
use lapin::options::ConfirmSelectOptions;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties};
use prometheus_client::registry::Registry;
use tokio::time::timeout;

use crate::Topology;
use crate::metrics::{Connecting, Metrics};
use crate::publishing_connection::PublishingConnection;
use crate::topology::Depth;

/// How long connecting, or declaring the topology, may take.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that vanished without a word is noticed after two of these, in seconds. The URL can say otherwise.
const HEARTBEAT_SECONDS: u16 = 10;
/// Bytes of a frame at most. lapin keeps room for 32 of them each way for every connection: 1 MiB instead of the 8 MiB that
/// the broker's own maximum comes to. The URL can say otherwise.
const FRAME_MAX: u32 = 16 * 1024;

/// Where the broker is, and what is declared there.
#[derive(Clone)]
pub struct BrokerConfig {
    server: Arc<RwLock<Server>>,
    pub(crate) topology: Topology,
    pub(crate) metrics: Metrics,
    name: String,
    only_publishes: bool,
}

#[derive(Clone)]
struct Server {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
}

impl BrokerConfig {
    /// How exchanges and queues are called.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Reads an `amqp://` or `amqps://` URL. `name` is shown in the broker's list of connections.
    pub fn new(url: &str, topology: Topology, name: impl Into<String>) -> Result<Self, Invalid> {
        let server = Arc::new(RwLock::new(url.parse()?));
        Ok(Self { server, topology, metrics: Metrics::default(), name: name.into(), only_publishes: false })
    }

    /// The same, for a process that may have no rights but to publish: where the broker forbids it to declare, it looks that
    /// all is there, and else waits until a dispatcher has declared it.
    #[must_use]
    pub fn only_publishing(self) -> Self {
        Self { only_publishes: true, ..self }
    }

    /// From now on connections are opened to this URL, by all clones of this configuration. Those that are open stay.
    pub fn replace_url(&self, url: &str) -> Result<(), Invalid> {
        let server = url.parse()?;
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = server;
        Ok(())
    }

    /// Adds what is counted of this broker, by all that use this configuration or a clone of it.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Connects, and opens a channel on which everything is declared.
    pub(crate) async fn connect(&self, purpose: &str) -> Result<(Connection, Channel), ConnectError> {
        self.count(self.open_declared(purpose)).await
    }

    /// Declares everything over a connection of its own, and opens one that does nothing but publish.
    pub(crate) async fn connect_publishing(
        &self,
        purpose: &str,
    ) -> Result<PublishingConnection, ConnectError> {
        let setup = async {
            // The channel is to stay until its connection closes: one that is dropped closes by itself, and is in the way.
            let (declaring, _channel) = self.open_declared("declaring").await?;
            let _ = declaring.close(200, "done".into()).await;
            let Server { uri, tls } = self.server();
            let name = format!("{} {purpose}", self.name);
            PublishingConnection::open(&uri, &tls, &name).await.map_err(ConnectError::Socket)
        };
        self.count(setup).await
    }

    /// Gives a connection so much time, and counts what comes of it.
    async fn count<C>(
        &self,
        setup: impl Future<Output = Result<C, ConnectError>>,
    ) -> Result<C, ConnectError> {
        let connected = timeout(SETUP_TIMEOUT, setup).await.map_err(|_| ConnectError::Timeout).flatten();
        let result = if connected.is_ok() { Connecting::Connected } else { Connecting::Failed };
        self.metrics.connections.of(result).inc();
        connected
    }

    async fn open_declared(&self, purpose: &str) -> Result<(Connection, Channel), ConnectError> {
        let connection = self.connect_only(purpose).await?;
        let channel = connection.create_channel().await?;
        let declared = self.topology.declare(&channel).await;
        match declared {
            Err(_) if self.only_publishes => {
                // The broker closes the channel of a question it answers with no.
                let channel = connection.create_channel().await?;
                self.take_in(self.topology.find(&channel).await?);
                Ok((connection, channel))
            }
            declared => {
                self.take_in(declared?);
                Ok((connection, channel))
            }
        }
    }

    /// Connects, however long it takes, and declares nothing.
    pub(crate) async fn connect_only(&self, purpose: &str) -> lapin::Result<Connection> {
        let name = format!("{} {purpose}", self.name).into();
        let properties = ConnectionProperties::default().with_connection_name(name);
        let Server { mut uri, tls } = self.server();
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        let runtime = lapin::runtime::default_runtime()?;
        Connection::connect_uri_with_config(uri, properties, tls, runtime).await
    }

    /// Where the broker is now.
    pub(crate) fn uri(&self) -> AMQPUri {
        self.server().uri
    }

    fn server(&self) -> Server {
        self.server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Declares everything, or looks that it is there, and takes in what the broker says of the queues.
    pub(crate) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        let depths = match self.only_publishes {
            true => self.topology.find(channel).await?,
            false => self.topology.declare(channel).await?,
        };
        self.take_in(depths);
        Ok(())
    }

    fn take_in(&self, depths: [Depth; 3]) {
        for depth in depths {
            self.metrics.messages.of(depth.queue).set(depth.messages.into());
            self.metrics.consumers.of(depth.queue).set(depth.consumers.into());
        }
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

impl FromStr for Server {
    type Err = Invalid;

    /// Reads a URL. What it says of certificates is in the words of RabbitMQ's own URLs.
    fn from_str(url: &str) -> Result<Self, Invalid> {
        let mut uri = AMQPUri::from_str(url)
            .map_err(|error| Invalid::new(format!("the AMQP URL cannot be read: {error}")))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let word = |name: &'static str| {
            let path = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
            let read = std::fs::read(path);
            Some(read.map_err(|error| Invalid::new(format!("{name}: {path} cannot be read: {error}"))))
        };
        let authority = word("cacertfile").transpose()?.map(String::from_utf8).transpose();
        let authority = authority.map_err(|_| Invalid::new("cacertfile is not in PEM"))?;
        let identity = match (word("certfile").transpose()?, word("keyfile").transpose()?) {
            (Some(pem), Some(key)) => Some(OwnedIdentity::PKCS8 { pem, key }),
            (None, None) => None,
            _ => return Err(Invalid::new("certfile and keyfile go together")),
        };
        if uri.scheme == AMQPScheme::AMQP && (authority.is_some() || identity.is_some()) {
            return Err(Invalid::new("certificates are of use with amqps:// only"));
        }
        Ok(Self { uri, tls: OwnedTLSConfig { identity, cert_chain: authority } })
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
    #[error(transparent)]
    Socket(io::Error),
}
