use std::fmt::Write as _;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::value::RawValue;

use crate::{Event, EventId, EventLinks, EventType, Invalid};

/// Largest `data` of an event, in bytes of JSON as published.
pub const MAX_DATA_BYTES: usize = 256 * 1024;
/// Deepest nesting of arrays and objects in `data`.
pub const MAX_DATA_DEPTH: usize = 64;

/// What a body has around its data, as a rule, in bytes.
const USUAL_ENVELOPE_BYTES: usize = 160;

/// Refuses `data` that is over a limit. The bytes themselves are never changed.
pub fn check_data(data: &RawValue) -> Result<(), Invalid> {
    let json = data.get();
    if json.len() > MAX_DATA_BYTES {
        let kib = MAX_DATA_BYTES / 1024;
        return Err(Invalid::new(format!(
            "data must be at most {kib} KiB of JSON, not {} bytes",
            json.len()
        )));
    }
    // Nearly all data has too few brackets to be nested too deep, and they are quicker counted than followed.
    if brackets(json) > MAX_DATA_DEPTH && depth(json) > MAX_DATA_DEPTH {
        return Err(Invalid::new(format!("data must be nested at most {MAX_DATA_DEPTH} deep")));
    }
    Ok(())
}

/// The body a receiver gets, and the signature covers: `{"id","type","timestamp","data"}`, with `data` byte for byte
/// as published and the timestamp in UTC with milliseconds.
pub fn render_body(
    id: &EventId,
    event_type: &EventType,
    occurred_at: DateTime<Utc>,
    data: &RawValue,
) -> Bytes {
    let id = serde_json::Value::from(id.as_str());
    let timestamp = occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let data = data.get();
    // Its size is known, so that it is not moved as it grows: this is done for each event.
    let mut body = String::with_capacity(data.len() + USUAL_ENVELOPE_BYTES);
    let written =
        write!(body, r#"{{"id":{id},"type":"{event_type}","timestamp":"{timestamp}","data":{data}}}"#);
    written.expect("a string takes everything");
    Bytes::from(body)
}

/// The body that webhooks in thin mode get: like [`render_body`], with a link to the event in place of its data.
pub fn render_thin_body(event: &Event, links: &EventLinks) -> Bytes {
    let id = serde_json::Value::from(event.id.as_str());
    let url = serde_json::Value::from(links.to(&event.id));
    let timestamp = event.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let event_type = &event.event_type;
    Bytes::from(format!(r#"{{"id":{id},"type":"{event_type}","timestamp":"{timestamp}","url":{url}}}"#))
}

/// Opening brackets, those in strings among them.
fn brackets(json: &str) -> usize {
    json.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count()
}

/// Nesting of valid JSON: the largest number of arrays and objects open at once.
fn depth(json: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn data_is_rendered_byte_for_byte() {
        let data = raw(r#"{ "b": 1.0e+2, "a":[0.10 , 1e400], "b":"\u00e9\/" }"#);
        let occurred_at = "2026-05-30T12:00:00.123456+02:00".parse::<DateTime<Utc>>().unwrap();
        let body =
            render_body(&"a\"b".parse().unwrap(), &"message.sent".parse().unwrap(), occurred_at, &data);
        assert_eq!(
            body,
            r#"{"id":"a\"b","type":"message.sent","timestamp":"2026-05-30T10:00:00.123Z","data":{ "b": 1.0e+2, "a":[0.10 , 1e400], "b":"\u00e9\/" }}"#
        );
    }

    #[test]
    fn a_thin_body_has_a_link_in_place_of_the_data() {
        let event = Event {
            tenant_id: crate::TenantId(uuid::Uuid::nil()),
            id: "a\"b".parse().unwrap(),
            event_type: "message.sent".parse().unwrap(),
            occurred_at: "2026-05-30T12:00:00.123456+02:00".parse().unwrap(),
            session_id: None,
            ordering_key: None,
            trace: None,
            deliver_at: None,
            tags: Vec::new(),
            body: Bytes::from_static(b"whatever"),
        };
        let body = render_thin_body(&event, &"https://api.example.com".parse().unwrap());
        assert_eq!(
            body,
            r#"{"id":"a\"b","type":"message.sent","timestamp":"2026-05-30T10:00:00.123Z","url":"https://api.example.com/api/events/a%22b"}"#
        );
    }

    #[test]
    fn nesting_is_counted_outside_strings_only() {
        assert_eq!(depth(r#"{"[[[":"\"[[["}"#), 1);
        assert_eq!(depth("[[],[[]]]"), 3);
        let nested = |levels: usize| raw(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
        assert!(check_data(&nested(MAX_DATA_DEPTH)).is_ok());
        assert!(check_data(&nested(MAX_DATA_DEPTH + 1)).is_err());
    }

    #[test]
    fn data_over_the_limit_is_refused() {
        let text = |bytes: usize| raw(&format!("\"{}\"", "x".repeat(bytes - 2)));
        assert!(check_data(&text(MAX_DATA_BYTES)).is_ok());
        assert!(check_data(&text(MAX_DATA_BYTES + 1)).is_err());
    }
}
