use std::fmt;

use crate::Webhook;

/// Names one state of what a webhook was told. It changes with every change by its owner or by Postrider, and not with how its
/// receiver is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(Box<str>);

/// Which state a webhook must be in for a change to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    /// Any.
    #[default]
    Any,
    /// One of these.
    OneOf(Vec<Revision>),
}

impl Revision {
    /// Takes text that may be one. Text that is not equals none.
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// As text without spaces, quotes or hyphens.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Expected {
    /// Whether a webhook is in such a state.
    pub fn admits(&self, webhook: &Webhook) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(revisions) => revisions.contains(&webhook.revision()),
        }
    }
}

impl Webhook {
    /// The state it is in. A pause and the end of one leave `updated_at` as it is, so they are named beside it.
    pub fn revision(&self) -> Revision {
        let paused_at = self.paused_at.map_or(0, |at| at.timestamp_micros());
        let drain_rate = self.gate.drain_rate.unwrap_or_default();
        let text = format!("{:x}.{paused_at:x}.{drain_rate:x}", self.updated_at.timestamp_micros());
        Revision(text.into_boxed_str())
    }
}
