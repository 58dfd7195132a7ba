//! One connection to a receiver. It has no task of its own: whoever waits for an answer drives it, so that a delivery is woken
//! once, by the answer, instead of two tasks waking each other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::task::noop_waker_ref;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use pin_project_lite::pin_project;
use tokio::time::timeout;

use crate::stream::{HeldBack, Stream};

type Driver = http1::Connection<Stream, Full<Bytes>>;
/// What became of a request: the head of its answer, and the body as it comes.
type Sent = Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>;

/// How long a connection has to send what is left of a request whose answer came before, and to say goodbye.
const CLOSE_TIME: Duration = Duration::from_secs(30);

pub(crate) struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// Until the connection has ended.
    driver: Option<Driver>,
    held_back: Option<Arc<HeldBack>>,
}

impl Connection {
    pub(crate) async fn open(stream: Stream) -> hyper::Result<Self> {
        let held_back = stream.held_back();
        let (requests, driver) = http1::handshake(stream).await?;
        Ok(Self { requests, driver: Some(driver), held_back })
    }

    /// Makes a request. An error that still has it says that none of it was sent.
    pub(crate) fn send(&mut self, request: Request<Full<Bytes>>) -> impl Future<Output = Sent> {
        Exchange { answer: self.requests.try_send_request(request), driver: &mut self.driver }
    }

    /// The next part of an answer's body.
    pub(crate) async fn next_chunk(&mut self, body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
        loop {
            let frame = poll_fn(|context| {
                drive(&mut self.driver, context);
                Pin::new(&mut *body).poll_frame(context)
            });
            match frame.await? {
                // What is no data are trailers.
                Ok(frame) => {
                    if let Ok(chunk) = frame.into_data() {
                        return Some(Ok(chunk));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Whether it can take a request: the last one is sent whole, and the receiver has not closed it. It looks without waiting,
    /// and forgets who waited for it.
    pub(crate) fn is_free(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(noop_waker_ref()));
        let holds_back = self.held_back.as_ref().is_some_and(|held_back| held_back.any());
        self.driver.is_some() && self.requests.is_ready() && !holds_back
    }

    /// Closes it as the protocol wants, in a task of its own: a request that was answered early is sent to its end, and TLS says
    /// goodbye.
    pub(crate) fn close(self) {
        drop(self.requests);
        let mut driver = self.driver;
        if driver.is_some() {
            let closed = poll_fn(move |context| {
                // That a request is sent to its end is seen at the next look, which nothing else would bring about.
                drive(&mut driver, context);
                drive(&mut driver, context);
                if driver.is_some() { Poll::Pending } else { Poll::Ready(()) }
            });
            tokio::spawn(timeout(CLOSE_TIME, closed));
        }
    }
}

pin_project! {
    /// Waits for the head of an answer. An `async` block would have room for it twice.
    struct Exchange<'a, F> {
        #[pin]
        answer: F,
        driver: &'a mut Option<Driver>,
    }
}

impl<F: Future> Future for Exchange<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        drive(this.driver, context);
        this.answer.poll(context)
    }
}

/// Lets a connection do what it can. Once it has ended it is dropped, which answers a request that it had not begun.
fn drive(driver: &mut Option<Driver>, context: &mut Context<'_>) {
    if let Some(connection) = driver
        && let Poll::Ready(_) = Pin::new(connection).poll(context)
    {
        *driver = None;
    }
}
