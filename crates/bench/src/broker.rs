//! RabbitMQ, as an internal service sees it: publishing by the queue contract, and the length of the queue.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::protocol::basic::AMQPProperties;
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection, ConnectionProperties};
use uuid::Uuid;

use crate::load::{Accepted, Published, Sequence};
use crate::payload::{EVENT_TYPE, ID_DIGITS, Template, data_field, now_micros};

const EXCHANGE: &str = "postrider.events";
const QUEUE: &str = "postrider.dispatch";
const PERSISTENT: u8 = 2;

/// A connection.
pub(crate) struct Broker {
    connection: Connection,
    channel: Channel,
}

impl Broker {
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .context("cannot connect to RabbitMQ")?;
        let channel = connection.create_channel().await?;
        Ok(Self { connection, channel })
    }

    /// Messages in the dispatchers' queue that are not on their way to one.
    pub(crate) async fn ready_messages(&self) -> anyhow::Result<u32> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(QUEUE.into(), options, FieldTable::default()).await?;
        Ok(queue.message_count())
    }

    /// Publishes on a channel of its own until the time is over or `most` events are out, with so many messages
    /// outstanding at a time.
    pub(crate) async fn publish(&self, publishing: Publishing) -> anyhow::Result<Published> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        publishing.run(&channel).await
    }
}

/// A stream of messages.
#[derive(Clone)]
pub(crate) struct Publishing {
    /// Whose events they are, in turn.
    pub(crate) tenants: Vec<Uuid>,
    /// Events in a message.
    pub(crate) events_per_message: usize,
    /// Messages whose confirm is awaited at a time.
    pub(crate) outstanding: usize,
    pub(crate) duration: Duration,
    /// The most events.
    pub(crate) most: usize,
    pub(crate) sequence: Sequence,
}

impl Publishing {
    async fn run(self, channel: &Channel) -> anyhow::Result<Published> {
        let mut messages = self.messages()?;
        let mut published = Published { began: now_micros(), ..Published::default() };
        let until = published.began + u64::try_from(self.duration.as_micros())?;
        let mut confirms = FuturesOrdered::new();
        let (mut sent, mut next) = (0, 0);
        loop {
            let now = now_micros();
            let goes_on = now < until && sent < self.most;
            if goes_on && confirms.len() < self.outstanding {
                let turn = next % messages.len();
                next += 1;
                let message = &mut messages[turn];
                let events = message.events();
                let first = self.sequence.fetch_add(u32::try_from(events)?, Ordering::Relaxed);
                let confirm = publish(channel, message.stamp(now, first)).await?;
                sent += events;
                confirms.push_back(async move { (first, events, confirm.await) });
                continue;
            }
            let Some((first, events, confirmation)) = confirms.next().await else { break };
            ensure!(
                matches!(confirmation, Ok(Confirmation::Ack(None))),
                "RabbitMQ did not take a message: {confirmation:?}"
            );
            let at = now_micros();
            published.accepted.extend((first..).take(events).map(|sequence| Accepted { sequence, at }));
        }
        published.ended = now_micros();
        Ok(published)
    }

    /// As many different messages as it takes for each tenant to have its turn.
    fn messages(&self) -> anyhow::Result<Vec<Template>> {
        if self.tenants.is_empty() || self.events_per_message == 0 || self.outstanding == 0 {
            bail!(
                "a message has at least one event, of at least one tenant, and at least one is outstanding"
            );
        }
        let mut tenants = self.tenants.iter().cycle();
        let count = self.tenants.len().div_ceil(self.events_per_message);
        let message = |_| {
            let events: Vec<String> = tenants.by_ref().take(self.events_per_message).map(event_of).collect();
            match events.as_slice() {
                [event] => Template::new(event.clone().into_bytes()),
                events => Template::new(format!("[{}]", events.join(",")).into_bytes()),
            }
        };
        (0..count).map(message).collect()
    }
}

fn event_of(tenant: &Uuid) -> String {
    format!(
        "{{\"id\":\"amqp-{ID_DIGITS}\",\"tenantId\":\"{tenant}\",\"type\":\"{EVENT_TYPE}\",\"occurredAt\":\"2026-01-01T00:00:00Z\",{}}}",
        data_field()
    )
}

async fn publish(channel: &Channel, message: &[u8]) -> lapin::Result<lapin::PublisherConfirm> {
    let properties =
        AMQPProperties::default().with_content_type("application/json".into()).with_delivery_mode(PERSISTENT);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish(EXCHANGE.into(), EVENT_TYPE.into(), options, message, properties).await
}
