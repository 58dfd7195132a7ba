//! One HTTP request to a receiver, and what it came to.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::{
    AttemptTimeout, Cause, Event, EventLinks, Exchange, Outcome, TraceContext, UrlPolicy, Webhook,
    parse_retry_after,
};
use http::header::{HeaderMap, RETRY_AFTER};
use tokio::time::{Instant, timeout};
use tracing::error;

use crate::capture::{Capture, Heard, headers_as_sent};
use crate::client::{Client, Destination, RequestError};
use crate::occasionally::Occasionally;
use crate::request;
use crate::resolver::{GuardedResolver, ResolveError};
use crate::target::{Opened, Target};

/// How much of an answer's body is read. A receiver that sends more is cut off, and its status counts.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// How often it is said at most that there are deliveries that cannot be signed.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Sends requests. One for the whole process: connections are kept and shared.
pub struct Sender {
    client: Client,
    policy: UrlPolicy,
    resolver: GuardedResolver,
    deadline: Duration,
    links: EventLinks,
    complaining: Occasionally,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    /// How it ended.
    pub outcome: Outcome,
    /// The status of the answer, if the head of one came.
    pub status_code: Option<u16>,
    /// What the receiver asked for in `Retry-After`, if it did.
    pub retry_after: Option<Duration>,
    /// How long it took.
    pub duration: Duration,
    /// What was said on both sides, where that was asked for.
    pub exchange: Option<Box<Exchange>>,
}

/// What of ours kept a request from being made. The receiver has seen nothing, so no attempt is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No name server answers.
    NameServers,
    /// The webhook's secret cannot be read.
    Secret,
}

/// Why there is no complete answer.
enum Failure {
    Theirs(Cause, String),
    Ours(Fault),
}

impl Sender {
    /// Names are looked up with `dns_servers`, or the system's if there are none. `links` are for thin bodies.
    pub fn new(
        policy: UrlPolicy,
        deadline: Duration,
        dns_servers: Vec<SocketAddr>,
        links: EventLinks,
    ) -> Result<Self, rustls::Error> {
        let resolver = GuardedResolver::new(policy.addresses.clone(), dns_servers, deadline);
        let client = Client::new(resolver.clone())?;
        let complaining = Occasionally::new(COMPLAIN_EVERY);
        Ok(Self { client, policy, resolver, deadline, links, complaining })
    }

    pub(crate) fn policy(&self) -> &UrlPolicy {
        &self.policy
    }

    pub(crate) fn resolver(&self) -> &GuardedResolver {
        &self.resolver
    }

    /// The longest an attempt takes to a webhook that sets no timeout of its own.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The longest an attempt takes to this webhook.
    pub fn deadline_for(&self, webhook: &Webhook) -> Duration {
        webhook.delivery.timeout.map_or(self.deadline, AttemptTimeout::duration)
    }

    /// Sends an event to a webhook. One deadline covers looking up, connecting, TLS, sending and the whole answer.
    pub async fn send(
        &self,
        target: &Target,
        event: &Event,
        now: DateTime<Utc>,
        capture: Capture,
    ) -> Result<Attempted, Fault> {
        self.send_in_trace(target, event, now, capture, None).await
    }

    /// Like [`Sender::send`], and tells the receiver where the request belongs among traces.
    pub async fn send_in_trace(
        &self,
        target: &Target,
        event: &Event,
        now: DateTime<Utc>,
        capture: Capture,
        trace: Option<&TraceContext>,
    ) -> Result<Attempted, Fault> {
        let began = Instant::now();
        // Set when the head of an answer has come, whatever becomes of its body.
        let mut heard = None;
        let deadline = self.deadline_for(&target.webhook);
        let ended =
            timeout(deadline, self.make_request(target, event, now, capture, trace, &mut heard)).await;
        let (outcome, explanation) = match ended {
            Err(_) => {
                let explanation = format!("no complete answer within {} ms", deadline.as_millis());
                (Outcome::Retryable(Cause::Timeout), Some(explanation))
            }
            Ok(Err(Failure::Theirs(cause, explanation))) => (Outcome::Retryable(cause), Some(explanation)),
            Ok(Err(Failure::Ours(fault))) => return Err(fault),
            Ok(Ok(status)) => (Outcome::of_status(status), None),
        };
        let duration = began.elapsed();
        let status_code = heard.as_ref().map(|heard| heard.status);
        let retry_after = heard.as_ref().and_then(|heard| retry_after(&heard.headers, now));
        let is_captured = capture == Capture::All || outcome != Outcome::Delivered;
        let exchange = is_captured.then(|| {
            // Made once more rather than kept: of the most, which succeed, nobody will ask for them.
            let parts = self.parts(target).ok();
            let request = parts.and_then(|(destination, opened)| {
                request::build(target, destination, opened, &self.links, event, now, trace).ok()
            });
            Box::new(Exchange {
                request_headers: request.as_ref().map(headers_as_sent).unwrap_or_default(),
                response: heard.map(Heard::capture),
                explanation,
            })
        });
        Ok(Attempted { outcome, status_code, retry_after, duration, exchange })
    }

