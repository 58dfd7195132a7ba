//! A receiver that shares no code with the product but the verification of signatures, and forgets nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::Utc;
use signing::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// The largest request that is read, in bytes.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// The secret of every webhook.
pub(crate) const SECRET: &str = "your-signing-secret";

/// How requests to a path are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With this status.
    Answer(u16),
    /// With 204, so much later.
    Slow(Duration),
    /// Not at all, until the mode changes.
    Hang,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) path: String,
    /// `webhook-id`.
    pub(crate) id: String,
    pub(crate) body: Vec<u8>,
    /// When it was answered with 2xx; `None` when it was not.
    pub(crate) delivered_at: Option<Instant>,
    /// Whether the signature is right.
    pub(crate) is_signed: bool,
    /// How far `webhook-timestamp` is from the true time, in seconds.
    pub(crate) clock_error_seconds: i64,
}

#[derive(Default)]
struct Book {
    arrivals: Vec<Arrival>,
    /// By path and id, the first delivery.
    delivered: HashMap<(String, String), Instant>,
}

#[derive(Clone)]
struct Shared {
    book: Arc<Mutex<Book>>,
    modes: watch::Sender<BTreeMap<String, Mode>>,
    closes: Arc<AtomicBool>,
}

/// The server.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Shared,
    task: JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Shared {
            book: Arc::default(),
            modes: watch::Sender::new(BTreeMap::new()),
            closes: Arc::default(),
        };
        let accepting = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = accepting.clone();
                // A connection that breaks is the business of who made it.
                tokio::spawn(async move { shared.serve(stream).await.ok() });
            }
        });
        Ok(Self { address, shared, task })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on, for one path. Requests that hang are answered 204 by any other mode.
    pub(crate) fn set(&self, path: &str, mode: Mode) {
        self.shared.modes.send_modify(|modes| {
            modes.insert(path.to_owned(), mode);
        });
    }

    /// From now on each request needs a connection of its own.
    pub(crate) fn close_connections(&self) {
        self.shared.closes.store(true, Ordering::Relaxed);
    }

    /// Requests that came to a path.
    pub(crate) fn requests_to(&self, path: &str) -> usize {
        self.shared.book().arrivals.iter().filter(|arrival| arrival.path == path).count()
    }

    /// Everything that came.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.shared.book().arrivals.clone()
    }

    /// Requests that came.
    pub(crate) fn requests(&self) -> usize {
        self.shared.book().arrivals.len()
    }

    /// When each event was first delivered to a path.
    pub(crate) fn delivered(&self, path: &str) -> HashMap<String, Instant> {
        let book = self.shared.book();
        let of_path = book.delivered.iter().filter(|((to, _), _)| to == path);
        of_path.map(|((_, id), at)| (id.clone(), *at)).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the oracle needs of a request.
struct Request {
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await? {
            let place = self.enter(&request);
            let mut rest = [0];
            // The product's client sends no second request before the answer: what can be read is the end.
            let status = tokio::select! {
                biased;
                _ = stream.read(&mut rest) => None,
                status = self.decide(&request.path) => status,
            };
            let Some(status) = status else { return Ok(()) };
            // The bytes first: what did not leave here was not delivered.
            let close = self.closes.load(Ordering::Relaxed);
            let connection = if close { "close" } else { "keep-alive" };
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: {connection}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
            if (200..300).contains(&status) {
                let (now, mut book) = (Instant::now(), self.book());
                book.arrivals[place].delivered_at = Some(now);
                let key = (book.arrivals[place].path.clone(), book.arrivals[place].id.clone());
                book.delivered.entry(key).or_insert(now);
            }
            if close {
                return Ok(());
            }
        }
        Ok(())
    }

    fn enter(&self, request: &Request) -> usize {
        let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
        let timestamp = header("webhook-timestamp");
        let seconds: i64 = timestamp.parse().unwrap_or_default();
        let id = header("webhook-id").to_owned();
        let signature = header("webhook-signature");
        let is_signed = SECRET.parse::<Secret>().is_ok_and(|secret| {
            signing::verify([&secret], &id, timestamp, signature, &request.body, seconds).is_ok()
        });
        let mut book = self.book();
        book.arrivals.push(Arrival {
            path: request.path.clone(),
            id,
            body: request.body.clone(),
            delivered_at: None,
            is_signed,
            clock_error_seconds: seconds - Utc::now().timestamp(),
        });
        book.arrivals.len() - 1
    }

    /// The status to answer with, when it is time; `None`: the receiver itself is gone.
    async fn decide(&self, path: &str) -> Option<u16> {
        let mut modes = self.modes.subscribe();
        let mode = modes.borrow().get(path).copied().unwrap_or(Mode::Answer(204));
        match mode {
            Mode::Answer(status) => Some(status),
            Mode::Slow(time) => {
                sleep(time).await;
                Some(204)
            }
            Mode::Hang => {
                modes.wait_for(|modes| modes.get(path) != Some(&Mode::Hang)).await.ok()?;
                Some(204)
            }
        }
    }
}

/// The next request of a connection; `None` at its end. The product's client sends a content-length with every request.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<Option<Request>> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        ensure!(buffer.len() < MAX_REQUEST_BYTES, "the head is too large");
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec())?;
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).context("no request line")?.to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").context("no content-length")?.parse()?;
    let end = head_end + 4 + length;
    ensure!(end <= MAX_REQUEST_BYTES, "the body is too large");
    while buffer.len() < end {
        ensure!(stream.read_buf(buffer).await? > 0, "the request ends early");
    }
    let body = buffer[head_end + 4..end].to_vec();
    buffer.drain(..end);
    Ok(Some(Request { path, headers, body }))
}
