//! One HTTP request to a receiver, and what it came to.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{AddressPolicy, Cause, Outcome, Refused, UrlPolicy, parse_retry_after};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, redirect};
use tokio::time::{Instant, timeout};

use crate::delivery::{Accepted, Target};

/// How much of an answer's body is read. A receiver that sends more is cut off, and its status counts.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// How long an unused connection to a receiver is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many unused connections to one receiver are kept.
const MAX_IDLE_PER_HOST: usize = 64;

/// Sends requests. One for the whole process: connections are kept and shared.
pub(crate) struct Sender {
    client: Client,
    policy: UrlPolicy,
    deadline: Duration,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempted {
    pub(crate) outcome: Outcome,
    pub(crate) status_code: Option<u16>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) duration: Duration,
}

impl Sender {
    pub(crate) fn new(policy: UrlPolicy, deadline: Duration) -> reqwest::Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .dns_resolver(Arc::new(GuardedResolver(policy.addresses.clone())))
            .user_agent(concat!("Postrider/", env!("CARGO_PKG_VERSION")))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client, policy, deadline })
    }

    /// The longest an attempt takes.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Sends an event to a webhook. One deadline covers looking up, connecting, TLS, sending and the whole answer.
    pub(crate) async fn send(&self, target: &Target, accepted: &Accepted, now: DateTime<Utc>) -> Attempted {
        let began = Instant::now();
        // Set when the head of an answer has come, whatever becomes of its body.
        let mut answer = None;
        let outcome = match timeout(self.deadline, self.exchange(target, accepted, now, &mut answer)).await {
            Err(_) => Outcome::Retryable(Cause::Timeout),
            Ok(Err(cause)) => Outcome::Retryable(cause),
            Ok(Ok(status)) => Outcome::of_status(status),
        };
        Attempted {
            outcome,
            status_code: answer.as_ref().map(|answer| answer.status),
            retry_after: answer.and_then(|answer| answer.retry_after),
            duration: began.elapsed(),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        accepted: &Accepted,
        now: DateTime<Utc>,
        head: &mut Option<Head>,
    ) -> Result<u16, Cause> {
        let url = &target.webhook.url;
        // The client looks names up through the guard below; an address in the URL itself never gets there.
        url.check(&self.policy).map_err(|_| Cause::AddressRefused)?;
        let event = &accepted.event;
        let id = event.id.to_header();
        let timestamp = now.timestamp();
        let signature = signing::sign([&target.secret], &id, timestamp, &event.body);
        let request = self
            .client
            .post(url.url().clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(signing::ID_HEADER, id)
            .header(signing::TIMESTAMP_HEADER, timestamp)
            .header(signing::SIGNATURE_HEADER, signature)
            .body(event.body.clone());
        let mut response = request.send().await.map_err(|error| cause_of(&error))?;
        let status = response.status().as_u16();
        *head = Some(Head { status, retry_after: retry_after(&response, now) });
        read_body(&mut response).await?;
        Ok(status)
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
async fn read_body(response: &mut Response) -> Result<(), Cause> {
    let mut read = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| cause_of(&error))? {
        read += chunk.len();
        if read > MAX_RESPONSE_BYTES {
            break;
        }
    }
    Ok(())
}

/// Resolves names with the system's resolver, and refuses a name of which any address is refused.
struct GuardedResolver(AddressPolicy);

#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error("the name has no address")]
    NotFound,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Lookup(#[from] io::Error),
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let addresses = lookup(&policy, name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

async fn lookup(policy: &AddressPolicy, name: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
    if addresses.is_empty() {
        return Err(ResolveError::NotFound);
    }
    for address in &addresses {
        policy.check(address.ip())?;
    }
    Ok(addresses)
}

/// Finds out what lies behind an error of the client's.
fn cause_of(error: &reqwest::Error) -> Cause {
    if error.is_timeout() {
        return Cause::Timeout;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(resolve) = error.downcast_ref::<ResolveError>() {
            return match resolve {
                ResolveError::Refused(_) => Cause::AddressRefused,
                ResolveError::NotFound | ResolveError::Lookup(_) => Cause::Dns,
            };
        }
        if error.downcast_ref::<rustls::Error>().is_some() {
            return Cause::Tls;
        }
        // An io::Error can carry another error that `source` passes over.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        source = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    if error.is_connect() { Cause::Connect } else { Cause::Protocol }
}
