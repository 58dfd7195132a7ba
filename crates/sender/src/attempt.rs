//! One HTTP request to a receiver, and what it came to.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Cause, Event, Outcome, UrlPolicy, parse_retry_after};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, redirect};
use tokio::time::{Instant, timeout};
use tracing::error;

use crate::occasionally::Occasionally;
use crate::request;
use crate::resolver::{GuardedResolver, ResolveError};
use crate::target::Target;

/// How much of an answer's body is read. A receiver that sends more is cut off, and its status counts.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// How long an unused connection to a receiver is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many unused connections to one receiver are kept.
const MAX_IDLE_PER_HOST: usize = 64;
/// How often it is said at most that there are deliveries that cannot be signed.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Sends requests. One for the whole process: connections are kept and shared.
pub struct Sender {
    client: Client,
    policy: UrlPolicy,
    deadline: Duration,
    complaining: Occasionally,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempted {
    /// How it ended.
    pub outcome: Outcome,
    /// The status of the answer, if the head of one came.
    pub status_code: Option<u16>,
    /// What the receiver asked for in `Retry-After`, if it did.
    pub retry_after: Option<Duration>,
    /// How long it took.
    pub duration: Duration,
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
    Theirs(Cause),
    Ours(Fault),
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self::Theirs(cause)
    }
}

impl Sender {
    /// Names are looked up with `dns_servers`, or the system's if there are none.
    pub fn new(policy: UrlPolicy, deadline: Duration, dns_servers: Vec<SocketAddr>) -> reqwest::Result<Self> {
        let resolver = GuardedResolver::new(policy.addresses.clone(), dns_servers, deadline);
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .dns_resolver(Arc::new(resolver))
            .user_agent(concat!("Postrider/", env!("CARGO_PKG_VERSION")))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client, policy, deadline, complaining: Occasionally::new(COMPLAIN_EVERY) })
    }

    /// The longest an attempt takes.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Sends an event to a webhook. One deadline covers looking up, connecting, TLS, sending and the whole answer.
    pub async fn send(&self, target: &Target, event: &Event, now: DateTime<Utc>) -> Result<Attempted, Fault> {
        let began = Instant::now();
        // Set when the head of an answer has come, whatever becomes of its body.
        let mut answer = None;
        let outcome = match timeout(self.deadline, self.exchange(target, event, now, &mut answer)).await {
            Err(_) => Outcome::Retryable(Cause::Timeout),
            Ok(Err(Failure::Theirs(cause))) => Outcome::Retryable(cause),
            Ok(Err(Failure::Ours(fault))) => return Err(fault),
            Ok(Ok(status)) => Outcome::of_status(status),
        };
        Ok(Attempted {
            outcome,
            status_code: answer.as_ref().map(|answer| answer.status),
            retry_after: answer.and_then(|answer| answer.retry_after),
            duration: began.elapsed(),
        })
    }

    async fn exchange(
        &self,
        target: &Target,
        event: &Event,
        now: DateTime<Utc>,
        head: &mut Option<Head>,
    ) -> Result<u16, Failure> {
        let secret = target.secret.as_ref().map_err(|reason| self.unsigned(target, reason))?;
        // The client looks names up through the guard below; an address in the URL itself never gets there.
        target.webhook.url.check(&self.policy).map_err(|_| Cause::AddressRefused)?;
        let request = request::build(&self.client, &target.webhook, secret, event, now);
        let mut response = request.send().await.map_err(|error| failure_of(&error))?;
        let status = response.status().as_u16();
        *head = Some(Head { status, retry_after: retry_after(&response, now) });
        read_body(&mut response).await?;
        Ok(status)
    }

    fn unsigned(&self, target: &Target, reason: &str) -> Failure {
        if self.complaining.is_due() {
            error!(webhook = %target.webhook.id, reason, "deliveries wait because they cannot be signed");
        }
        Failure::Ours(Fault::Secret)
    }
}

struct Head {
    status: u16,
    retry_after: Option<Duration>,
}

fn retry_after(response: &Response, now: DateTime<Utc>) -> Option<Duration> {
    parse_retry_after(response.headers().get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// Reads the body to its end, so that the connection can be used again, or up to the limit.
async fn read_body(response: &mut Response) -> Result<(), Failure> {
    let mut read = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| failure_of(&error))? {
        read += chunk.len();
        if read > MAX_RESPONSE_BYTES {
            break;
        }
    }
    Ok(())
}

/// Finds out what lies behind an error of the client's.
fn failure_of(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return Cause::Timeout.into();
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(resolve) = error.downcast_ref::<ResolveError>() {
            return match resolve {
                ResolveError::Refused(_) => Cause::AddressRefused.into(),
                ResolveError::Unresolvable => Cause::Dns.into(),
                ResolveError::NoNameServer => Failure::Ours(Fault::NameServers),
            };
        }
        if error.downcast_ref::<rustls::Error>().is_some() {
            return Cause::Tls.into();
        }
        // An io::Error can carry another error that `source` passes over.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        source = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    if error.is_connect() { Cause::Connect.into() } else { Cause::Protocol.into() }
}
