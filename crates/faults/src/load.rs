//! Publishers as they should be: each event is published again under the same id until it is accepted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use reqwest::Client;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How soon an event is published again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long a publisher keeps trying after the load has been told to end.
const LAST_TRIES: Duration = Duration::from_secs(70);
/// How long a client waits for an answer: longer than the gateway may take, so that a hang shows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Events that publishers have outstanding at a time.
const MAX_OUTSTANDING: usize = 512;

/// Which events were accepted, and when.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    accepted: HashMap<String, Instant>,
    /// Never accepted, but perhaps published: they may arrive, and need not.
    doubtful: HashMap<String, Instant>,
    answers: Answers,
}

/// What publishers were answered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answers {
    /// 503 with Retry-After.
    pub(crate) unavailable: usize,
    /// Any other answer than 202 and the above: never right.
    pub(crate) wrong: usize,
    /// Connections refused or broken.
    pub(crate) broken: usize,
    /// The longest that any answer took.
    pub(crate) slowest: Duration,
}

impl Ledger {
    pub(crate) fn accepted(&self) -> HashMap<String, Instant> {
        self.entries().accepted.clone()
    }

    pub(crate) fn accepted_count(&self) -> usize {
        self.entries().accepted.len()
    }

    pub(crate) fn knows(&self, id: &str) -> bool {
        let entries = self.entries();
        entries.accepted.contains_key(id) || entries.doubtful.contains_key(id)
    }

    pub(crate) fn answers(&self) -> Answers {
        self.entries().answers
    }

    /// Forgets the answers so far, to look at those of a fault alone.
    pub(crate) fn forget_answers(&self) {
        self.entries().answers = Answers::default();
    }

    pub(crate) fn begin(&self, id: &str) {
        self.entries().doubtful.insert(id.to_owned(), Instant::now());
    }

    pub(crate) fn accept(&self, id: &str) {
        let mut entries = self.entries();
        entries.doubtful.remove(id);
        entries.accepted.entry(id.to_owned()).or_insert_with(Instant::now);
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of publishing once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    /// 503 with Retry-After.
    Unavailable,
    /// Another status.
    Wrong(u16),
    /// No answer.
    Broken,
}

/// Publishes over REST.
#[derive(Clone)]
pub(crate) struct RestPublisher {
    client: Client,
    url: String,
    token: String,
    ledger: Ledger,
    pub(crate) event_type: &'static str,
}

impl RestPublisher {
    pub(crate) fn new(url: String, token: String, ledger: Ledger) -> anyhow::Result<Self> {
        let client = Client::builder().timeout(ANSWER_TIMEOUT).no_proxy().build()?;
        Ok(Self { client, url, token, ledger, event_type: "message.sent" })
    }

