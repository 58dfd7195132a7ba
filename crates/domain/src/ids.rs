use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::Invalid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                Uuid::try_parse(text).map(Self).map_err(|_| Invalid::new(concat!($what, " must be a UUID")))
            }
        }
    };
}

uuid_id!(
    /// A customer of the platform. Everything belongs to exactly one tenant.
    TenantId,
    "tenant id"
);
uuid_id!(
    /// A subscription: URL, event types and secret.
    WebhookId,
    "webhook id"
);
uuid_id!(
    /// A key to the API that programs of a tenant have.
    ApiKeyId,
    "API key id"
);

impl ApiKeyId {
    /// A new id, ordered by time of creation.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl WebhookId {
    /// A new id, ordered by time of creation.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

/// Names an event, uniquely within its tenant: 1 to 128 bytes, no dot (the signed content separates with dots), no
/// control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Box<str>);

impl EventId {
    /// Longest id, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 128;

    /// A new id of our own: `evt_` and a UUID version 7.
    pub fn generate() -> Self {
        Self(format!("evt_{}", Uuid::now_v7().simple()).into_boxed_str())
    }

    /// The id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as the `webhook-id` header carries it and the signature covers it: visible ASCII as it is; every other
    /// byte, and `%`, percent-encoded, because a header cannot carry it safely.
    pub fn to_header(&self) -> String {
        let mut header = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            if byte.is_ascii_graphic() && byte != b'%' {
                header.push(char::from(byte));
            } else {
                header.push_str(&format!("%{byte:02X}"));
            }
        }
        header
    }
}

impl FromStr for EventId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        bounded_text("event id", text, Self::MAX_BYTES)?;
        if text.contains('.') {
            return Err(Invalid::new("event id must not contain a dot"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The session of the tenant's that an event came from: 1 to 128 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Box<str>);

impl SessionId {
    /// Longest id, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 128;

    /// The id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        bounded_text("session id", text, Self::MAX_BYTES)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Events that share it are delivered one after another to webhooks that want order: 1 to 128 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderingKey(Box<str>);

impl OrderingKey {
    /// Longest key, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 128;

    /// The key as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OrderingKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        bounded_text("ordering key", text, Self::MAX_BYTES)?;
        Ok(Self(text.into()))
    }
}

/// Marks events, so that all that concern somebody or something can be found: 1 to 128 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    /// Longest tag, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The tag as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        bounded_text("tag", text, Self::MAX_BYTES)?;
        Ok(Self(text.into()))
    }
}

fn bounded_text(what: &str, text: &str, max_bytes: usize) -> Result<(), Invalid> {
    if text.is_empty() || text.len() > max_bytes {
        return Err(Invalid::new(format!("{what} must be 1 to {max_bytes} bytes long, not {}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(format!("{what} must not contain control characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_id_has_no_dot_no_control_character_and_at_most_128_bytes() {
        for good in ["a", "order 1/€", &"x".repeat(128)] {
            assert!(good.parse::<EventId>().is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a\nb", "nul\0", &"x".repeat(129), &"€".repeat(43)] {
            assert!(bad.parse::<EventId>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn the_header_form_is_visible_ascii_and_tells_ids_apart(a in "[^.\\pC]{1,20}", b in "[^.\\pC]{1,20}") {
            let (first, second): (EventId, EventId) = (a.parse().unwrap(), b.parse().unwrap());
            prop_assert!(first.to_header().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.'));
            prop_assert_eq!(first == second, first.to_header() == second.to_header());
        }
    }
}
