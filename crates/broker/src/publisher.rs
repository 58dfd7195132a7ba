use std::sync::Arc;
use std::time::Duration;

use domain::Backoff;
use futures_util::stream::{FuturesOrdered, StreamExt};
use instruments::{Label, Labels};
use lapin::options::BasicPublishOptions;
use lapin::protocol::basic::AMQPProperties;
use lapin::{Channel, Confirmation, Connection, PublisherConfirm};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::answering::{self, Caller};
use crate::metrics::Blocked;
use crate::pacing::{ENOUGH, Pacing};
use crate::parcel::Parcel;
use crate::topology::{INGEST_KEY, short};
use crate::wire::published_now;
use crate::{BrokerConfig, Intake};

/// Most events that travel together in one message.
const MAX_COALESCED_EVENTS: usize = 64;
/// Most bytes of events that travel together, unless a single event is larger.
const MAX_COALESCED_BYTES: usize = 256 * 1024;
/// Most parcels that wait for their confirm in one process.
const MAX_WAITING_PARCELS: usize = 8192;
/// Most bytes of events that wait for their confirm in one process.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// How often the connection is looked at while nothing is published.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The broker's persistent delivery mode.
const PERSISTENT: u8 = 2;

/// Publishes events, and says of each when the broker has it.
///
/// A task of its own owns the connection. Events that arrive while a publish is outstanding, or shortly after one with many,
/// travel together in the next message; a lone one is sent at once.
#[derive(Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    /// Told when requests enough for a message wait.
    enough: Arc<Notify>,
    budget: Arc<Semaphore>,
    timeout: Duration,
    ready: watch::Receiver<bool>,
}

/// Why an event was not accepted. It may have reached the broker all the same: publish it again under the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No confirm came in time.
    #[error("the broker did not confirm in time")]
    Timeout,
    /// Too much waits for its confirm already.
    #[error("too many events wait for the broker")]
    Overloaded,
    /// The broker refused it, or no queue took it.
    #[error("the broker did not take the event")]
    Refused,
    /// The connection broke before the confirm.
    #[error("the connection to the broker broke")]
    Disconnected,
}

impl PublishError {
    /// The reason in a word.
    pub fn code(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Refused => "refused",
            Self::Disconnected => "disconnected",
        }
    }
}

impl Label for PublishError {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::Timeout, &[("reason", "timeout")]),
        (Self::Overloaded, &[("reason", "overloaded")]),
        (Self::Refused, &[("reason", "refused")]),
        (Self::Disconnected, &[("reason", "disconnected")]),
    ];
}

struct Request {
    parcel: Parcel,
    caller: Caller,
    _budget: OwnedSemaphorePermit,
}

impl Publisher {
    /// Starts the task. It connects by itself, and ends after `stop` once what was asked of it is answered.
    pub fn start(
        config: BrokerConfig,
        intake: Intake,
        timeout: Duration,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING_PARCELS);
        let enough = Arc::new(Notify::new());
        let (ready_sender, ready) = watch::channel(false);
        let task = PublishTask {
            config,
            intake,
            confirm_timeout: timeout,
            requests: receiver,
            enough: Arc::clone(&enough),
            ready: ready_sender,
            stop,
            message: Vec::new(),
        };
        let budget = Arc::new(Semaphore::new(MAX_WAITING_BYTES));
        (Self { requests, enough, budget, timeout, ready }, tokio::spawn(task.run()))
    }

    /// Publishes the events of a parcel in one message, and returns when the broker has them on disk.
    pub async fn publish(&self, parcel: Parcel) -> Result<(), PublishError> {
        let bytes = u32::try_from(parcel.json.len()).map_err(|_| PublishError::Overloaded)?;
        let budget =
            self.budget.clone().try_acquire_many_owned(bytes).map_err(|_| PublishError::Overloaded)?;
        let (caller, answer) = Caller::new();
        let request = Request { parcel, caller, _budget: budget };
        self.requests.try_send(request).map_err(|_| PublishError::Overloaded)?;
        if self.requests.max_capacity() - self.requests.capacity() >= ENOUGH {
            self.enough.notify_one();
        }
        match timeout(self.timeout, answer).await {
            Err(_) => Err(PublishError::Timeout),
            Ok(Err(_)) => Err(PublishError::Disconnected),
            Ok(Ok(answer)) => answer.result,
        }
    }

    /// Whether the broker can be published to at the moment.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }
}

struct PublishTask {
    config: BrokerConfig,
    intake: Intake,
    confirm_timeout: Duration,
    requests: mpsc::Receiver<Request>,
    enough: Arc<Notify>,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
    /// The last message, for the memory it has.
    message: Vec<u8>,
}

/// A message of what waited, and who waits for its confirm.
struct Coalesced {
    message: Vec<u8>,
    callers: Vec<Caller>,
    events: usize,
    is_full: bool,
}

/// Why publishing on one connection ended.
enum Ended {
    Stopped,
    Lost(String),
}

