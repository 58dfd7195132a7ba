use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{Invalid, PreviousSecret, SecretBytes, replaced_secrets};

/// How a webhook's deliveries are signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SignatureScheme {
    /// `v1`: with a secret that the receiver has too.
    #[default]
    HmacSha256,
    /// `v1a`: with a private key of Postrider's. The receiver has the public one.
    Ed25519,
}

impl SignatureScheme {
    /// Every scheme.
    pub const ALL: [Self; 2] = [Self::HmacSha256, Self::Ed25519];

    /// Its name, in the API and the database.
    pub fn code(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::Ed25519 => "ed25519",
        }
    }
}

impl FromStr for SignatureScheme {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|scheme| scheme.code() == text).ok_or_else(|| {
            Invalid::new(format!("signatureScheme must be {}", Self::ALL.map(Self::code).join(" or ")))
        })
    }
}

/// The private keys of a webhook, which sign for it under [`SignatureScheme::Ed25519`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeys {
    /// The one that signs.
    pub current: SecretBytes,
    /// Those that it replaced and that sign yet, the newest first.
    pub previous: Vec<PreviousSecret>,
}

impl SigningKeys {
    /// One alone.
    pub fn new(key: SecretBytes) -> Self {
        Self { current: key, previous: Vec::new() }
    }

    /// With a new key beside which the others sign for a while, as secrets do. `None` where too many would.
    pub fn replace(self, key: SecretBytes, overlap: Duration, now: DateTime<Utc>) -> Option<Self> {
        let previous = replaced_secrets(self.current, &self.previous, overlap, now)?;
        Some(Self { current: key, previous })
    }

    /// Those that sign at a moment, the newest first, and when each ends.
    pub fn live(&self, now: DateTime<Utc>) -> impl Iterator<Item = (&SecretBytes, Option<DateTime<Utc>>)> {
        let previous = self.previous.iter().filter(move |previous| previous.is_live(now));
        let previous = previous.map(|previous| (&previous.secret, Some(previous.expires_at)));
        std::iter::once((&self.current, None)).chain(previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_has_a_name_and_others_are_refused() {
        for scheme in SignatureScheme::ALL {
            assert_eq!(scheme.code().parse(), Ok(scheme));
        }
        for bad in ["", "ED25519", "v1a", "rsa"] {
            assert!(bad.parse::<SignatureScheme>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_replaced_key_signs_for_its_overlap() {
        let key = |number: u8| SecretBytes::new([number; 32]);
        let now = DateTime::UNIX_EPOCH;
        let hour = Duration::from_secs(3600);
        let keys = SigningKeys::new(key(1)).replace(key(2), hour, now).unwrap();
        let live = |keys: &SigningKeys, at| keys.live(at).map(|(key, _)| key.clone()).collect::<Vec<_>>();
        assert_eq!(live(&keys, now), [key(2), key(1)]);
        assert_eq!(live(&keys, now + hour), [key(2)]);
        let at_once = keys.replace(key(3), Duration::ZERO, now + hour).unwrap();
        assert_eq!(at_once, SigningKeys::new(key(3)));
    }
}
