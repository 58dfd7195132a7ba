use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::uri::AMQPScheme;
use lapin::{Connection, ExchangeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{BrokerConfig, Intake};

/// How long the whole inspection may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Most that is read of a greeting.
const MAX_GREETING_BYTES: usize = 16 * 1024;

/// What is found at the broker. Nothing is changed there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The server's version, such as `4.2.1`, where it could be learned.
    pub version: Option<String>,
    /// Exchanges and queues that should be there and are not.
    pub missing: Vec<String>,
    /// Why the broker says that something is there, but not as it should be.
    pub mismatch: Option<String>,
    /// The queues that are there.
    pub queues: Vec<QueueDepth>,
}

/// How a queue is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDepth {
    /// Its name.
    pub name: String,
    /// Messages that are ready for a consumer.
    pub messages: u32,
    /// Its consumers.
    pub consumers: u32,
}

impl BrokerConfig {
    /// Looks whether everything is there and as it should be, without making anything.
    pub async fn inspect(&self) -> Result<Inspection, String> {
        let looked = async {
            let connection = self.connect_only("doctor").await?;
            let mut inspection = self.look(&connection).await?;
            inspection.version = self.server_version().await;
            let _ = connection.close(200, "done".into()).await;
            Ok(inspection)
        };
        timeout(TIMEOUT, looked)
            .await
            .map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))?
            .map_err(|error: lapin::Error| error.to_string())
    }

    /// What the server calls itself when it is greeted, which lapin keeps to itself. Not asked over TLS.
    async fn server_version(&self) -> Option<String> {
        let uri = self.uri();
        if uri.scheme != AMQPScheme::AMQP {
            return None;
        }
        let authority = &uri.authority;
        let mut stream = TcpStream::connect((authority.host.as_str(), authority.port)).await.ok()?;
        stream.write_all(b"AMQP\0\0\x09\x01").await.ok()?;
        // A frame of type, channel, length and as many bytes: its greeting, with a table of what it is.
        let mut head = [0; 7];
        stream.read_exact(&mut head).await.ok()?;
        let [_, _, _, length @ ..] = head;
        let mut greeting = vec![0; usize::try_from(u32::from_be_bytes(length)).ok()?.min(MAX_GREETING_BYTES)];
        stream.read_exact(&mut greeting).await.ok()?;
        read_version(&greeting)
    }

    async fn look(&self, connection: &Connection) -> lapin::Result<Inspection> {
        let mut found = Inspection::default();
        let queues = Intake::ALL.map(|intake| self.topology.dispatch_queue(intake)).into_iter();
        for name in queues.chain([self.topology.dead()]) {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            // The broker closes the channel of a question it answers with no.
            let channel = connection.create_channel().await?;
            match channel.queue_declare(name.clone().into(), options, FieldTable::default()).await {
                Ok(queue) => found.queues.push(QueueDepth {
                    name,
                    messages: queue.message_count(),
                    consumers: queue.consumer_count(),
                }),
                Err(_) => found.missing.push(name),
            }
        }
        let exchanges = Intake::ALL.into_iter().flat_map(|intake| {
            [self.topology.events_exchange(intake), self.topology.ingest_exchange(intake)]
        });
        for name in exchanges.chain([self.topology.dead()]) {
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let channel = connection.create_channel().await?;
            let asked = channel.exchange_declare(
                name.clone().into(),
                ExchangeKind::Fanout,
                options,
                FieldTable::default(),
            );
            if asked.await.is_err() && !found.missing.contains(&name) {
                found.missing.push(name);
            }
        }
        if found.missing.is_empty() {
            // To declare what is there changes nothing, unless it is other than declared: then it fails.
            let declared = self.topology.declare(&connection.create_channel().await?).await;
            found.mismatch = declared.err().map(|error| error.to_string());
        }
        Ok(found)
    }
}

/// A table has for each entry the length of its name, the name, its type (`S`: text) and the value after its length.
fn read_version(greeting: &[u8]) -> Option<String> {
    const ENTRY: &[u8] = b"\x07versionS";
    let begin = greeting.windows(ENTRY.len()).position(|window| window == ENTRY)? + ENTRY.len();
    let (length, rest) = greeting.get(begin..)?.split_first_chunk()?;
    let text = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_greeting() {
        let greeting =
            b"\0\x0a\0\x0a\0\x09\0\0\0\x20\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8";
        assert_eq!(read_version(greeting).as_deref(), Some("3.10.8"));
        for bad in [&b""[..], b"\x07versionS", b"\x07versionS\0\0\0\x063.1", b"\x07versionI\0\0\0\x01"] {
            assert_eq!(read_version(bad), None);
        }
    }
}
