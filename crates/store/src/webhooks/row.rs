//! A row of webhooks: written and read.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use domain::{
    AttemptTimeout, CustomHeaders, DeliverySettings, Description, EventPattern, Filter, GateSettings,
    Invalid, Metadata, PayloadVersion, PreviousSecret, RetrySchedule, SecretBytes, SecretUnreadable,
    SigningKeys, TenantId, Webhook, WebhookId, WebhookUrl,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::Keyring;
use crate::sealing::{Content, Place, Stored};

/// What [`parse_webhook`] reads.
macro_rules! webhook_columns {
    () => {
        "id, tenant_id, url, events, session_ids, secret, secret_key_id, is_active, disabled_reason, disabled_at, \
         rate_limit, concurrency, drain_rate, is_ordered, paused_at, created_at, updated_at, description, \
         metadata::text AS metadata, headers, headers_key_id, timeout_ms, retry_schedule, is_thin, payload_version, filter, \
         previous_secrets, previous_secrets_key_id, signature_scheme, signing_keys, signing_keys_key_id"
    };
}
pub(super) use webhook_columns;

/// What is encrypted of a webhook. Without bytes there is nothing.
pub(super) struct SealedParts {
    pub(super) secret: Stored,
    pub(super) previous_secrets: Stored,
    pub(super) signing_keys: Stored,
    pub(super) headers: Stored,
}

impl SealedParts {
    /// As they are stored, whether or not they can be opened here.
    pub(super) fn of(row: &Row) -> Self {
        let stored = |bytes, key_id| Stored { bytes: row.get(bytes), key_id: row.get(key_id) };
        Self {
            secret: stored("secret", "secret_key_id"),
            previous_secrets: stored("previous_secrets", "previous_secrets_key_id"),
            signing_keys: stored("signing_keys", "signing_keys_key_id"),
            headers: stored("headers", "headers_key_id"),
        }
    }
}

/// What is written of a webhook, the same whether it is new or changed.
pub(super) struct Columns<'a> {
    webhook: &'a Webhook,
    url: &'a str,
    events: Vec<String>,
    session_ids: Option<Vec<String>>,
    duplicate_key: String,
    sealed: SealedParts,
    rate_limit: Option<i32>,
    concurrency: Option<i32>,
    drain_rate: Option<i32>,
    description: Option<&'a str>,
    metadata: String,
    timeout_ms: Option<i32>,
    retry_schedule: Option<Vec<i32>>,
    payload_version: i16,
    filter: Option<&'a str>,
    signature_scheme: &'static str,
}

impl<'a> Columns<'a> {
    pub(super) fn new(webhook: &'a Webhook, sealed: SealedParts) -> Self {
        let Webhook { gate, delivery, .. } = webhook;
        Self {
            url: webhook.url.as_str(),
            events: texts(&webhook.events),
            session_ids: webhook.session_ids.as_deref().map(texts),
            duplicate_key: duplicate_key(&webhook.url, &webhook.events),
            sealed,
            rate_limit: integer(gate.rate_limit),
            concurrency: integer(gate.concurrency),
            drain_rate: integer(gate.drain_rate),
            description: webhook.description.as_ref().map(Description::as_str),
            metadata: serde_json::json!(webhook.metadata.entries()).to_string(),
            timeout_ms: integer(delivery.timeout.map(AttemptTimeout::as_ms)),
            retry_schedule: delivery.retry_schedule.as_ref().map(seconds),
            payload_version: delivery.payload_version.number(),
            filter: webhook.filter.as_ref().map(Filter::as_str),
            signature_scheme: delivery.signature_scheme.code(),
            webhook,
        }
    }

    /// The parameters of the statements that write, `$1` to `$28`.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 28] {
        [
            &self.webhook.id.0,
            &self.webhook.tenant_id.0,
            &self.webhook.updated_at,
            &self.url,
            &self.events,
            &self.session_ids,
            &self.duplicate_key,
            &self.sealed.secret.bytes,
            &self.sealed.secret.key_id,
            &self.webhook.is_active,
            &self.rate_limit,
            &self.concurrency,
            &self.drain_rate,
            &self.webhook.gate.is_ordered,
            &self.description,
            &self.metadata,
            &self.sealed.headers.bytes,
            &self.sealed.headers.key_id,
            &self.timeout_ms,
            &self.retry_schedule,
            &self.webhook.delivery.is_thin,
            &self.payload_version,
            &self.filter,
            &self.sealed.previous_secrets.bytes,
            &self.sealed.previous_secrets.key_id,
            &self.signature_scheme,
            &self.sealed.signing_keys.bytes,
            &self.sealed.signing_keys.key_id,
        ]
    }
}

