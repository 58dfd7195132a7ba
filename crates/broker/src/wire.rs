use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::{
    Event, Invalid, TenantId, TraceContext, check_data, parse_deliver_at, parse_occurred_at, parse_tags,
    render_body,
};
use instruments::{Label, Labels};
use lapin::protocol::basic::AMQPProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Largest message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Most events in one message.
pub const MAX_EVENTS_PER_MESSAGE: usize = 500;

const CONTENT_TYPE: &str = "application/json";
const VERSION_HEADER: &str = "postrider-version";
const VERSION: &str = "1";
/// What an event has around its data, as a rule, in bytes.
const USUAL_ENVELOPE_BYTES: usize = 384;
/// The trace of a message's events that do not name one themselves, as OpenTelemetry's instrumentations write it.
const TRACEPARENT_HEADER: &str = "traceparent";
const TRACESTATE_HEADER: &str = "tracestate";
/// As RabbitMQ's own plugin for timestamps calls it.
const TIMESTAMP_HEADER: &str = "timestamp_in_ms";

/// Why an event was not taken over. The codes are part of the queue contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The body is not UTF-8.
    NotUtf8,
    /// The body is not JSON.
    NotJson,
    /// A limit on size or number is exceeded.
    TooLarge,
    /// The content type is something else than JSON.
    BadContentType,
    /// The body is compressed.
    ContentEncoding,
    /// The contract's version is one this installation does not speak.
    UnknownVersion,
    /// A header of ours has the wrong type.
    BadHeader,
    /// A field is missing, unknown or invalid.
    BadEvent,
    /// Nobody knows the tenant.
    UnknownTenant,
    /// The catalogue has no such type.
    UnknownType,
    /// The routing key is not the event's type.
    RoutingKeyMismatch,
}

impl Reason {
    /// The code in the `postrider-reason` header.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::TooLarge => "too_large",
            Self::BadContentType => "bad_content_type",
            Self::ContentEncoding => "content_encoding",
            Self::UnknownVersion => "unknown_version",
            Self::BadHeader => "bad_header",
            Self::BadEvent => "bad_event",
            Self::UnknownTenant => "unknown_tenant",
            Self::UnknownType => "unknown_type",
            Self::RoutingKeyMismatch => "routing_key_mismatch",
        }
    }
}

impl Label for Reason {
    const ALL: &'static [(Self, Labels)] = &[
        (Self::NotUtf8, &[("reason", "not_utf8")]),
        (Self::NotJson, &[("reason", "not_json")]),
        (Self::TooLarge, &[("reason", "too_large")]),
        (Self::BadContentType, &[("reason", "bad_content_type")]),
        (Self::ContentEncoding, &[("reason", "content_encoding")]),
        (Self::UnknownVersion, &[("reason", "unknown_version")]),
        (Self::BadHeader, &[("reason", "bad_header")]),
        (Self::BadEvent, &[("reason", "bad_event")]),
        (Self::UnknownTenant, &[("reason", "unknown_tenant")]),
        (Self::UnknownType, &[("reason", "unknown_type")]),
        (Self::RoutingKeyMismatch, &[("reason", "routing_key_mismatch")]),
    ];
}

/// An event, or a whole message, that goes to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The kind of fault.
    pub reason: Reason,
    /// A sentence for whoever published it.
    pub detail: String,
    /// What was published: the message's body, or the one bad event of an array.
    pub body: Bytes,
}

