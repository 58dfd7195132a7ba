use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amq_protocol::protocol::basic::AMQPProperties;
use domain::Backoff;
use instruments::{Label, Labels};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Counted;
use crate::pacing::Pacing;
use crate::parcel::Parcel;
use crate::publishing_connection::{Confirm, PublishingConnection};
use crate::topology::INGEST_KEY;
use crate::wire::published_now;
use crate::{BrokerConfig, Intake};

/// Most events that travel together in one message.
const MAX_COALESCED_EVENTS: usize = 64;
/// Most bytes of events that travel together, unless a single event is larger.
const MAX_COALESCED_BYTES: usize = 256 * 1024;
/// Most parcels that wait for their confirm in one publisher.
const MAX_WAITING_PARCELS: usize = 8192;
/// Most bytes of events that wait for their confirm in one process.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// How often heartbeats, and confirms that do not come, are looked after.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long connections may take to close, and to be without work before.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a publisher that is told to stop has to be without work before its connection closes.
const IDLE: Duration = Duration::from_millis(50);
/// The same for a connection that was opened after that: where one was needed after all, another event may follow.
const LONG_IDLE: Duration = Duration::from_millis(500);
/// The broker's persistent delivery mode.
const PERSISTENT: u8 = 2;

/// What the publishers of a process have in common. Cheap to clone.
#[derive(Clone)]
pub struct Publishers {
    config: BrokerConfig,
    timeout: Duration,
    budget: Arc<Semaphore>,
    /// So many there will be.
    expected: i64,
    connected: Gauge,
    stop: CancellationToken,
}

/// Publishes events, and says of each when the broker has it.
///
/// A task of its own owns the connection. Events that arrive while a publish is outstanding, or shortly after one with many,
/// travel together in the next message; a lone one is sent at once.
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    /// So many requests that wait are enough for a message, and its task is told.
    enough: Arc<AtomicUsize>,
    there_are_enough: Arc<Notify>,
    budget: Arc<Semaphore>,
    timeout: Duration,
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

/// Who is to hear what became of a parcel.
type Caller = oneshot::Sender<Result<(), PublishError>>;
type Answer = oneshot::Receiver<Result<(), PublishError>>;

impl Publishers {
    /// None yet, of so many. Each waits for a confirm so long.
    pub fn new(config: BrokerConfig, timeout: Duration, expected: usize) -> Self {
        let expected = i64::try_from(expected).unwrap_or(i64::MAX);
        let budget = Arc::new(Semaphore::new(MAX_WAITING_BYTES));
        let (connected, stop) = (Gauge::default(), CancellationToken::new());
        Self { config, timeout, budget, expected, connected, stop }
    }

