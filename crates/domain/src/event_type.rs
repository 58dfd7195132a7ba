use std::fmt;
use std::str::FromStr;

use crate::Invalid;

/// What happened, for example `message.received`: names of letters, digits, `_` and `-`, separated by dots, at most
/// 255 bytes (the limit of an AMQP routing key).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Box<str>);

impl EventType {
    /// Longest type, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only Postrider publishes events of this type: those about webhooks and deliveries themselves.
    pub fn is_reserved(&self) -> bool {
        self.is_below("webhook") || self.is_about_deliveries()
    }

    /// Whether this tells of deliveries. Of deliveries of such events nothing is told: it would never end.
    pub fn is_about_deliveries(&self) -> bool {
        self.is_below("delivery")
    }

    /// Whether it begins with this name and a dot.
    fn is_below(&self, name: &str) -> bool {
        self.0.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    }
}

impl FromStr for EventType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let name = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        if text.len() > Self::MAX_BYTES {
            return Err(Invalid::new(format!("event type must be at most {} bytes long", Self::MAX_BYTES)));
        }
        if !text.split('.').all(name) {
            return Err(Invalid::new(
                "event type must be names of letters, digits, _ and -, separated by dots, like message.received",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which event types a webhook wants: one type, every type below a name (`message.*`), or all (`*`). Types that are reserved
/// have to be asked for: `*` is not about webhooks themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventPattern {
    /// Exactly this type.
    Exact(EventType),
    /// Every type that begins with this name and a dot, at any depth.
    Below(EventType),
    /// Every type that is not reserved.
    All,
}

impl EventPattern {
    /// Whether an event of this type is wanted.
    pub fn matches(&self, event_type: &EventType) -> bool {
        match self {
            Self::Exact(wanted) => wanted == event_type,
            Self::Below(name) => event_type.is_below(name.as_str()),
            Self::All => !event_type.is_reserved(),
        }
    }
}

impl FromStr for EventPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.strip_suffix(".*") {
            Some(name) => name.parse().map(Self::Below),
            None if text == "*" => Ok(Self::All),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(event_type) => event_type.fmt(f),
            Self::Below(name) => write!(f, "{name}.*"),
            Self::All => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_matches_its_own_type_everything_below_or_everything() {
        let matches = |pattern: &str, event_type: &str| {
            pattern.parse::<EventPattern>().unwrap().matches(&event_type.parse().unwrap())
        };
        assert!(matches("message.received", "message.received"));
        assert!(!matches("message.received", "message.received.late"));
        assert!(matches("message.*", "message.received.late"));
        assert!(!matches("message.*", "message"));
        assert!(!matches("message.*", "messages.sent"));
        assert!(matches("*", "campaign.completed"));
        assert!(matches("*", "webhooks.created") && matches("*", "delivery"));
        for reserved in ["webhook.created", "delivery.failing"] {
            assert!(!matches("*", reserved), "a webhook that wants all would hear of itself");
            assert!(matches(reserved, reserved));
        }
        assert!(matches("webhook.*", "webhook.created") && matches("delivery.*", "delivery.failing"));
    }

    #[test]
    fn wildcards_separators_and_empty_names_are_not_types() {
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "*", "a/b", "ä", &"x".repeat(256)] {
            assert!(bad.parse::<EventType>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_survives_printing_and_parsing(text in "([a-z_-]{1,5}\\.){0,3}([a-z]{1,5}|\\*)") {
            if let Ok(pattern) = text.parse::<EventPattern>() {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}
