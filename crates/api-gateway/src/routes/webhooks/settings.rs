//! What a webhook can be told, parsed.

use domain::{
    EventPattern, Invalid, MAX_EVENTS_PER_WEBHOOK, MAX_SESSIONS_PER_WEBHOOK, SessionId, check_concurrency,
    check_rate,
};
use store::EventTypeRow;

use crate::body::FieldErrors;
use crate::catalogue::Catalogue;

pub(super) fn parse_rate(errors: &mut FieldErrors, field: &str, rate: Option<i64>) -> Option<u32> {
    rate.and_then(|rate| errors.keep(field, check_rate(field, rate)))
}

pub(super) fn parse_concurrency(errors: &mut FieldErrors, concurrency: Option<i64>) -> Option<u32> {
    concurrency.and_then(|cap| errors.keep("concurrency", check_concurrency(cap)))
}

pub(super) fn parse_events(events: &[String], types: &[EventTypeRow]) -> Result<Vec<EventPattern>, Invalid> {
    if events.is_empty() || events.len() > MAX_EVENTS_PER_WEBHOOK {
        return Err(Invalid::new(format!("events must name 1 to {MAX_EVENTS_PER_WEBHOOK} event types")));
    }
    let mut patterns = Vec::with_capacity(events.len());
    for event in events {
        let pattern: EventPattern = event.parse()?;
        if !Catalogue::covers(types, &pattern) {
            let names: Vec<&str> = types.iter().map(|known| known.name.as_str()).collect();
            return Err(Invalid::new(format!(
                "{event} is not an event type; choose from {}",
                names.join(", ")
            )));
        }
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

pub(super) fn parse_sessions<S: AsRef<str>>(sessions: &[S]) -> Result<Vec<SessionId>, Invalid> {
    if sessions.is_empty() || sessions.len() > MAX_SESSIONS_PER_WEBHOOK {
        let limit = MAX_SESSIONS_PER_WEBHOOK;
        return Err(Invalid::new(format!("sessionIds must name 1 to {limit} sessions, or be null for all")));
    }
    sessions.iter().map(|session| session.as_ref().parse()).collect()
}