impl PublishTask {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let ended = match self.config.connect_to_publish("publisher").await {
                Ok((connection, channel)) => {
                    info!("connected to the broker for publishing");
                    backoff.reset();
                    self.ready.send_replace(true);
                    let ended = self.publish_on(&connection, &channel).await;
                    self.ready.send_replace(false);
                    let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())).await;
                    ended
                }
                Err(error) => Ended::Lost(error.to_string()),
            };
            match ended {
                Ended::Stopped => return,
                Ended::Lost(reason) if self.stop.is_cancelled() => {
                    info!(reason, "stopping without a connection to the broker");
                    return;
                }
                Ended::Lost(reason) => {
                    let wait = backoff.next(rand::random());
                    warn!(reason, wait_ms = wait.as_millis(), "no connection to the broker for publishing");
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
            }
        }
    }

    async fn publish_on(&mut self, connection: &Connection, channel: &Channel) -> Ended {
        let mut outstanding = FuturesOrdered::new();
        let mut pacing = Pacing::default();
        let mut blocked = Blocked::new(&self.config.metrics);
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping = false;
        loop {
            if stopping && outstanding.is_empty() {
                return Ended::Stopped;
            }
            tokio::select! {
                Some(confirmed) = outstanding.next(), if !outstanding.is_empty() => {
                    if let Err(reason) = settle(confirmed, &mut outstanding) {
                        return Ended::Lost(reason);
                    }
                }
                () = pacing.pause(), if pacing.is_pausing() => {}
                () = self.enough.notified(), if pacing.is_pausing() => pacing.there_wait(self.requests.len()),
                request = self.requests.recv(), if pacing.is_open(outstanding.len()) => {
                    let Some(first) = request else { stopping = true; continue };
                    if first.caller.has_given_up() {
                        continue; // its caller has given up; sending it would surprise
                    }
                    if connection.status().blocked() {
                        // Frames would pile up in memory: the broker takes none until its alarm ends.
                        answering::answer(vec![first.caller], Err(PublishError::Refused));
                        continue;
                    }
                    let Coalesced { message, callers, events, is_full } = self.coalesce(first);
                    let sent = self.send(channel, &message).await;
                    self.message = message;
                    pacing.sent(events, is_full);
                    match sent {
                        Ok(confirm) => {
                            let limit = self.confirm_timeout;
                            outstanding.push_back(async move { (timeout(limit, confirm).await, callers) });
                        }
                        Err(error) => {
                            answering::answer(callers, Err(PublishError::Disconnected));
                            return Ended::Lost(error.to_string());
                        }
                    }
                }
                () = self.stop.cancelled(), if !self.requests.is_closed() => self.requests.close(),
                _ = check.tick() => blocked.set(connection.status().blocked()),
            }
            if !connection.status().connected() {
                return Ended::Lost("the connection was closed".to_owned());
            }
        }
    }

    /// Takes the events that wait at this moment, up to the limits, into one message.
    fn coalesce(&mut self, first: Request) -> Coalesced {
        let mut events = first.parcel.events;
        let mut callers = vec![first.caller];
        let mut message = std::mem::take(&mut self.message);
        message.clear();
        message.extend_from_slice(b"[");
        message.extend_from_slice(&first.parcel.json);
        let is_full =
            |events: usize, bytes: usize| events >= MAX_COALESCED_EVENTS || bytes >= MAX_COALESCED_BYTES;
        while !is_full(events, message.len()) {
            let Ok(request) = self.requests.try_recv() else { break };
            if request.caller.has_given_up() {
                continue; // its caller has given up; sending it would surprise
            }
            events += request.parcel.events;
            message.extend_from_slice(b",");
            message.extend_from_slice(&request.parcel.json);
            callers.push(request.caller);
        }
        message.extend_from_slice(b"]");
        let is_full = is_full(events, message.len());
        Coalesced { message, callers, events, is_full }
    }

    async fn send(&self, channel: &Channel, message: &[u8]) -> lapin::Result<PublisherConfirm> {
        let properties = AMQPProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_headers(published_now());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let exchange = short(self.config.topology.ingest_exchange(self.intake));
        self.config.metrics.published.inc();
        channel.basic_publish(exchange, INGEST_KEY.into(), options, message, properties).await
    }
}

type Confirmed = (Result<lapin::Result<Confirmation>, Elapsed>, Vec<Caller>);

/// Answers what a confirm settles. Any refusal is an error, and so ends the connection: the next one declares the
/// topology again, and lapin can attach a returned message to the confirm of a neighbour, so everything that is not yet
/// answered counts as refused with it.
fn settle<F>(first: Confirmed, outstanding: &mut FuturesOrdered<F>) -> Result<(), String>
where
    F: Future<Output = Confirmed>,
{
    use futures_util::FutureExt as _;
    let mut settled = vec![first];
    while let Some(Some(next)) = outstanding.next().now_or_never() {
        settled.push(next);
    }
    let fault = settled.iter().find_map(|(confirmation, _)| match confirmation {
        Ok(Ok(Confirmation::Ack(None))) => None,
        Ok(Ok(Confirmation::Ack(Some(_)))) => Some("a message was returned: no queue took it".to_owned()),
        Ok(Ok(Confirmation::Nack(_))) => Some("a message was refused".to_owned()),
        Ok(Ok(Confirmation::NotRequested)) => Some("the channel does not confirm".to_owned()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("a confirm did not come in time".to_owned()),
    });
    let result = if fault.is_none() { Ok(()) } else { Err(PublishError::Refused) };
    for (_, callers) in settled {
        answering::answer(callers, result);
    }
    // Those still outstanding are dropped with the connection, which tells their callers.
    fault.map_or(Ok(()), Err)
}
