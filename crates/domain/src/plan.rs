use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::{Invalid, Rate};

/// What a plan allows each of its tenants; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Webhooks there can be.
    pub webhooks: u32,
    /// Events published over REST, a minute.
    pub events_per_minute: Option<Rate>,
    /// Events published over REST, a day (UTC).
    pub events_per_day: Option<u64>,
    /// Requests to the API that publish nothing, a minute.
    pub requests_per_minute: Option<Rate>,
}

/// Names a plan: 1 to 64 of `a-z`, `0-9`, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlanName(Box<str>);

impl PlanName {
    /// The plan of tenants that make themselves known.
    pub const OF_NEW_TENANTS: &str = "trial";
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PlanName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if text.is_empty() || text.len() > Self::MAX_BYTES || !text.chars().all(is_allowed) {
            let max = Self::MAX_BYTES;
            return Err(Invalid::new(format!("a plan's name must be 1 to {max} of a-z, 0-9, - and _")));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for PlanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a tenant's subscription is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantStatus {
    /// Until its trial ends.
    Trial,
    /// In force.
    Active,
    /// Not in force.
    Suspended,
}

impl TenantStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Trial, Self::Active, Self::Suspended];

    /// The name the API shows and the database keeps.
    pub fn code(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

impl FromStr for TenantStatus {
    type Err = Invalid;

    fn from_str(code: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|status| status.code() == code);
        found.ok_or_else(|| Invalid::new("status must be trial, active or suspended"))
    }
}

/// A tenant's subscription, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The plan's name.
    pub plan: PlanName,
    /// Whether it is in force.
    pub status: TenantStatus,
    /// When a trial ends; `None`: when somebody ends it.
    pub trial_ends_at: Option<DateTime<Utc>>,
    /// What the plan allows.
    pub limits: Limits,
}

/// Why a subscription is not in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotInForce {
    /// The trial is over.
    #[error("The trial ended at {}", .0.format("%Y-%m-%dT%H:%M:%SZ"))]
    TrialEnded(DateTime<Utc>),
    /// An operator suspended it.
    #[error("The subscription is suspended")]
    Suspended,
}

impl Subscription {
    /// Says why the tenant may not publish or change anything, if it may not. It can always read.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), NotInForce> {
        match (self.status, self.trial_ends_at) {
            (TenantStatus::Suspended, _) => Err(NotInForce::Suspended),
            (TenantStatus::Trial, Some(end)) if end <= now => Err(NotInForce::TrialEnded(end)),
            (TenantStatus::Trial | TenantStatus::Active, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_subscription_is_in_force_unless_suspended_or_its_trial_has_ended() {
        let now = Utc::now();
        let later = now + TimeDelta::seconds(1);
        let limits =
            Limits { webhooks: 1, events_per_minute: None, events_per_day: None, requests_per_minute: None };
        let check = |status, trial_ends_at| {
            Subscription { plan: "trial".parse().unwrap(), status, trial_ends_at, limits }.check(now)
        };
        assert_eq!(check(TenantStatus::Trial, None), Ok(()));
        assert_eq!(check(TenantStatus::Trial, Some(later)), Ok(()));
        assert_eq!(check(TenantStatus::Trial, Some(now)), Err(NotInForce::TrialEnded(now)));
        assert_eq!(check(TenantStatus::Active, Some(now)), Ok(()), "no trial any more");
        assert_eq!(check(TenantStatus::Suspended, Some(later)), Err(NotInForce::Suspended));
    }

    #[test]
    fn plans_and_statuses_have_names() {
        for status in TenantStatus::ALL {
            assert_eq!(status.code().parse(), Ok(status));
        }
        assert!("Active".parse::<TenantStatus>().is_err());
        assert!("pro-2_x".parse::<PlanName>().is_ok());
        for bad in ["", "Pro", "a b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<PlanName>().is_err(), "{bad}");
        }
    }
}
