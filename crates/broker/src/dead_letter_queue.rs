//! The dead-letter queue as operators handle it: look, put back, throw away.

use std::time::Duration;

use bytes::Bytes;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::protocol::basic::AMQPProperties;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Confirmation, Connection};
use ring::digest::{SHA256, digest};
use tokio::time::timeout;

use crate::topology::short;
use crate::{BrokerConfig, Intake, Topology};

/// Most dead letters that are read at a time.
pub const MAX_DEAD_LETTERS: usize = 10_000;
/// Most bytes of them, unless a single one is larger.
const MAX_READ_BYTES: usize = 128 * 1024 * 1024;
/// How long the broker may take for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the digest that a dead letter is named by.
const ID_BYTES: usize = 6;
/// RabbitMQ 4 throws a message away that was returned to its queue 20 times. One that was looked at this often is put there
/// anew, which counts from the start.
const RETURNS_BEFORE_COPY: i64 = 10;
const RETURNS_HEADER: &str = "x-delivery-count";

/// The queue, as long as somebody has it open. What is read and neither replayed nor dropped is there again afterwards.
pub struct DeadLetterQueue {
    connection: Connection,
    channel: Channel,
    topology: Topology,
}

/// What could not be taken over.
#[derive(Debug)]
pub struct DeadLetter {
    /// Names it as long as it is there: made of its content, so that equal ones share it.
    pub id: String,
    /// Why it is here, as a code.
    pub reason: String,
    /// The same, in a sentence.
    pub detail: String,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// What was published.
    pub body: Bytes,
    tag: u64,
    returns: i64,
    properties: AMQPProperties,
}

/// What one reading came to.
#[derive(Debug)]
pub struct ReadLetters {
    /// The oldest of them.
    pub letters: Vec<DeadLetter>,
    /// How many are there besides.
    pub more: u32,
}

/// Why a step failed. The dead letters are where they were.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// No connection, or it was lost.
    #[error("the broker: {0}")]
    Broker(String),
    /// The broker did not answer in time.
    #[error("the broker did not answer within {} s", STEP_TIMEOUT.as_secs())]
    Timeout,
    /// The broker did not take what was to be replayed.
    #[error("the broker did not take it")]
    Refused,
    /// It was published to an exchange that is none of ours.
    #[error("it was published to the exchange {0:?}, which is none of Postrider's")]
    Foreign(String),
}

impl From<lapin::Error> for DeadLetterError {
    fn from(error: lapin::Error) -> Self {
        Self::Broker(error.to_string())
    }
}

impl DeadLetterQueue {
    /// Connects.
    pub async fn open(config: &BrokerConfig) -> Result<Self, DeadLetterError> {
        let connected = config.connect_to_publish("dead letters").await;
        let (connection, channel) = connected.map_err(|error| DeadLetterError::Broker(error.to_string()))?;
        Ok(Self { connection, channel, topology: config.topology.clone() })
    }

    /// The dead letters, the oldest first, as far as there is room for them: at most [`MAX_DEAD_LETTERS`].
    pub async fn read(&self) -> Result<ReadLetters, DeadLetterError> {
        let (mut letters, mut bytes, mut more) = (Vec::new(), 0, 0);
        while letters.len() < MAX_DEAD_LETTERS && bytes < MAX_READ_BYTES {
            let get = self.channel.basic_get(short(self.topology.dead()), BasicGetOptions::default());
            let Some(message) = in_time(get).await? else { break };
            more = message.message_count;
            bytes += message.data.len();
            letters.push(DeadLetter::of(message));
        }
        Ok(ReadLetters { letters, more })
    }

    /// Publishes it again where it came from, and takes it out once the broker has the copy. A dispatcher takes it over like
    /// any event; what was taken over before is known as a repeat.
    pub async fn replay(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        if !self.is_ours(&letter.exchange) {
            return Err(DeadLetterError::Foreign(letter.exchange.clone()));
        }
        let properties =
            AMQPProperties::default().with_content_type("application/json".into()).with_delivery_mode(2);
        self.publish(letter.exchange.clone(), letter, properties).await?;
        self.drop(letter).await
    }

    /// Takes it out for good.
    pub async fn drop(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        in_time(self.channel.basic_ack(letter.tag, BasicAckOptions::default())).await
    }

    /// Leaves these where they are, and goes.
    pub async fn close(self, left: &[DeadLetter]) -> Result<(), DeadLetterError> {
        for letter in left.iter().filter(|letter| letter.returns >= RETURNS_BEFORE_COPY) {
            let mut headers = letter.properties.headers().clone().unwrap_or_default().inner().clone();
            headers.remove(RETURNS_HEADER);
            let properties = letter.properties.clone().with_headers(FieldTable::from(headers));
            self.publish(self.topology.dead(), letter, properties).await?;
            self.drop(letter).await?;
        }
        in_time(self.connection.close(200, "done".into())).await
    }

    async fn publish(
        &self,
        exchange: String,
        letter: &DeadLetter,
        properties: AMQPProperties,
    ) -> Result<(), DeadLetterError> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let key = short(letter.routing_key.clone());
        let publish = self.channel.basic_publish(short(exchange), key, options, &letter.body, properties);
        match in_time(async { publish.await?.await }).await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(DeadLetterError::Refused)
            }
        }
    }

    fn is_ours(&self, exchange: &str) -> bool {
        Intake::ALL.into_iter().any(|intake| {
            exchange == self.topology.events_exchange(intake)
                || exchange == self.topology.ingest_exchange(intake)
        })
    }
}

impl DeadLetter {
    fn of(message: BasicGetMessage) -> Self {
        let delivery = message.delivery;
        let header = |name: &str| delivery.properties.headers().as_ref()?.inner().get(name);
        let text = |name: &str| Some(header(name)?.as_long_string()?.to_string());
        let returns = header(RETURNS_HEADER).and_then(AMQPValue::as_long_long_int);
        // RabbitMQ itself puts a message here that was returned too often, and says so in headers of its own.
        let reason = text("postrider-reason").or_else(|| text("x-first-death-reason"));
        let exchange = text("postrider-exchange").or_else(|| text("x-first-death-exchange"));
        let routing_key = text("postrider-routing-key").unwrap_or_else(|| delivery.routing_key.to_string());
        let (reason, exchange) = (reason.unwrap_or_default(), exchange.unwrap_or_default());
        let content =
            [reason.as_bytes(), exchange.as_bytes(), routing_key.as_bytes(), &delivery.data].join(&0);
        let id =
            digest(&SHA256, &content).as_ref()[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            id,
            reason,
            detail: text("postrider-detail").unwrap_or_default(),
            exchange,
            routing_key,
            tag: delivery.delivery_tag,
            returns: returns.unwrap_or_default(),
            body: delivery.data.into(),
            properties: delivery.properties,
        }
    }
}

async fn in_time<T>(step: impl Future<Output = lapin::Result<T>>) -> Result<T, DeadLetterError> {
    Ok(timeout(STEP_TIMEOUT, step).await.map_err(|_| DeadLetterError::Timeout)??)
}