impl Rejection {
    /// Rejects an event that was read well and then not taken over. Its body is the event as the contract wants it.
    pub fn of_event(reason: Reason, detail: String, event: &Event) -> Self {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            data: &'a RawValue,
        }
        let body = match serde_json::from_slice::<Body<'_>>(&event.body) {
            Ok(Body { data }) => encode_event(event, data),
            Err(_) => event.body.clone(), // cannot be: the body was rendered from valid JSON
        };
        Self { reason, detail, body }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IncomingEvent<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    tenant_id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    occurred_at: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    ordering_key: Option<Cow<'a, str>>,
    // One word each, as W3C writes them.
    #[serde(borrow, default, rename = "traceparent")]
    trace_parent: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "tracestate")]
    trace_state: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    deliver_at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tags: Vec<Cow<'a, str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutgoingEvent<'a> {
    id: &'a str,
    tenant_id: TenantIdText,
    #[serde(rename = "type")]
    event_type: &'a str,
    occurred_at: String,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<&'a str>,
    #[serde(rename = "traceparent", skip_serializing_if = "Option::is_none")]
    trace_parent: Option<String>,
    #[serde(rename = "tracestate", skip_serializing_if = "Option::is_none")]
    trace_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct TenantIdText(uuid::Uuid);

/// One event as the contract wants it. `event.body` is not used: dispatchers render it.
pub(crate) fn encode_event(event: &Event, data: &RawValue) -> Bytes {
    let mut json = Vec::new();
    write_event(&mut json, event, data, event.trace.as_deref());
    Bytes::from(json)
}

/// Appends what [`encode_event`] gives, as part of this trace.
pub(crate) fn write_event(json: &mut Vec<u8>, event: &Event, data: &RawValue, trace: Option<&TraceContext>) {
    let outgoing = OutgoingEvent {
        id: event.id.as_str(),
        tenant_id: TenantIdText(event.tenant_id.0),
        event_type: event.event_type.as_str(),
        occurred_at: event.occurred_at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        data,
        session_id: event.session_id.as_ref().map(domain::SessionId::as_str),
        ordering_key: event.ordering_key.as_ref().map(domain::OrderingKey::as_str),
        trace_parent: trace.map(TraceContext::traceparent),
        trace_state: trace.and_then(|trace| trace.state.as_deref()),
        deliver_at: event.deliver_at.map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        tags: event.tags.iter().map(domain::Tag::as_str).collect(),
    };
    json.reserve(data.get().len() + USUAL_ENVELOPE_BYTES);
    serde_json::to_writer(json, &outgoing).expect("strings and valid JSON are serializable");
}

/// The headers that say when a message is published. AMQP's own property knows only seconds.
pub(crate) fn published_now() -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(TIMESTAMP_HEADER.into(), AMQPValue::LongLongInt(Utc::now().timestamp_millis()));
    headers
}

/// When a message was published. For measurements alone: it is the publisher's word.
pub(crate) fn published_at(properties: &AMQPProperties) -> Option<DateTime<Utc>> {
    let header = properties.headers().as_ref().and_then(|headers| headers.inner().get(TIMESTAMP_HEADER));
    if let Some(AMQPValue::LongLongInt(milliseconds)) = header {
        return DateTime::from_timestamp_millis(*milliseconds);
    }
    DateTime::from_timestamp(i64::try_from((*properties.timestamp())?).ok()?, 0)
}

/// What a message held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) events: Vec<Event>,
    pub(crate) rejections: Vec<Rejection>,
}

/// Reads a message. `routing_key` must be the type of each event; `None` where the exchange has a key of its own.
pub(crate) fn decode_message(body: &[u8], properties: &AMQPProperties, routing_key: Option<&str>) -> Decoded {
    match decode_whole(body, properties) {
        Err((reason, detail)) => Decoded {
            events: Vec::new(),
            rejections: vec![Rejection { reason, detail, body: Bytes::copy_from_slice(body) }],
        },
        Ok(items) => {
            let mut decoded = Decoded::default();
            let trace = trace_of(properties);
            for item in items {
                match decode_event(item, routing_key) {
                    Ok(mut event) => {
                        if event.trace.is_none() {
                            event.trace.clone_from(&trace);
                        }
                        decoded.events.push(event);
                    }
                    Err((reason, detail)) => decoded.rejections.push(Rejection {
                        reason,
                        detail,
                        body: Bytes::copy_from_slice(item.as_bytes()),
                    }),
                }
            }
            decoded
        }
    }
}

/// The trace that the message itself belongs to.
fn trace_of(properties: &AMQPProperties) -> Option<Box<TraceContext>> {
    let headers = properties.headers().as_ref()?.inner();
    let text = |name: &str| {
        let Some(AMQPValue::LongString(text)) = headers.get(name) else { return None };
        std::str::from_utf8(text.as_bytes()).ok()
    };
    let context = TraceContext::parse(text(TRACEPARENT_HEADER)?, text(TRACESTATE_HEADER))?;
    Some(Box::new(context))
}

type Fault = (Reason, String);

