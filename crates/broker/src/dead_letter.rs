use std::time::Duration;

use domain::Backoff;
use lapin::Confirmation;
use lapin::options::BasicPublishOptions;
use lapin::protocol::basic::AMQPProperties;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::topology::short;
use crate::{BrokerConfig, Rejection};

const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
const PERSISTENT: u8 = 2;
/// Headers are short strings in places; nobody needs a longer sentence.
const MAX_DETAIL_BYTES: usize = 500;

/// Puts what could not be taken over into the dead-letter queue, with its reason.
pub struct DeadLetters {
    config: BrokerConfig,
    channel: Mutex<Option<(Connection, Channel)>>,
}

impl DeadLetters {
    /// Connects when there is something to put away, not before.
    pub fn new(config: BrokerConfig) -> Self {
        Self { config, channel: Mutex::new(None) }
    }

    /// Puts one away and returns when the broker has it, however long that takes: the original must not be acknowledged
    /// before. To give up, drop the future.
    pub async fn put(&self, rejection: &Rejection, exchange: &str, routing_key: &str) {
        let mut backoff = Backoff::default();
        loop {
            match self.try_put(rejection, exchange, routing_key).await {
                Ok(()) => return,
                Err(reason) => {
                    let wait = backoff.next(rand::random());
                    warn!(reason, wait_ms = wait.as_millis(), "a dead letter could not be put away");
                    sleep(wait).await;
                }
            }
        }
    }

    async fn try_put(&self, rejection: &Rejection, exchange: &str, routing_key: &str) -> Result<(), String> {
        let mut slot = self.channel.lock().await;
        let (connection, channel) = match slot.take() {
            Some(open) if open.0.status().connected() && open.1.status().connected() => open,
            _ => self.config.connect_to_publish("dead letters").await.map_err(|error| error.to_string())?,
        };
        let properties = AMQPProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_headers(headers(rejection, exchange, routing_key));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publish = async {
            channel
                .basic_publish(
                    short(self.config.topology.dead()),
                    "".into(),
                    options,
                    &rejection.body,
                    properties,
                )
                .await?
                .await
        };
        match timeout(CONFIRM_TIMEOUT, publish).await {
            Ok(Ok(Confirmation::Ack(None))) => {
                *slot = Some((connection, channel));
                Ok(())
            }
            Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested)) => {
                Err("the broker did not take it".to_owned())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the broker did not confirm in time".to_owned()),
        }
    }
}

fn headers(rejection: &Rejection, exchange: &str, routing_key: &str) -> FieldTable {
    let detail = &rejection.detail[..rejection.detail.floor_char_boundary(MAX_DETAIL_BYTES)];
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("postrider-reason", rejection.reason.code()),
        ("postrider-detail", detail),
        ("postrider-exchange", exchange),
        ("postrider-routing-key", routing_key),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    headers
}