    /// Publishes an event once. `extra` are further fields, as JSON that begins with a comma.
    pub(crate) async fn try_publish(&self, id: &str, extra: &str) -> Answer {
        self.ledger.begin(id);
        let began = Instant::now();
        let body = format!(r#"{{"type":"{}","id":"{id}","data":{{"n":"{id}"}}{extra}}}"#, self.event_type);
        let sent = self
            .client
            .post(format!("{}/api/events", self.url))
            .bearer_auth(&self.token)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await;
        let answer = match sent {
            Err(_) => Answer::Broken,
            Ok(response) => match response.status().as_u16() {
                202 => Answer::Accepted,
                503 if response.headers().contains_key("retry-after") => Answer::Unavailable,
                other => Answer::Wrong(other),
            },
        };
        if answer == Answer::Accepted {
            self.ledger.accept(id);
        }
        let mut entries = self.ledger.entries();
        let answers = &mut entries.answers;
        answers.slowest = answers.slowest.max(began.elapsed());
        match answer {
            Answer::Accepted => {}
            Answer::Unavailable => answers.unavailable += 1,
            Answer::Wrong(_) => answers.wrong += 1,
            Answer::Broken => answers.broken += 1,
        }
        answer
    }

    /// Publishes an event until it is accepted, or `deadline` has passed.
    pub(crate) async fn publish(&self, id: &str, extra: &str, deadline: Instant) {
        while self.try_publish(id, extra).await != Answer::Accepted && Instant::now() < deadline {
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Publishes a number of events at once, each until it is accepted, and returns when all are.
    pub(crate) async fn publish_all(&self, label: &str, count: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + LAST_TRIES;
        let mut tasks = JoinSet::new();
        for number in 0..count {
            if tasks.len() >= MAX_OUTSTANDING {
                tasks.join_next().await;
            }
            let (publisher, id) = (self.clone(), format!("{label}-{number}"));
            tasks.spawn(async move { publisher.publish(&id, "", deadline).await });
        }
        tasks.join_all().await;
        let accepted = self.ledger.accepted();
        let missing =
            (0..count).filter(|number| !accepted.contains_key(&format!("{label}-{number}"))).count();
        if missing > 0 {
            bail!("{missing} of {count} events were not accepted within {} s", LAST_TRIES.as_secs());
        }
        Ok(())
    }
}

/// Publishers at work.
pub(crate) struct Load {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many events a second over REST, each by a client of its own.
    pub(crate) fn rest(publisher: &RestPublisher, label: &str, per_second: u32) -> Self {
        let stop = CancellationToken::new();
        let task = rest_load(publisher.clone(), label.to_owned(), per_second, stop.clone());
        Self { stop, tasks: vec![tokio::spawn(task)] }
    }

    /// The same, and so many a second over AMQP besides, in the order of their numbers.
    pub(crate) fn with_amqp(mut self, publisher: AmqpPublisher, label: &str, per_second: u32) -> Self {
        let task = amqp_load(publisher, label.to_owned(), per_second, self.stop.clone());
        self.tasks.push(tokio::spawn(task));
        self
    }

    /// Ends it, once every event that was begun is accepted or given up.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        for task in self.tasks {
            let limit = LAST_TRIES + ANSWER_TIMEOUT + ANSWER_TIMEOUT;
            timeout(limit, task).await.context("a publisher hangs")??;
        }
        Ok(())
    }
}

async fn rest_load(publisher: RestPublisher, label: String, per_second: u32, stop: CancellationToken) {
    let mut pace = interval(Duration::from_secs(1) / per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut tasks = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            _ = pace.tick(), if tasks.len() < MAX_OUTSTANDING => {
                number += 1;
                let (publisher, id, stop) = (publisher.clone(), format!("{label}-{number}"), stop.clone());
                tasks.spawn(async move {
                    let deadline = async { stop.cancelled().await; sleep(LAST_TRIES).await };
                    tokio::select! {
                        () = publisher.publish(&id, "", Instant::now() + Duration::from_secs(3600)) => {}
                        () = deadline => {}
                    }
                });
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = stop.cancelled() => break,
        }
    }
    tasks.join_all().await;
}

/// Publishes over AMQP, as an internal service does.
pub(crate) struct AmqpPublisher {
    pub(crate) url: String,
    pub(crate) exchange: String,
    pub(crate) tenant: String,
    pub(crate) ledger: Ledger,
}

impl AmqpPublisher {
    /// Connects, and asks for confirms.
    pub(crate) async fn connect(&self) -> anyhow::Result<(Connection, Channel)> {
        let connect = async {
            let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            anyhow::Ok((connection, channel))
        };
        timeout(ANSWER_TIMEOUT, connect).await?
    }

    /// Publishes an event once, and says whether the broker confirmed it.
    pub(crate) async fn try_publish(&self, channel: &Channel, id: &str) -> anyhow::Result<()> {
        self.ledger.begin(id);
        let body = format!(
            r#"{{"id":"{id}","tenantId":"{}","type":"message.sent","occurredAt":"2026-05-30T10:00:00Z","data":{{"n":"{id}"}}}}"#,
            self.tenant
        );
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let publish = async {
            let exchange = self.exchange.as_str().into();
            channel
                .basic_publish(exchange, "message.sent".into(), options, body.as_bytes(), properties)
                .await?
                .await
        };
        match timeout(ANSWER_TIMEOUT, publish).await?? {
            Confirmation::Ack(None) => {
                self.ledger.accept(id);
                Ok(())
            }
            refused @ (Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested) => {
                bail!("not confirmed: {refused:?}")
            }
        }
    }

    /// Publishes an event until it is confirmed, on a new connection after each failure.
    pub(crate) async fn publish(&self, channel: &mut Option<(Connection, Channel)>, id: &str) {
        if channel.is_none() {
            *channel = self.connect().await.ok();
        }
        loop {
            if let Some((_, open)) = channel.as_ref()
                && self.try_publish(open, id).await.is_ok()
            {
                return;
            }
            if let Some((connection, _)) = channel.take() {
                let _ = timeout(Duration::from_secs(1), connection.close(200, "done".into())).await;
            }
            sleep(RETRY_PAUSE).await;
            *channel = self.connect().await.ok();
        }
    }
}

async fn amqp_load(publisher: AmqpPublisher, label: String, per_second: u32, stop: CancellationToken) {
    let mut pace = interval(Duration::from_secs(1) / per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut channel = None;
    let mut number = 0;
    while !stop.is_cancelled() {
        pace.tick().await;
        number += 1;
        let id = format!("{label}-{number}");
        let given_up = async {
            stop.cancelled().await;
            sleep(LAST_TRIES).await;
        };
        tokio::select! {
            () = publisher.publish(&mut channel, &id) => {}
            () = given_up => return,
        }
    }
}