/// Checks what concerns the message as a whole, and splits it into the JSON of its events.
fn decode_whole<'a>(body: &'a [u8], properties: &AMQPProperties) -> Result<Vec<&'a str>, Fault> {
    check_properties(properties)?;
    if body.len() > MAX_MESSAGE_BYTES {
        let detail = format!("the message is {} bytes long, the limit is {MAX_MESSAGE_BYTES}", body.len());
        return Err((Reason::TooLarge, detail));
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| (Reason::NotUtf8, format!("the body is not UTF-8: {error}")))?;
    if !text.trim_start().starts_with('[') {
        return Ok(vec![text]);
    }
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(not_json)?;
    if items.len() > MAX_EVENTS_PER_MESSAGE {
        let detail =
            format!("the message holds {} events, the limit is {MAX_EVENTS_PER_MESSAGE}", items.len());
        return Err((Reason::TooLarge, detail));
    }
    if items.is_empty() {
        return Err((Reason::BadEvent, "the array holds no event".to_owned()));
    }
    Ok(items.into_iter().map(RawValue::get).collect())
}

fn check_properties(properties: &AMQPProperties) -> Result<(), Fault> {
    if let Some(encoding) = properties.content_encoding() {
        let identity = ["", "identity", "utf-8"].contains(&encoding.as_str().to_ascii_lowercase().as_str());
        if !identity {
            return Err((
                Reason::ContentEncoding,
                format!("content_encoding {:?} is not supported", encoding.as_str()),
            ));
        }
    }
    if let Some(content_type) = properties.content_type() {
        let media_type = content_type.as_str().split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case(CONTENT_TYPE) {
            let detail = format!("content_type must be {CONTENT_TYPE}, not {media_type:?}");
            return Err((Reason::BadContentType, detail));
        }
    }
    let version = properties.headers().as_ref().and_then(|headers| headers.inner().get(VERSION_HEADER));
    match version.map(version_text) {
        None => Ok(()),
        Some(None) => Err((Reason::BadHeader, format!("{VERSION_HEADER} must be an integer or a string"))),
        Some(Some(version)) if version == VERSION => Ok(()),
        Some(Some(version)) => Err((
            Reason::UnknownVersion,
            format!("{VERSION_HEADER} {version:?} is not known; send {VERSION}"),
        )),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other AMQP type is a wrong one")]
fn version_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::ShortShortInt(number) => Some(number.to_string()),
        AMQPValue::ShortShortUInt(number) => Some(number.to_string()),
        AMQPValue::ShortInt(number) => Some(number.to_string()),
        AMQPValue::ShortUInt(number) => Some(number.to_string()),
        AMQPValue::LongInt(number) => Some(number.to_string()),
        AMQPValue::LongUInt(number) => Some(number.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        _ => None,
    }
}

fn decode_event(json: &str, routing_key: Option<&str>) -> Result<Event, Fault> {
    // serde would read an array as the fields in their order.
    if json.trim_start().starts_with('[') {
        return Err((Reason::BadEvent, "an event must be a JSON object, not an array".to_owned()));
    }
    let incoming: IncomingEvent<'_> = serde_json::from_str(json).map_err(|error| {
        if error.is_data() { (Reason::BadEvent, error.to_string()) } else { not_json(error) }
    })?;
    let event = parse_event(&incoming).map_err(|invalid| (Reason::BadEvent, invalid.to_string()))?;
    match routing_key {
        Some(key) if key != event.event_type.as_str() => {
            let detail = format!("the routing key is {key:?}, the event's type is \"{}\"", event.event_type);
            Err((Reason::RoutingKeyMismatch, detail))
        }
        _ => Ok(event),
    }
}

fn parse_event(incoming: &IncomingEvent<'_>) -> Result<Event, Invalid> {
    let id = incoming.id.parse()?;
    let event_type = incoming.event_type.parse()?;
    let tenant_id: TenantId = incoming.tenant_id.parse()?;
    let occurred_at = parse_occurred_at(&incoming.occurred_at)?;
    let session_id = incoming.session_id.as_deref().map(str::parse).transpose()?;
    let ordering_key = incoming.ordering_key.as_deref().map(str::parse).transpose()?;
    let deliver_at = incoming.deliver_at.as_deref().map(parse_deliver_at).transpose()?;
    let tags = parse_tags(&incoming.tags)?;
    let parent = incoming.trace_parent.as_deref();
    let trace = parent.and_then(|parent| TraceContext::parse(parent, incoming.trace_state.as_deref()));
    let trace = trace.map(Box::new);
    check_data(incoming.data)?;
    let body = render_body(&id, &event_type, occurred_at, incoming.data);
    Ok(Event {
        tenant_id,
        id,
        event_type,
        occurred_at,
        session_id,
        ordering_key,
        deliver_at,
        tags,
        trace,
        body,
    })
}

fn not_json(error: serde_json::Error) -> Fault {
    (Reason::NotJson, format!("the body is not JSON: {error}"))
}

#[cfg(test)]
mod tests;
