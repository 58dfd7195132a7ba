//! Places in a history, and among events, as an opaque text for clients.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use domain::Invalid;
use store::{AttemptCursor, EventCursor};
use uuid::Uuid;

/// What the database can compare: it knows fewer years than there are numbers.
const YEARS: std::ops::Range<i32> = 1970..10_000;

/// The text for a place.
pub(crate) fn encode(cursor: &AttemptCursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", cursor.started_at.timestamp_micros(), cursor.event_id))
}

/// The text for a place in a list that is in the order of its ids.
pub(crate) fn encode_id(id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(format!("0.{id}"))
}

/// Reads what [`encode_id`] wrote.
pub(crate) fn decode_id(text: &str) -> Result<Uuid, Invalid> {
    let wrong = || Invalid::new("cursor must be a nextCursor of this list");
    let place = decode(text).map_err(|_| wrong())?;
    Uuid::try_parse(place.event_id.as_str()).map_err(|_| wrong())
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(text: &str) -> Result<AttemptCursor, Invalid> {
    let parse = || {
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (micros, event_id) = plain.split_once('.')?;
        Some(AttemptCursor { started_at: time(micros)?, event_id: event_id.parse().ok()? })
    };
    parse().ok_or_else(|| Invalid::new("cursor must be a nextCursor of this history"))
}

/// Reads a time of a cursor, in microseconds, if it is one that the database knows.
pub(crate) fn time(micros: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros.parse().ok()?).filter(|at| YEARS.contains(&at.year()))
}

/// The text for a place among a tenant's events.
pub(crate) fn encode_event(cursor: &EventCursor) -> String {
    let (batch, position) = cursor.place;
    URL_SAFE_NO_PAD.encode(format!("e.{}.{batch}.{position}", cursor.day.num_days_from_ce()))
}

/// Reads what [`encode_event`] wrote.
pub(crate) fn decode_event(text: &str) -> Result<EventCursor, Invalid> {
    let parse = || {
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let mut parts = plain.strip_prefix("e.")?.split('.');
        let day = NaiveDate::from_num_days_from_ce_opt(parts.next()?.parse().ok()?)?;
        let place = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let is_sound = parts.next().is_none() && YEARS.contains(&day.year());
        is_sound.then_some(EventCursor { day, place })
    };
    parse().ok_or_else(|| Invalid::new("after must be a nextCursor of GET /api/events"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_that_the_database_does_not_know_is_refused() {
        for micros in [i64::MIN, -8_000_000_000_000_000_000, -1, 253_402_300_800_000_000, i64::MAX] {
            assert!(decode(&URL_SAFE_NO_PAD.encode(format!("{micros}.e1"))).is_err(), "{micros}");
        }
    }

    proptest! {
        #[test]
        fn a_place_comes_back(micros in 0..253_402_300_800_000_000_i64, id in "[!-~]{1,64}") {
            let Ok(event_id) = id.parse() else { return Ok(()) };
            let cursor = AttemptCursor { started_at: DateTime::from_timestamp_micros(micros).unwrap(), event_id };
            let again = decode(&encode(&cursor)).unwrap();
            prop_assert_eq!((again.started_at, again.event_id), (cursor.started_at, cursor.event_id));
        }

        #[test]
        fn no_text_panics_and_what_is_read_is_within_the_years(
            text in "\\PC{0,40}", micros: i64, id in "\\PC{0,12}",
        ) {
            let made_up = URL_SAFE_NO_PAD.encode(format!("{micros}.{id}"));
            for text in [text, made_up] {
                if let Ok(cursor) = decode(&text) {
                    prop_assert!(YEARS.contains(&cursor.started_at.year()));
                }
            }
        }
    }

    #[test]
    fn what_was_written_for_an_event_is_read_again_and_nothing_else() {
        let day = NaiveDate::from_ymd_opt(2026, 5, 30).unwrap();
        let cursor = EventCursor { day, place: (1 << 40, 500) };
        assert_eq!(decode_event(&encode_event(&cursor)), Ok(cursor));
        for bad in ["e.1.2", "e.739766.1.2.3", "e.999999999.1.1", "739766.1.1", "e.a.b.c", "e.1.1.1"] {
            assert!(decode_event(&URL_SAFE_NO_PAD.encode(bad)).is_err(), "{bad}");
        }
        assert!(decode_event("%").is_err() && decode_event("").is_err());
    }
}
