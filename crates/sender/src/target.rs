use chrono::{DateTime, Utc};
use domain::{SecretBytes, Webhook};
use http::{HeaderMap, Uri};
use signing::Secret;
use tracing::error;

use crate::request::usual_headers;

/// A webhook, ready to be delivered to.
#[derive(Debug)]
pub struct Target {
    /// The webhook.
    pub webhook: Webhook,
    /// What is secret of it, or why it cannot be read. Then its deliveries wait, as they do for any fault of ours.
    pub(crate) opened: Result<Opened, String>,
    /// Where its requests go, if its URL is one that requests can have.
    pub(crate) uri: Option<Uri>,
}

/// What is secret of a webhook, ready for use.
#[derive(Debug)]
pub(crate) struct Opened {
    secret: Secret,
    /// Those that it replaced, the newest first, and when they end.
    previous: Vec<(Secret, DateTime<Utc>)>,
    /// What all its requests have, with what its owner adds to them.
    pub(crate) headers: HeaderMap,
}

impl Target {
    /// Prepares what is secret of the webhook for use.
    pub fn new(webhook: Webhook) -> Self {
        let opened = open(&webhook);
        if let Err(reason) = &opened {
            error!(webhook = %webhook.id, reason, "nothing can be signed for a webhook; its deliveries wait");
        }
        let uri = webhook.url.url().as_str().parse().ok();
        Self { webhook, opened, uri }
    }
}

impl Opened {
    /// The secrets that sign at a moment, the newest first.
    pub(crate) fn secrets(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Secret> {
        let live = self.previous.iter().filter(move |(_, expires_at)| now < *expires_at);
        std::iter::once(&self.secret).chain(live.map(|(secret, _)| secret))
    }
}

fn open(webhook: &Webhook) -> Result<Opened, String> {
    let parse = |secret: &SecretBytes| Secret::from_bytes(secret.expose()).map_err(|error| error.to_string());
    let secret = parse(webhook.secret.as_ref().map_err(ToString::to_string)?)?;
    let previous = webhook.previous_secrets.as_ref().map_err(ToString::to_string)?;
    let previous = previous.iter().map(|previous| Ok((parse(&previous.secret)?, previous.expires_at)));
    let previous = previous.collect::<Result<_, String>>()?;
    let headers = webhook.delivery.headers.as_ref().map_err(ToString::to_string)?;
    let headers = usual_headers(headers, webhook.delivery.payload_version)
        .ok_or("its custom headers are not ones that can be sent")?;
    Ok(Opened { secret, previous, headers })
}
