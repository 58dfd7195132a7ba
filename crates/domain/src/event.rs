use bytes::Bytes;
use chrono::{DateTime, Datelike as _, TimeDelta, Utc};

use crate::{EventId, EventType, Invalid, OrderingKey, SessionId, TenantId, TraceContext};

/// How long a request that publishes is known by its idempotency key. Less than the time in which a repeated event is known by
/// its id: the current and the previous UTC day.
pub const IDEMPOTENCY_KEYS_KEPT: TimeDelta = TimeDelta::hours(24);

/// Reads when an event happened: RFC 3339 with an offset, from 1970 to 9999 in UTC.
pub fn parse_occurred_at(text: &str) -> Result<DateTime<Utc>, Invalid> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| {
            Invalid::new("occurredAt must be an RFC 3339 time with an offset, like 2026-05-30T10:00:00Z")
        })?
        .with_timezone(&Utc);
    if !(1970..=9999).contains(&time.year()) {
        return Err(Invalid::new("occurredAt must be between the years 1970 and 9999"));
    }
    Ok(time)
}

/// Something that happened to a tenant, ready to be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose event it is.
    pub tenant_id: TenantId,
    /// Unique within the tenant.
    pub id: EventId,
    /// What happened.
    pub event_type: EventType,
    /// When it happened, as its publisher says.
    pub occurred_at: DateTime<Utc>,
    /// The session it came from, if any.
    pub session_id: Option<SessionId>,
    /// What it is kept in order by, where its publisher says so.
    pub ordering_key: Option<OrderingKey>,
    /// Where it belongs among traces, if anywhere.
    pub trace: Option<Box<TraceContext>>,
    /// The exact bytes that are signed, stored and sent ([`crate::render_body`]).
    pub body: Bytes,
}

impl Event {
    /// What webhooks that want order keep this event in order by: the key given, else the session, else nothing but
    /// itself.
    pub fn order(&self) -> &str {
        let session = || self.session_id.as_ref().map(SessionId::as_str);
        self.ordering_key
            .as_ref()
            .map(OrderingKey::as_str)
            .or_else(session)
            .unwrap_or_else(|| self.id.as_str())
    }

    /// Whether its order among others matters to webhooks that want order.
    pub fn has_order(&self) -> bool {
        self.ordering_key.is_some() || self.session_id.is_some()
    }
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_outside_four_digit_years_or_without_an_offset_are_refused() {
        for bad in [
            "9999-12-31T23:59:59-14:00",
            "0000-01-01T00:00:00+14:00",
            "1969-12-31T23:59:59Z",
            "2026-05-30T10:00:00",
            "now",
        ] {
            assert!(parse_occurred_at(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_accepted_again_after_it_was_written(seconds in -99_999_999_999_i64..999_999_999_999, nanos in 0_u32..1_000_000_000) {
            if let Some(time) = DateTime::from_timestamp(seconds, nanos)
                && let Ok(parsed) = parse_occurred_at(&time.to_rfc3339())
            {
                let written = parsed.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                prop_assert_eq!(parse_occurred_at(&written), Ok(time));
            }
        }
    }
}
