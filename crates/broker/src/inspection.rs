use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ExchangeKind};
use tokio::time::timeout;

use crate::{BrokerConfig, Intake};

/// How long the whole inspection may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What is found at the broker. Nothing is changed there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inspection {
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
            let inspection = self.look(&connection).await?;
            let _ = connection.close(200, "done".into()).await;
            Ok(inspection)
        };
        timeout(TIMEOUT, looked)
            .await
            .map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))?
            .map_err(|error: lapin::Error| error.to_string())
    }

    async fn look(&self, connection: &Connection) -> lapin::Result<Inspection> {
        let mut found = Inspection::default();
        let intakes = [Intake::Shared, Intake::InOrder];
        let queues = intakes.map(|intake| self.topology.dispatch_queue(intake)).into_iter();
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
        let exchanges = intakes.into_iter().flat_map(|intake| {
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
