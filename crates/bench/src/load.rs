//! Publishers over HTTP, in a closed loop (each waits for its answer) or an open one (each event has its time, and a late
//! one counts from when it should have been sent).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::http::Connection;
use crate::payload::{Template, now_micros};

/// Numbers events, each once in a run.
pub(crate) type Sequence = Arc<AtomicU32>;

/// Something that can be sent again and again.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    pub(crate) address: SocketAddr,
    /// With one event or more.
    pub(crate) request: Template,
    /// The status that means success, of all its events.
    pub(crate) success: u16,
}

/// What was published.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// When it began and ended, in microseconds since 1970.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) accepted: Vec<Accepted>,
    /// Events that were answered otherwise.
    pub(crate) refused: u64,
}

/// An event that was accepted: its number, and when the answer came, in microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    pub(crate) sequence: u32,
    pub(crate) at: u64,
}

impl Published {
    pub(crate) fn count(&mut self, status: u16, success: u16, sequence: u32) {
        if status == success {
            self.accepted.push(Accepted { sequence, at: now_micros() });
        } else {
            self.refused += 1;
        }
    }

    fn add(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.refused += other.refused;
    }

    pub(crate) fn seconds(&self) -> f64 {
        (self.ended - self.began) as f64 / 1e6
    }
}

/// Each publisher sends its next event when the last one was answered.
pub(crate) async fn closed(
    publishers: Vec<Publisher>,
    sequence: Sequence,
    duration: Duration,
) -> anyhow::Result<Published> {
    let began = now_micros();
    let until = began + micros(duration);
    let mut tasks = JoinSet::new();
    for publisher in publishers {
        tasks.spawn(publish_until(publisher, Arc::clone(&sequence), until));
    }
    collect(tasks, began).await
}

async fn publish_until(
    mut publisher: Publisher,
    sequence: Sequence,
    until: u64,
) -> anyhow::Result<Published> {
    let mut connection = Connection::open(publisher.address).await?;
    let mut published = Published::default();
    loop {
        let now = now_micros();
        if now >= until {
            return Ok(published);
        }
        let number = publisher.next(&sequence);
        publisher.send(&mut connection, now, number, &mut published).await?;
    }
}

/// Sends at a steady rate, over as many connections as are needed up to `connections`.
pub(crate) async fn open(
    publisher: Publisher,
    sequence: Sequence,
    per_second: u32,
    duration: Duration,
    connections: usize,
) -> anyhow::Result<Published> {
    let (due, queue) = mpsc::unbounded_channel();
    let queue = Arc::new(Mutex::new(queue));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(publish_due(publisher.clone(), Arc::clone(&sequence), Arc::clone(&queue)));
    }
    let began = now_micros();
    // A thread of its own, because the runtime's timers are a millisecond coarse.
    std::thread::spawn(move || pace(&due, began, per_second, duration));
    collect(tasks, began).await
}

fn pace(due: &mpsc::UnboundedSender<u64>, began: u64, per_second: u32, duration: Duration) {
    let until = began + micros(duration);
    for number in 0.. {
        let at = began + number * 1_000_000 / u64::from(per_second);
        if at >= until {
            return;
        }
        std::thread::sleep(Duration::from_micros(at.saturating_sub(now_micros())));
        if due.send(at).is_err() {
            return;
        }
    }
}

async fn publish_due(
    mut publisher: Publisher,
    sequence: Sequence,
    queue: Arc<Mutex<mpsc::UnboundedReceiver<u64>>>,
) -> anyhow::Result<Published> {
    let mut connection = Connection::open(publisher.address).await?;
    let mut published = Published::default();
    loop {
        let Some(at) = queue.lock().await.recv().await else { return Ok(published) };
        let number = publisher.next(&sequence);
        publisher.send(&mut connection, at, number, &mut published).await?;
    }
}

impl Publisher {
    /// Takes numbers for the events of one request, and gives the first.
    fn next(&self, sequence: &Sequence) -> u32 {
        sequence.fetch_add(events_of(&self.request), Ordering::Relaxed)
    }

    async fn send(
        &mut self,
        connection: &mut Connection,
        at: u64,
        sequence: u32,
        published: &mut Published,
    ) -> anyhow::Result<()> {
        self.request.stamp(at, sequence);
        let status = connection.status_of(self.request.bytes()).await.context("publishing")?;
        for number in sequence..sequence + events_of(&self.request) {
            published.count(status, self.success, number);
        }
        Ok(())
    }
}

fn events_of(request: &Template) -> u32 {
    u32::try_from(request.events()).unwrap_or(u32::MAX)
}

pub(crate) async fn collect(
    mut tasks: JoinSet<anyhow::Result<Published>>,
    began: u64,
) -> anyhow::Result<Published> {
    let mut all = Published { began, ..Published::default() };
    while let Some(published) = tasks.join_next().await {
        all.add(published??);
    }
    all.ended = now_micros();
    Ok(all)
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
