//! What lists have in common: how many, and from when to when.

use chrono::{DateTime, Utc};
use domain::{Invalid, parse_occurred_at};

/// How many entries one answer has.
pub(crate) struct PageSize {
    /// Unless asked otherwise.
    usual: usize,
    most: usize,
}

impl PageSize {
    /// Of lists that grow with what happens: attempts, events, jobs.
    pub(crate) const OF_HISTORY: Self = Self { usual: 50, most: 100 };
    /// Of lists of what somebody has made, of which there is little and all of it is wanted.
    pub(crate) const OF_INVENTORY: Self = Self { usual: 100, most: 1_000 };

    pub(crate) fn parse(&self, text: Option<&str>) -> Result<usize, Invalid> {
        let Some(text) = text else { return Ok(self.usual) };
        let limit = text.parse().ok().filter(|limit| (1..=self.most).contains(limit));
        limit.ok_or_else(|| Invalid::new(format!("limit must be a whole number from 1 to {}", self.most)))
    }
}

/// [`PageSize::OF_HISTORY`], as `limit` says.
pub(crate) fn parse_limit(text: Option<&str>) -> Result<usize, Invalid> {
    PageSize::OF_HISTORY.parse(text)
}

pub(crate) fn parse_time(field: &str, text: &str) -> Result<DateTime<Utc>, Invalid> {
    parse_occurred_at(text)
        .map_err(|_| Invalid::new(format!("{field} must be an RFC 3339 time, like 2026-05-30T10:00:00Z")))
}
