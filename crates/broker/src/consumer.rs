use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Backoff, Event};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::acknowledgement::{Acknowledgement, Acknowledgements};
use crate::topology::short;
use crate::wire::{Decoded, decode_message, published_at};
use crate::{BrokerConfig, Intake, Rejection};

const CONSUMER_TAG: &str = "dispatcher";
/// How often the connection is looked at while no message comes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often everything is declared again. Where services' exchange was deleted nobody else would notice: the gateway
/// publishes to another, and consuming goes on.
const DECLARE_INTERVAL: Duration = Duration::from_secs(20);
/// How long that may take.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most messages that are acknowledged at one time.
const MAX_ACKS: usize = 256;
/// How long the broker may take to stop sending.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Receives messages from a dispatch queue, over as many connections as it takes.
pub struct Consumer {
    messages: mpsc::Receiver<Message>,
    ready: watch::Receiver<bool>,
}

/// One message and the events it held. Unless it is acknowledged, the broker delivers it again.
#[derive(Debug)]
pub struct Message {
    /// Valid events.
    pub events: Vec<Event>,
    /// What is to go to the dead letters.
    pub rejections: Vec<Rejection>,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Whether the gateway published it, which knows its tenants.
    pub from_gateway: bool,
    /// When it was published, as its publisher says, if it does.
    pub published_at: Option<DateTime<Utc>>,
    tag: u64,
    acks: mpsc::UnboundedSender<u64>,
}

impl Message {
    /// Tells the broker that the message is done with. Where its connection is lost by now the broker delivers it again,
    /// and the hand-over knows it as a repeat.
    pub fn ack(self) {
        let _ = self.acks.send(self.tag);
    }
}

impl Consumer {
    /// Starts consuming, with at most `prefetch` messages that are not acknowledged. After `stop` no more messages come;
    /// the connection stays until `done`, for the last acknowledgements.
    pub fn start(
        config: BrokerConfig,
        intake: Intake,
        prefetch: u16,
        stop: CancellationToken,
        done: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (sender, messages) = mpsc::channel(usize::from(prefetch));
        let (ready_sender, ready) = watch::channel(false);
        let task =
            ConsumeTask { config, intake, prefetch, messages: sender, ready: ready_sender, stop, done };
        (Self { messages, ready }, tokio::spawn(task.run()))
    }

    /// The next message; `None` when consuming has ended for good.
    pub async fn receive(&mut self) -> Option<Message> {
        self.messages.recv().await
    }

    /// A message that is here already.
    pub fn try_receive(&mut self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// Follows whether messages can come at the moment.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }
}

struct ConsumeTask {
    config: BrokerConfig,
    intake: Intake,
    prefetch: u16,
    messages: mpsc::Sender<Message>,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
    done: CancellationToken,
}

impl ConsumeTask {
    async fn run(self) {
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            let reason = match self.config.connect("consumer").await {
                Ok((connection, channel)) => {
                    let ended = self.consume_on(&connection, &channel, &mut backoff).await;
                    self.ready.send_replace(false);
                    self.config.metrics.forget_queues();
                    let _ = timeout(CANCEL_TIMEOUT, connection.close(200, "done".into())).await;
                    match ended {
                        Ok(()) => return,
                        Err(reason) => reason,
                    }
                }
                Err(error) => error.to_string(),
            };
            let wait = backoff.next(rand::random());
            warn!(reason, wait_ms = wait.as_millis(), "not consuming from the broker");
            tokio::select! {
                () = sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Consumes until told to stop (`Ok`) or until the connection, the channel or the consumer is lost. The end of the
    /// stream is a fault like any other: the broker has cancelled the consumer.
    async fn consume_on(
        &self,
        connection: &Connection,
        channel: &Channel,
        backoff: &mut Backoff,
    ) -> Result<(), String> {
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await.map_err(text)?;
        let queue = short(self.config.topology.dispatch_queue(self.intake));
        let options = BasicConsumeOptions::default();
        let mut deliveries = channel
            .basic_consume(queue, CONSUMER_TAG.into(), options, FieldTable::default())
            .await
            .map_err(text)?;
        info!(intake = ?self.intake, "consuming from the broker");
        backoff.reset();
        self.ready.send_replace(true);
        // Acknowledgements of an earlier connection would name the wrong messages, so each has a channel of its own.
        let (acks, mut to_ack) = mpsc::unbounded_channel();
        let (mut acknowledgements, mut tags) = (Acknowledgements::default(), Vec::with_capacity(MAX_ACKS));
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut declare = interval_at(Instant::now() + DECLARE_INTERVAL, DECLARE_INTERVAL);
        declare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                1.. = to_ack.recv_many(&mut tags, MAX_ACKS) => {
                    acknowledge(channel, &acknowledgements.of(&tags)).await?;
                    tags.clear();
                }
                () = self.done.cancelled() => return Ok(()),
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    let cancel = channel.basic_cancel(CONSUMER_TAG.into(), BasicCancelOptions::default());
                    let _ = timeout(CANCEL_TIMEOUT, cancel).await;
                }
                delivery = deliveries.next(), if !stopping => match delivery {
                    Some(Ok(delivery)) => {
                        // There is room for every message the broker sends unacknowledged, so this never waits long.
                        let message = self.read(delivery, &acks);
                        if self.messages.send(message).await.is_err() {
                            return Ok(());
                        }
                    }
                    Some(Err(error)) => return Err(text(error)),
                    None => return Err("the broker cancelled the consumer".to_owned()),
                },
                _ = declare.tick(), if !stopping => {
                    let declared = timeout(DECLARE_TIMEOUT, self.config.declare(channel)).await;
                    declared.map_err(|_| "the broker does not answer".to_owned())?.map_err(text)?;
                }
                _ = check.tick() => {
                    if !connection.status().connected() || !channel.status().connected() {
                        return Err("the connection was closed".to_owned());
                    }
                }
            }
        }
    }

    fn read(&self, delivery: Delivery, acks: &mpsc::UnboundedSender<u64>) -> Message {
        let exchange = delivery.exchange.to_string();
        let routing_key = delivery.routing_key.to_string();
        let from_gateway = exchange == self.config.topology.ingest_exchange(self.intake);
        let key = (!from_gateway).then_some(routing_key.as_str());
        let Decoded { events, rejections } = decode_message(&delivery.data, &delivery.properties, key);
        let published_at = published_at(&delivery.properties);
        let (tag, acks) = (delivery.delivery_tag, acks.clone());
        Message { events, rejections, exchange, routing_key, from_gateway, published_at, tag, acks }
    }
}

async fn acknowledge(channel: &Channel, acknowledgements: &[Acknowledgement]) -> Result<(), String> {
    for Acknowledgement { tag, multiple } in acknowledgements {
        channel.basic_ack(*tag, BasicAckOptions { multiple: *multiple }).await.map_err(text)?;
    }
    Ok(())
}

fn text(error: lapin::Error) -> String {
    error.to_string()
}