    /// Starts one on this thread's runtime. It connects by itself, and ends when nobody can ask anything of it any more and all
    /// that was asked is answered. Where its callers run on the same thread, nothing has to change threads between them and
    /// the broker.
    pub fn start(&self, intake: Intake) -> Publisher {
        let (requests, receiver) = mpsc::channel(MAX_WAITING_PARCELS);
        let (enough, there_are_enough) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::default());
        let task = PublishTask {
            config: self.config.clone(),
            intake,
            confirm_timeout: self.timeout,
            requests: receiver,
            enough: Arc::clone(&enough),
            there_are_enough: Arc::clone(&there_are_enough),
            connected: Counted::new(&self.connected),
            stop: self.stop.clone(),
            message: Vec::new(),
        };
        tokio::spawn(task.run());
        let (budget, timeout) = (Arc::clone(&self.budget), self.timeout);
        Publisher { requests, enough, there_are_enough, budget, timeout }
    }

    /// Whether the broker can be published to at the moment, by all of them.
    pub fn are_ready(&self) -> bool {
        self.connected.get() == self.expected
    }

    /// Closes the connection of each that has nothing to do, now or later, and waits a while for those that have. To be called
    /// before their threads end, which could not say goodbye to the broker properly. What is published all the same connects anew.
    pub async fn close(&self) {
        self.stop.cancel();
        let closing = async {
            while self.connected.get() > 0 {
                sleep(IDLE / 10).await;
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

impl Publisher {
    /// Publishes the events of a parcel in one message, and returns when the broker has them on disk.
    pub async fn publish(&self, parcel: Parcel) -> Result<(), PublishError> {
        match timeout(self.timeout, self.ask(parcel)?).await {
            Err(_) => Err(PublishError::Timeout),
            Ok(Err(_)) => Err(PublishError::Disconnected),
            Ok(Ok(result)) => result,
        }
    }

    /// Hands a parcel to the task, which will answer.
    fn ask(&self, parcel: Parcel) -> Result<Answer, PublishError> {
        let bytes = u32::try_from(parcel.json.len()).map_err(|_| PublishError::Overloaded)?;
        let budget =
            self.budget.clone().try_acquire_many_owned(bytes).map_err(|_| PublishError::Overloaded)?;
        let (caller, answer) = oneshot::channel();
        let request = Request { parcel, caller, _budget: budget };
        self.requests.try_send(request).map_err(|_| PublishError::Overloaded)?;
        let waiting = self.requests.max_capacity() - self.requests.capacity();
        if waiting >= self.enough.load(Ordering::Relaxed) {
            self.there_are_enough.notify_one();
        }
        Ok(answer)
    }
}

struct PublishTask {
    config: BrokerConfig,
    intake: Intake,
    confirm_timeout: Duration,
    requests: mpsc::Receiver<Request>,
    enough: Arc<AtomicUsize>,
    there_are_enough: Arc<Notify>,
    connected: Counted,
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

/// A message whose confirm is awaited.
struct Outstanding {
    tag: u64,
    until: Instant,
    callers: Vec<Caller>,
}

/// Why publishing on one connection ended.
enum Ended {
    Stopped,
    Lost(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl PublishTask {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        while !(self.requests.is_closed() && self.requests.is_empty()) {
            if self.stop.is_cancelled() && self.requests.is_empty() {
                sleep(IDLE / 10).await;
                continue;
            }
            let reason = match self.config.connect_publishing("publisher").await {
                Ok(mut connection) => {
                    info!(intake = ?self.intake, "connected to the broker for publishing");
                    self.connected.set(true);
                    let Err(ended) = self.publish_on(&mut connection, &mut backoff).await;
                    self.enough.store(usize::MAX, Ordering::Relaxed);
                    if matches!(ended, Ended::Stopped) {
                        let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
                    }
                    self.connected.set(false);
                    match ended {
                        Ended::Stopped => continue,
                        Ended::Lost(reason) => reason,
                    }
                }
                Err(error) => error.to_string(),
            };
            let wait = backoff.next(rand::random());
            warn!(reason, wait_ms = wait.as_millis(), "no connection to the broker for publishing");
            sleep(wait).await;
        }
    }

    async fn publish_on(
        &mut self,
        connection: &mut PublishingConnection,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Ended> {
        let mut outstanding = VecDeque::new();
        let mut pacing = Pacing::default();
        let mut blocked = Counted::new(&self.config.metrics.blocked);
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping = false;
        let idle = if self.stop.is_cancelled() { LONG_IDLE } else { IDLE };
        loop {
            if stopping && outstanding.is_empty() {
                return Err(Ended::Stopped);
            }
            tokio::select! {
                confirm = connection.next_confirm() => {
                    settle(confirm?, &mut outstanding)?;
                    backoff.reset();
                    pacing.confirmed(self.requests.len());
                    self.enough.store(pacing.enough(), Ordering::Relaxed);
                }
                () = idle_after(&self.stop, idle), if outstanding.is_empty() => return Err(Ended::Stopped),
                () = pacing.pause(), if pacing.is_pausing() => {}
                () = self.there_are_enough.notified(), if pacing.is_pausing() => pacing.there_wait(self.requests.len()),
                request = self.requests.recv(), if !stopping && pacing.is_open(outstanding.len()) => {
                    self.enough.store(usize::MAX, Ordering::Relaxed);
                    let Some(first) = request else { stopping = true; continue };
                    if first.caller.is_closed() {
                        continue; // its caller has given up; sending it would surprise
                    }
                    if connection.is_blocked() {
                        // Frames would pile up in memory: the broker takes none until its alarm ends.
                        let _ = first.caller.send(Err(PublishError::Refused));
                        continue;
                    }
                    let Coalesced { message, callers, events, is_full } = self.coalesce(first);
                    pacing.sent(callers.len(), events, is_full);
                    let tag = self.send(connection, &message)?;
                    outstanding.push_back(Outstanding { tag, until: Instant::now() + self.confirm_timeout, callers });
                    self.message = message;
                }
                _ = check.tick() => {
                    connection.check()?;
                    blocked.set(connection.is_blocked());
                    if outstanding.front().is_some_and(|first| first.until <= Instant::now()) {
                        return Err(Ended::Lost("a confirm did not come in time".to_owned()));
                    }
                }
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
            if request.caller.is_closed() {
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

    fn send(&self, connection: &mut PublishingConnection, message: &[u8]) -> io::Result<u64> {
        let properties = AMQPProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_headers(published_now());
        self.config.metrics.published.inc();
        connection.publish(
            &self.config.topology.ingest_exchange(self.intake),
            INGEST_KEY,
            properties,
            message,
        )
    }
}

/// Ends where nothing else happens for so long after `stop`.
async fn idle_after(stop: &CancellationToken, idle: Duration) {
    stop.cancelled().await;
    sleep(idle).await;
}

/// Answers what a confirm settles. Any refusal ends the connection: the next one declares the topology again. Those still
/// outstanding are dropped with it, which tells their callers.
fn settle(confirm: Confirm, outstanding: &mut VecDeque<Outstanding>) -> Result<(), Ended> {
    let Confirm { tag, multiple, refusal } = confirm;
    let result = if refusal.is_none() { Ok(()) } else { Err(PublishError::Refused) };
    // They come in order as a rule, so what is searched is short.
    while let Some(place) =
        outstanding.iter().position(|message| message.tag == tag || (multiple && message.tag < tag))
    {
        for caller in outstanding.remove(place).into_iter().flat_map(|message| message.callers) {
            let _ = caller.send(result);
        }
    }
    refusal.map_or(Ok(()), |refusal| Err(Ended::Lost(refusal.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outstanding(tags: std::ops::RangeInclusive<u64>) -> (VecDeque<Outstanding>, Vec<Answer>) {
        tags.map(|tag| {
            let (caller, answer) = oneshot::channel();
            (Outstanding { tag, until: Instant::now(), callers: vec![caller] }, answer)
        })
        .unzip()
    }

    fn told(answers: &mut [Answer]) -> Vec<Option<Result<(), PublishError>>> {
        answers.iter_mut().map(|answer| answer.try_recv().ok()).collect()
    }

    #[tokio::test]
    async fn a_confirm_answers_its_own_message_or_all_up_to_it() {
        let (mut waiting, mut answers) = outstanding(1..=4);
        assert!(settle(Confirm { tag: 2, multiple: false, refusal: None }, &mut waiting).is_ok());
        assert_eq!(told(&mut answers), [None, Some(Ok(())), None, None]);
        assert!(settle(Confirm { tag: 3, multiple: true, refusal: None }, &mut waiting).is_ok());
        assert_eq!(told(&mut answers[2..]), [Some(Ok(())), None]);
        assert_eq!(answers[0].try_recv(), Ok(Ok(())));
        assert_eq!(waiting.iter().map(|message| message.tag).collect::<Vec<_>>(), [4]);
    }

    #[tokio::test]
    async fn a_refusal_ends_the_connection_and_nobody_else_is_told_that_all_is_well() {
        let (mut waiting, mut answers) = outstanding(1..=2);
        let refused = Confirm { tag: 1, multiple: false, refusal: Some("no") };
        assert!(matches!(settle(refused, &mut waiting), Err(Ended::Lost(reason)) if reason == "no"));
        drop(waiting);
        assert_eq!(answers[0].try_recv(), Ok(Err(PublishError::Refused)));
        assert_eq!(answers[1].try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
