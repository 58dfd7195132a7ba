use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use crate::metrics::Queue;

/// The names of the exchanges and queues. All begin with one prefix, so that installations can share a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
}

/// Which way events take to the dispatchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// All dispatchers share them: the way of most events.
    Shared,
    /// They reach one dispatcher at a time, in the order in which they were accepted: the way of events that some webhook
    /// wants in order.
    InOrder,
}

impl Intake {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Shared, Self::InOrder];
}

/// What the broker says of a queue.
pub(crate) struct Depth {
    pub(crate) queue: Queue,
    /// Messages that are ready for a consumer.
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

impl Depth {
    fn new(queue: Queue, declared: &lapin::Queue) -> Self {
        Self { queue, messages: declared.message_count(), consumers: declared.consumer_count() }
    }
}

/// Redeliveries before RabbitMQ gives a message up. RabbitMQ 4 does so after 20 unless told otherwise, which a
/// dispatcher that is killed often enough would reach; 3.x never does, and knows no way to say "never" in both.
const DELIVERY_LIMIT: i32 = 1_000_000;

impl Topology {
    /// Names that begin with `prefix`; `postrider` gives the documented ones.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The exchange that internal services publish events to; the routing key is the event type.
    pub fn events_exchange(&self, intake: Intake) -> String {
        self.name("events", intake)
    }

    /// The exchange that the gateway publishes to. Clients' routing keys never reach it.
    pub fn ingest_exchange(&self, intake: Intake) -> String {
        self.name("ingest", intake)
    }

    /// The queue that dispatchers consume.
    pub fn dispatch_queue(&self, intake: Intake) -> String {
        self.name("dispatch", intake)
    }

    fn name(&self, what: &str, intake: Intake) -> String {
        let suffix = match intake {
            Intake::Shared => "",
            Intake::InOrder => ".ordered",
        };
        format!("{}.{what}{suffix}", self.prefix)
    }

    /// The exchange, and the queue behind it, of what could not be taken over.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// The exchange of what happens to webhooks and deliveries themselves; the routing key is the event type.
    pub fn domain_exchange(&self) -> String {
        format!("{}.domain", self.prefix)
    }

    /// Declares everything, and gives what the broker says of the queues. What is there already stays as it is.
    pub(crate) async fn declare(&self, channel: &Channel) -> lapin::Result<[Depth; 3]> {
        let dead = short(self.dead());
        exchange(channel, &dead, ExchangeKind::Fanout, FieldTable::default()).await?;
        let dead_letters = queue(channel, &dead, FieldTable::default()).await?;
        bind(channel, &dead, &dead, "").await?;
        exchange(channel, &short(self.domain_exchange()), ExchangeKind::Topic, FieldTable::default()).await?;
        let shared = self.declare_intake(channel, Intake::Shared, &dead).await?;
        let in_order = self.declare_intake(channel, Intake::InOrder, &dead).await?;
        Ok([
            Depth::new(Queue::Dispatch, &shared),
            Depth::new(Queue::DispatchOrdered, &in_order),
            Depth::new(Queue::Dead, &dead_letters),
        ])
    }

    /// Looks that everything is there which the gateway publishes to or watches, which takes no rights but to be let in.
    pub(crate) async fn find(&self, channel: &Channel) -> lapin::Result<[Depth; 3]> {
        for intake in Intake::ALL {
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let name = short(self.ingest_exchange(intake));
            channel.exchange_declare(name, ExchangeKind::Fanout, options, FieldTable::default()).await?;
        }
        let find = async |name: String| {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(short(name), options, FieldTable::default()).await
        };
        Ok([
            Depth::new(Queue::Dispatch, &find(self.dispatch_queue(Intake::Shared)).await?),
            Depth::new(Queue::DispatchOrdered, &find(self.dispatch_queue(Intake::InOrder)).await?),
            Depth::new(Queue::Dead, &find(self.dead()).await?),
        ])
    }

    async fn declare_intake(
        &self,
        channel: &Channel,
        intake: Intake,
        dead: &ShortString,
    ) -> lapin::Result<lapin::Queue> {
        let dispatch = short(self.dispatch_queue(intake));
        let (events, ingest) = (short(self.events_exchange(intake)), short(self.ingest_exchange(intake)));

        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), text(dead));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        if intake == Intake::InOrder {
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        let declared = queue(channel, &dispatch, arguments).await?;
        exchange(channel, &ingest, ExchangeKind::Fanout, FieldTable::default()).await?;
        bind(channel, &dispatch, &ingest, INGEST_KEY).await?;

        // What its own bindings do not route takes the gateway's way. So nothing that services publish is unroutable,
        // not even in the moment before the binding below is there.
        let mut arguments = FieldTable::default();
        arguments.insert("alternate-exchange".into(), text(&ingest));
        exchange(channel, &events, ExchangeKind::Topic, arguments).await?;
        bind(channel, &dispatch, &events, "#").await?;
        Ok(declared)
    }
}

/// The routing key of what the gateway publishes.
pub(crate) const INGEST_KEY: &str = "event";

pub(crate) fn short(name: String) -> ShortString {
    name.into()
}

fn text(name: &ShortString) -> AMQPValue {
    AMQPValue::LongString(name.as_str().into())
}

async fn exchange(
    channel: &Channel,
    name: &ShortString,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.clone(), kind, options, arguments).await
}

async fn queue(
    channel: &Channel,
    name: &ShortString,
    mut arguments: FieldTable,
) -> lapin::Result<lapin::Queue> {
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.clone(), options, arguments).await
}

async fn bind(
    channel: &Channel,
    queue: &ShortString,
    exchange: &ShortString,
    key: &str,
) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel.queue_bind(queue.clone(), exchange.clone(), key.into(), options, FieldTable::default()).await
}