/// The same for the same URL and the same set of events, in whatever order they were given.
fn duplicate_key(url: &WebhookUrl, events: &[EventPattern]) -> String {
    let mut events = texts(events);
    events.sort_unstable();
    events.dedup();
    format!("{} {}", url.url(), events.join(" "))
}

pub(super) fn integer(value: Option<u32>) -> Option<i32> {
    value.map(|value| i32::try_from(value).unwrap_or(i32::MAX))
}

fn seconds(schedule: &RetrySchedule) -> Vec<i32> {
    schedule.delays().iter().map(|delay| i32::try_from(delay.as_secs()).unwrap_or(i32::MAX)).collect()
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// What is encrypted of a webhook's headers: a JSON object.
pub(super) fn headers_to_bytes(headers: &CustomHeaders) -> Option<SecretBytes> {
    let pairs: BTreeMap<&str, &str> = headers.iter().collect();
    (!headers.is_empty()).then(|| SecretBytes::new(serde_json::json!(pairs).to_string().into_bytes()))
}

/// How one of them is written before it is encrypted.
#[derive(Serialize, Deserialize)]
struct PreviousSecretJson {
    secret: String,
    expires_at: DateTime<Utc>,
}

pub(super) fn previous_secrets_to_bytes(previous: &[PreviousSecret]) -> Option<SecretBytes> {
    let json = |previous: &PreviousSecret| PreviousSecretJson {
        secret: STANDARD.encode(previous.secret.expose()),
        expires_at: previous.expires_at,
    };
    let json: Vec<PreviousSecretJson> = previous.iter().map(json).collect();
    let bytes = serde_json::to_vec(&json).unwrap_or_default();
    (!previous.is_empty()).then(|| SecretBytes::new(bytes))
}

fn open_previous_secrets(
    row: &Row,
    keys: &Keyring,
    place: Place,
) -> Result<Result<Vec<PreviousSecret>, SecretUnreadable>, Invalid> {
    let stored = SealedParts::of(row).previous_secrets;
    let Some((stored, key_id)) = stored.bytes.zip(stored.key_id) else { return Ok(Ok(Vec::new())) };
    let opened = match keys.open(&key_id, &stored, place.of(Content::PreviousSecrets)) {
        Ok(opened) => opened,
        Err(unreadable) => return Ok(Err(unreadable)),
    };
    // Never repeats what it cannot read.
    let unreadable = || Invalid::new("what should be a list of secrets is not");
    let json: Vec<PreviousSecretJson> = serde_json::from_slice(opened.expose()).map_err(|_| unreadable())?;
    let read = |json: PreviousSecretJson| {
        let secret = SecretBytes::new(STANDARD.decode(json.secret).map_err(|_| unreadable())?);
        Ok(PreviousSecret { secret, expires_at: json.expires_at })
    };
    json.into_iter().map(read).collect::<Result<_, _>>().map(Ok)
}

/// How the private keys are written before they are encrypted. The first has no end.
#[derive(Serialize, Deserialize)]
struct SigningKeyJson {
    seed: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
}

pub(super) fn signing_keys_to_bytes(keys: &SigningKeys) -> SecretBytes {
    let json =
        |seed: &SecretBytes, expires_at| SigningKeyJson { seed: STANDARD.encode(seed.expose()), expires_at };
    let previous = keys.previous.iter().map(|previous| json(&previous.secret, Some(previous.expires_at)));
    let all: Vec<SigningKeyJson> = std::iter::once(json(&keys.current, None)).chain(previous).collect();
    SecretBytes::new(serde_json::to_vec(&all).unwrap_or_default())
}

fn open_signing_keys(
    row: &Row,
    keys: &Keyring,
    place: Place,
) -> Result<Result<Option<SigningKeys>, SecretUnreadable>, Invalid> {
    let stored = SealedParts::of(row).signing_keys;
    let Some((stored, key_id)) = stored.bytes.zip(stored.key_id) else { return Ok(Ok(None)) };
    match keys.open(&key_id, &stored, place.of(Content::SigningKeys)) {
        Ok(opened) => parse_signing_keys(&opened).map(|keys| Ok(Some(keys))),
        Err(unreadable) => Ok(Err(unreadable)),
    }
}

/// Never repeats what it cannot read.
fn parse_signing_keys(opened: &SecretBytes) -> Result<SigningKeys, Invalid> {
    let unreadable = || Invalid::new("what should be a list of signing keys is not");
    let json: Vec<SigningKeyJson> = serde_json::from_slice(opened.expose()).map_err(|_| unreadable())?;
    let mut keys = json.into_iter().map(|json| {
        let seed = SecretBytes::new(STANDARD.decode(json.seed).map_err(|_| unreadable())?);
        Ok::<_, Invalid>((seed, json.expires_at))
    });
    let (current, _) = keys.next().ok_or_else(unreadable)??;
    let previous = keys.map(|key| {
        let (secret, expires_at) = key?;
        Ok(PreviousSecret { secret, expires_at: expires_at.ok_or_else(unreadable)? })
    });
    Ok(SigningKeys { current, previous: previous.collect::<Result<_, Invalid>>()? })
}

/// The secret in a row of webhooks; one without a key is from before secrets were encrypted.
fn open_secret(row: &Row, keys: &Keyring, place: Place) -> Result<SecretBytes, SecretUnreadable> {
    let stored: &[u8] = row.get("secret");
    match row.get("secret_key_id") {
        Some(key_id) => keys.open(key_id, stored, place.of(Content::Secret)),
        None => Ok(SecretBytes::new(stored)),
    }
}

pub(super) fn parse_webhook(row: &Row, keys: &Keyring) -> Result<Webhook, Invalid> {
    let place = Place { tenant: TenantId(row.get("tenant_id")), webhook: WebhookId(row.get("id")) };
    let events: Vec<&str> = row.get("events");
    let session_ids: Option<Vec<&str>> = row.get("session_ids");
    let reason: Option<&str> = row.get("disabled_reason");
    let disabled_at: Option<DateTime<Utc>> = row.get("disabled_at");
    let description: Option<&str> = row.get("description");
    Ok(Webhook {
        id: place.webhook,
        tenant_id: place.tenant,
        url: WebhookUrl::parse_stored(row.get("url"))?,
        events: events.into_iter().map(str::parse).collect::<Result<_, _>>()?,
        session_ids: session_ids
            .map(|ids| ids.into_iter().map(str::parse).collect::<Result<_, _>>())
            .transpose()?,
        filter: row.get::<_, Option<&str>>("filter").map(str::parse).transpose()?,
        secret: open_secret(row, keys, place),
        previous_secrets: open_previous_secrets(row, keys, place)?,
        signing_keys: open_signing_keys(row, keys, place)?,
        is_active: row.get("is_active"),
        disabled: reason.map(str::parse).transpose()?.zip(disabled_at),
        gate: GateSettings {
            rate_limit: count(row, "rate_limit"),
            concurrency: count(row, "concurrency"),
            drain_rate: count(row, "drain_rate"),
            is_ordered: row.get("is_ordered"),
        },
        delivery: parse_delivery(row, keys, place)?,
        description: description.map(Description::new).transpose()?,
        metadata: Metadata::new(parse_map(row.get::<_, &str>("metadata").as_bytes())?)?,
        paused_at: row.get("paused_at"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    })
}

fn parse_delivery(row: &Row, keys: &Keyring, place: Place) -> Result<DeliverySettings, Invalid> {
    let schedule: Option<Vec<i32>> = row.get("retry_schedule");
    let delay = |seconds: i32| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let schedule =
        schedule.map(|delays| RetrySchedule::new(delays.into_iter().map(delay).collect())).transpose()?;
    Ok(DeliverySettings {
        headers: open_headers(row, keys, place)?,
        timeout: row
            .get::<_, Option<i32>>("timeout_ms")
            .map(|ms| AttemptTimeout::from_ms(ms.into()))
            .transpose()?,
        retry_schedule: schedule,
        is_thin: row.get("is_thin"),
        payload_version: PayloadVersion::from_number(row.get::<_, i16>("payload_version").into())?,
        signature_scheme: row.get::<_, &str>("signature_scheme").parse()?,
    })
}

fn open_headers(
    row: &Row,
    keys: &Keyring,
    place: Place,
) -> Result<Result<CustomHeaders, SecretUnreadable>, Invalid> {
    let (stored, key_id): (Option<&[u8]>, Option<&str>) = (row.get("headers"), row.get("headers_key_id"));
    let Some((stored, key_id)) = stored.zip(key_id) else { return Ok(Ok(CustomHeaders::default())) };
    match keys.open(key_id, stored, place.of(Content::Headers)) {
        Ok(opened) => CustomHeaders::new(parse_map(opened.expose())?).map(Ok),
        Err(unreadable) => Ok(Err(unreadable)),
    }
}

/// Never repeats what it cannot read.
fn parse_map(json: &[u8]) -> Result<BTreeMap<String, String>, Invalid> {
    serde_json::from_slice(json).map_err(|_| Invalid::new("what should be an object of texts is not"))
}

fn count(row: &Row, column: &str) -> Option<u32> {
    row.get::<_, Option<i32>>(column).and_then(|value| u32::try_from(value).ok())
}
