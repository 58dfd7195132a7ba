use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use signing::Secret;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::PATIENCE;

/// A request as a receiver saw it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The path.
    pub path: String,
    /// Names and values, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl Received {
    /// A header's value; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// The `webhook-id` header.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// Whether the signature is right, judged at the request's own time.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let secret: Secret = secret.parse().unwrap();
        let timestamp = self.header("webhook-timestamp");
        let now = timestamp.parse().unwrap_or_default();
        let signatures = self.header("webhook-signature");
        signing::verify([&secret], self.id(), timestamp, signatures, &self.body, now).is_ok()
    }
}

/// How a receiver answers.
#[derive(Debug, Clone)]
enum Answer {
    Status(u16, Vec<(String, String)>, Bytes),
    Hang,
}

impl Answer {
    fn status(status: u16) -> Self {
        Self::Status(status, Vec::new(), Bytes::new())
    }
}

struct Shared {
    script: Mutex<VecDeque<Answer>>,
    usual: Mutex<Answer>,
    requests: mpsc::UnboundedSender<Received>,
    release: Notify,
}

/// An HTTP server on loopback that keeps every request, and answers 204 unless told otherwise.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    requests: mpsc::UnboundedReceiver<Received>,
    handle: ServerHandle,
}

impl Receiver {
    /// Starts one, on any free port.
    pub async fn start() -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            script: Mutex::default(),
            usual: Mutex::new(Answer::status(204)),
            requests: sender,
            release: Notify::new(),
        });
        let data = web::Data::from(Arc::clone(&shared));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .app_data(web::PayloadConfig::new(4 * 1024 * 1024))
                .default_service(web::to(receive))
        })
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { address, shared, requests, handle }
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers the next requests with these statuses, one each, then as before.
    pub fn answer_next(&self, statuses: &[u16]) {
        let answers = statuses.iter().map(|status| Answer::status(*status));
        self.shared.script.lock().unwrap().extend(answers);
    }

    /// Answers the next request with a status and headers.
    pub fn answer_next_with(&self, status: u16, headers: &[(&str, &str)]) {
        self.answer_next_in_full(status, headers, Bytes::new());
    }

    /// Answers the next request with a status, headers and a body.
    pub fn answer_next_in_full(&self, status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.shared.script.lock().unwrap().push_back(Answer::Status(status, headers, body.into()));
    }

    /// Answers every request from now on with this status.
    pub fn answer_always(&self, status: u16) {
        *self.shared.usual.lock().unwrap() = Answer::status(status);
    }

    /// Answers no request from now on, until [`Receiver::release`].
    pub fn hang(&self) {
        *self.shared.usual.lock().unwrap() = Answer::Hang;
    }

    /// Answers those that hang with 204, and every later one too.
    pub fn release(&self) {
        self.answer_always(204);
        self.shared.release.notify_waiters();
    }

    /// The next request.
    pub async fn next(&mut self) -> Received {
        let received = timeout(PATIENCE, self.requests.recv()).await;
        received.unwrap_or_else(|_| panic!("no request within {} s", PATIENCE.as_secs())).unwrap()
    }

    /// Makes sure that no request comes within a moment.
    pub async fn expect_none(&mut self, within: Duration) {
        if let Ok(Some(received)) = timeout(within, self.requests.recv()).await {
            panic!("unexpected request {} {}", received.path, received.id());
        }
    }

    /// A request that is here already.
    pub fn try_next(&mut self) -> Option<Received> {
        self.requests.try_recv().ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.release.notify_waiters();
        std::mem::drop(self.handle.stop(false));
    }
}

async fn receive(request: HttpRequest, body: Bytes, shared: web::Data<Shared>) -> HttpResponse {
    let header =
        |(name, value): (&actix_web::http::header::HeaderName, &actix_web::http::header::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
    let released = shared.release.notified();
    tokio::pin!(released);
    released.as_mut().enable();
    let scripted = shared.script.lock().unwrap().pop_front();
    let answer = scripted.unwrap_or_else(|| shared.usual.lock().unwrap().clone());
    let headers = request.headers().iter().map(header).collect();
    let _ = shared.requests.send(Received { path: request.path().to_owned(), headers, body });
    match answer {
        Answer::Status(status, headers, body) => {
            let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
            for pair in headers {
                response.append_header(pair);
            }
            response.body(body)
        }
        Answer::Hang => {
            released.await;
            HttpResponse::NoContent().finish()
        }
    }
}