    /// The body that an attempt sends.
    pub fn body(&self, target: &Target, event: &Event) -> Bytes {
        request::body(target, &self.links, event)
    }

    async fn make_request(
        &self,
        target: &Target,
        event: &Event,
        now: DateTime<Utc>,
        capture: Capture,
        trace: Option<&TraceContext>,
        heard: &mut Option<Heard>,
    ) -> Result<u16, Failure> {
        let (destination, opened) = self.parts(target)?;
        // The client looks names up through the guard; an address in the URL itself never gets there.
        let policy = target.webhook.url.check(&self.policy);
        policy.map_err(|reason| Failure::Theirs(Cause::AddressRefused, reason.to_string()))?;
        let make = || request::build(target, destination, opened, &self.links, event, now, trace);
        let answer = self.client.request(destination, make).await;
        let mut answer = answer.map_err(|error| match error {
            RequestError::Connect(error) => failure_of(&*error, true),
            RequestError::Http(error) => failure_of(&error, false),
            RequestError::Impossible(_) => impossible("no header can have this id"),
        })?;
        let status = answer.head.status.as_u16();
        let headers = std::mem::take(&mut answer.head.headers);
        let heard = heard.insert(Heard::of_head(status, headers, capture));
        // To its end, so that the connection can be used again, or up to the limit.
        while let Some(chunk) = answer.next_chunk().await {
            let chunk = chunk.map_err(|error| failure_of(&error, false))?;
            if heard.push(chunk) > MAX_RESPONSE_BYTES {
                return Ok(status);
            }
        }
        answer.finish();
        heard.complete();
        Ok(status)
    }

    /// What requests to a webhook are made from.
    fn parts<'a>(&self, target: &'a Target) -> Result<(&'a Destination, &'a Opened), Failure> {
        let opened = target.opened.as_ref().map_err(|reason| self.unsigned(target, reason))?;
        let destination = target.destination.as_ref();
        Ok((destination.ok_or_else(|| impossible("no request can have this URL"))?, opened))
    }

    fn unsigned(&self, target: &Target, reason: &str) -> Failure {
        if self.complaining.is_due() {
            error!(webhook = %target.webhook.id, reason, "deliveries wait because they cannot be signed");
        }
        Failure::Ours(Fault::Secret)
    }
}

fn impossible(what: &str) -> Failure {
    Failure::Theirs(Cause::Protocol, what.to_owned())
}

fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    parse_retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// Finds out what lies behind an error of the client's. `connecting` says whether there was no connection yet.
fn failure_of(error: &(dyn Error + 'static), connecting: bool) -> Failure {
    let mut deepest = error;
    let mut source = Some(error);
    while let Some(error) = source {
        deepest = error;
        if let Some(resolve) = error.downcast_ref::<ResolveError>() {
            return match resolve {
                // Not which address: it may be one of the operator's own network.
                ResolveError::Refused(_) => {
                    let reason = "the name leads to an address that is not public";
                    Failure::Theirs(Cause::AddressRefused, reason.to_owned())
                }
                ResolveError::Unresolvable => Failure::Theirs(Cause::Dns, resolve.to_string()),
                ResolveError::NoNameServer => Failure::Ours(Fault::NameServers),
            };
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Failure::Theirs(Cause::Tls, tls.to_string());
        }
        // An io::Error can carry another error that `source` passes over.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        source = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    let system = deepest.downcast_ref::<io::Error>().map(io::Error::kind);
    if system == Some(io::ErrorKind::TimedOut) {
        return Failure::Theirs(Cause::Timeout, "the connection timed out".to_owned());
    }
    let cause = if connecting { Cause::Connect } else { Cause::Protocol };
    Failure::Theirs(cause, system.map_or_else(|| deepest.to_string(), |kind| kind.to_string()))
}
