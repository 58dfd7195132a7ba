//! Places in a history, as an opaque text for clients.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use domain::Invalid;
use store::AttemptCursor;

/// The text for a place.
pub(crate) fn encode(cursor: &AttemptCursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", cursor.started_at.timestamp_micros(), cursor.event_id))
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(text: &str) -> Result<AttemptCursor, Invalid> {
    let parse = || {
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (micros, event_id) = plain.split_once('.')?;
        let started_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        Some(AttemptCursor { started_at, event_id: event_id.parse().ok()? })
    };
    parse().ok_or_else(|| Invalid::new("cursor must be a nextCursor of this history"))
}
