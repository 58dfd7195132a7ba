use chrono::{DateTime, Utc};
use domain::{SecretBytes, SignatureScheme, Webhook};
use http::{HeaderMap, HeaderValue};
use signing::{Secret, SigningKey};
use tracing::error;

use crate::client::Destination;
use crate::request::usual_headers;

/// A webhook, ready to be delivered to.
#[derive(Debug)]
pub struct Target {
    /// The webhook.
    pub webhook: Webhook,
    /// What is secret of it, or why it cannot be read. Then its deliveries wait, as they do for any fault of ours.
    pub(crate) opened: Result<Opened, String>,
    /// Where its requests go, if its URL is one that requests can have.
    pub(crate) destination: Option<Destination>,
}

/// What is secret of a webhook, ready for use.
#[derive(Debug)]
pub(crate) struct Opened {
    signer: Signer,
    /// What all its requests have, with what its owner adds to them.
    pub(crate) headers: HeaderMap,
}

/// What signs by each scheme, the newest first. Those that were replaced end.
#[derive(Debug)]
enum Signer {
    Hmac(Ending<Secret>),
    Ed25519(Ending<SigningKey>),
}

/// What signs, and when each of it ends.
type Ending<T> = Vec<(T, Option<DateTime<Utc>>)>;

impl Target {
    /// Prepares what is secret of the webhook for use.
    pub fn new(webhook: Webhook) -> Self {
        let destination = Destination::of(webhook.url.url());
        let opened = open(&webhook, destination.as_ref().map(|destination| &destination.host));
        if let Err(reason) = &opened {
            error!(webhook = %webhook.id, reason, "nothing can be signed for a webhook; its deliveries wait");
        }
        Self { webhook, opened, destination }
    }
}

impl Opened {
    /// The signatures of a request that is made at a moment.
    pub(crate) fn sign(&self, id: &str, now: DateTime<Utc>, body: &[u8]) -> String {
        let at = now.timestamp();
        match &self.signer {
            Signer::Hmac(secrets) => signing::sign(live(secrets, now), id, at, body),
            Signer::Ed25519(keys) => signing::sign_ed25519(live(keys, now), id, at, body),
        }
    }
}

fn live<T>(all: &[(T, Option<DateTime<Utc>>)], now: DateTime<Utc>) -> impl Iterator<Item = &T> {
    all.iter().filter(move |(_, end)| end.is_none_or(|end| now < end)).map(|(signer, _)| signer)
}

fn open(webhook: &Webhook, host: Option<&HeaderValue>) -> Result<Opened, String> {
    let signer = match webhook.delivery.signature_scheme {
        SignatureScheme::HmacSha256 => Signer::Hmac(secrets(webhook)?),
        SignatureScheme::Ed25519 => Signer::Ed25519(signing_keys(webhook)?),
    };
    let headers = webhook.delivery.headers.as_ref().map_err(ToString::to_string)?;
    let headers = usual_headers(host, headers, webhook.delivery.payload_version)
        .ok_or("its custom headers are not ones that can be sent")?;
    Ok(Opened { signer, headers })
}

fn secrets(webhook: &Webhook) -> Result<Ending<Secret>, String> {
    let parse = |secret: &SecretBytes| Secret::from_bytes(secret.expose()).map_err(|error| error.to_string());
    let secret = parse(webhook.secret.as_ref().map_err(ToString::to_string)?)?;
    let previous = webhook.previous_secrets.as_ref().map_err(ToString::to_string)?;
    let previous = previous.iter().map(|previous| Ok((parse(&previous.secret)?, Some(previous.expires_at))));
    std::iter::once(Ok((secret, None))).chain(previous).collect()
}

fn signing_keys(webhook: &Webhook) -> Result<Ending<SigningKey>, String> {
    let parse = |key: &SecretBytes| SigningKey::from_seed(key.expose()).map_err(|error| error.to_string());
    let keys = webhook.signing_keys.as_ref().map_err(ToString::to_string)?;
    let keys = keys.as_ref().ok_or("it has no signing key")?;
    let previous =
        keys.previous.iter().map(|previous| Ok((parse(&previous.secret)?, Some(previous.expires_at))));
    std::iter::once(Ok((parse(&keys.current)?, None))).chain(previous).collect()
}
