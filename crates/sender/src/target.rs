use chrono::{DateTime, Utc};
use domain::{CustomHeaders, SecretBytes, Webhook};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use signing::Secret;
use tracing::error;

/// A webhook, ready to be delivered to.
#[derive(Debug)]
pub struct Target {
    /// The webhook.
    pub webhook: Webhook,
    /// What is secret of it, or why it cannot be read. Then its deliveries wait, as they do for any fault of ours.
    pub(crate) opened: Result<Opened, String>,
}

/// What is secret of a webhook, ready for use.
#[derive(Debug)]
pub(crate) struct Opened {
    secret: Secret,
    /// Those that it replaced, the newest first, and when they end.
    previous: Vec<(Secret, DateTime<Utc>)>,
    /// What the webhook's owner adds to each request. Marked as sensitive: they can be credentials.
    pub(crate) headers: HeaderMap,
}

impl Target {
    /// Prepares what is secret of the webhook for use.
    pub fn new(webhook: Webhook) -> Self {
        let opened = open(&webhook);
        if let Err(reason) = &opened {
            error!(webhook = %webhook.id, reason, "nothing can be signed for a webhook; its deliveries wait");
        }
        Self { webhook, opened }
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
    let headers = header_map(headers).ok_or("its custom headers are not ones that can be sent")?;
    Ok(Opened { secret, previous, headers })
}

fn header_map(headers: &CustomHeaders) -> Option<HeaderMap> {
    let header = |(name, value): (&str, &str)| {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
    };
    headers.iter().map(header).collect()
}
