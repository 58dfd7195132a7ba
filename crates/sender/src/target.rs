use domain::{CustomHeaders, Webhook};
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
    pub(crate) secret: Secret,
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

fn open(webhook: &Webhook) -> Result<Opened, String> {
    let secret = webhook.secret.as_ref().map_err(ToString::to_string)?;
    let secret = Secret::from_bytes(secret.expose()).map_err(|error| error.to_string())?;
    let headers = webhook.delivery.headers.as_ref().map_err(ToString::to_string)?;
    let headers = header_map(headers).ok_or("its custom headers are not ones that can be sent")?;
    Ok(Opened { secret, headers })
}

fn header_map(headers: &CustomHeaders) -> Option<HeaderMap> {
    let header = |(name, value): (&str, &str)| {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
    };
    headers.iter().map(header).collect()
}
