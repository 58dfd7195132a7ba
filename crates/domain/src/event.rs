use bytes::Bytes;
use chrono::{DateTime, Datelike as _, TimeDelta, Utc};

use crate::{EventId, EventType, Invalid, OrderingKey, SessionId, Tag, TenantId, TraceContext};

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

/// How long the delivery of an event can be put off.
pub const MAX_DELIVERY_DELAY: TimeDelta = TimeDelta::days(30);
/// How long before the end of its retention the delivery of an event begins at the latest: its retries need it.
const ROOM_FOR_RETRIES: TimeDelta = TimeDelta::days(5);
/// Most tags of an event.
pub const MAX_TAGS_PER_EVENT: usize = 10;

/// Reads when an event is to be delivered: RFC 3339 with an offset.
pub fn parse_deliver_at(text: &str) -> Result<DateTime<Utc>, Invalid> {
    parse_occurred_at(text).map_err(|_| {
        Invalid::new("deliverAt must be an RFC 3339 time with an offset, like 2026-05-30T10:00:00Z")
    })
}

/// Refuses a time so far off that the event would not be kept until then.
pub fn check_deliver_at(at: DateTime<Utc>, now: DateTime<Utc>, retention: TimeDelta) -> Result<(), Invalid> {
    let longest = MAX_DELIVERY_DELAY.min(retention - ROOM_FOR_RETRIES).max(TimeDelta::zero());
    if at - now > longest {
        let days = longest.num_days();
        return Err(Invalid::new(format!(
            "deliverAt must be within {days} days: events are not kept longer"
        )));
    }
    Ok(())
}

/// Reads tags, and drops repeated ones.
pub fn parse_tags<S: AsRef<str>>(tags: &[S]) -> Result<Vec<Tag>, Invalid> {
    let mut parsed: Vec<Tag> = tags.iter().map(|tag| tag.as_ref().parse()).collect::<Result<_, _>>()?;
    parsed.sort_unstable();
    parsed.dedup();
    if parsed.len() > MAX_TAGS_PER_EVENT {
        return Err(Invalid::new(format!("tags must be at most {MAX_TAGS_PER_EVENT}")));
    }
    Ok(parsed)
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
    /// Before when it must not be delivered, where its publisher says so.
    pub deliver_at: Option<DateTime<Utc>>,
    /// What it can be found by, each once.
    pub tags: Vec<Tag>,
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

    /// When it is to be delivered, if that is later than when it was handed over. Such an event has no place in an order.
    pub fn put_off_until(&self, accepted_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.deliver_at.filter(|at| *at > accepted_at)
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

    #[test]
    fn a_delivery_is_put_off_for_as_long_as_its_event_is_kept_with_room_for_retries() {
        let now = DateTime::UNIX_EPOCH;
        let check = |days, retention| {
            check_deliver_at(now + TimeDelta::days(days), now, TimeDelta::days(retention)).is_ok()
        };
        assert!(check(-1, 30) && check(25, 30) && check(30, 90) && check(0, 1));
        assert!(!check(26, 30) && !check(31, 90) && !check(1, 1));
    }

    #[test]
    fn tags_are_few_and_each_counts_once() {
        let tags: Vec<String> = (0..10).map(|n| format!("t{n}")).collect();
        assert_eq!(parse_tags(&tags).unwrap().len(), 10);
        assert_eq!(parse_tags(&["b", "a", "b"]).unwrap().len(), 2);
        let many: Vec<String> = (0..11).map(|n| format!("t{n}")).collect();
        assert!(
            parse_tags(&many).is_err() && parse_tags(&[""]).is_err() && parse_tags(&["a\u{1f}b"]).is_err()
        );
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
