//! What lists have in common: how many, and from when to when.

use chrono::{DateTime, Utc};
use domain::{Invalid, parse_occurred_at};

/// Entries in one answer, unless asked otherwise.
const DEFAULT_LIMIT: usize = 50;
/// Most entries in one answer.
const MAX_LIMIT: usize = 100;

pub(crate) fn parse_limit(text: Option<&str>) -> Result<usize, Invalid> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(Invalid::new(format!("limit must be a whole number from 1 to {MAX_LIMIT}"))),
    }
}

pub(crate) fn parse_time(field: &str, text: &str) -> Result<DateTime<Utc>, Invalid> {
    parse_occurred_at(text)
        .map_err(|_| Invalid::new(format!("{field} must be an RFC 3339 time, like 2026-05-30T10:00:00Z")))
}
