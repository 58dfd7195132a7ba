use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

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

    /// Declares everything. What is there already stays as it is.
    pub(crate) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        let dead = short(self.dead());
        exchange(channel, &dead, ExchangeKind::Fanout, FieldTable::default()).await?;
        queue(channel, &dead, FieldTable::default()).await?;
        bind(channel, &dead, &dead, "").await?;
        for intake in [Intake::Shared, Intake::InOrder] {
            self.declare_intake(channel, intake, &dead).await?;
        }
        Ok(())
    }

    async fn declare_intake(
        &self,
        channel: &Channel,
        intake: Intake,
        dead: &ShortString,
    ) -> lapin::Result<()> {
        let dispatch = short(self.dispatch_queue(intake));
        let (events, ingest) = (short(self.events_exchange(intake)), short(self.ingest_exchange(intake)));

        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), text(dead));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        if intake == Intake::InOrder {
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        queue(channel, &dispatch, arguments).await?;
        exchange(channel, &ingest, ExchangeKind::Fanout, FieldTable::default()).await?;
        bind(channel, &dispatch, &ingest, INGEST_KEY).await?;

        // What its own bindings do not route takes the gateway's way. So nothing that services publish is unroutable,
        // not even in the moment before the binding below is there.
        let mut arguments = FieldTable::default();
        arguments.insert("alternate-exchange".into(), text(&ingest));
        exchange(channel, &events, ExchangeKind::Topic, arguments).await?;
        bind(channel, &dispatch, &events, "#").await
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

async fn queue(channel: &Channel, name: &ShortString, mut arguments: FieldTable) -> lapin::Result<()> {
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.clone(), options, arguments).await.map(|_| ())
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
