//! API keys: random, recognisable, and stored only as a hash.
//!
//! A key is `pr_live_`, 64 hexadecimal digits of randomness, and 8 of a checksum. The checksum tells a mistyped or made-up key
//! from a real one without a look into the database, and helps programs that search for leaked keys.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// What every key begins with.
pub const PREFIX: &str = "pr_live_";
const RANDOM_BYTES: usize = 32;
const RANDOM_DIGITS: usize = 2 * RANDOM_BYTES;
const CHECKSUM_BYTES: usize = 4;
/// Digits of the randomness that are kept in the clear, so that people can tell keys apart.
const SHOWN_DIGITS: usize = 6;

/// The SHA-256 of a key: what is kept of it.
pub type ApiKeyHash = [u8; 32];

/// A key. Never printed, but for its owner by [`ApiKey::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// A text that is not a key. It is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key")]
pub struct NotAnApiKey;

impl ApiKey {
    /// A new key.
    ///
    /// # Panics
    /// When the operating system has no randomness to give; nothing secret can be made then.
    pub fn generate() -> Self {
        let mut bytes = [0; RANDOM_BYTES];
        SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
        let text = format!("{PREFIX}{}", hex(&bytes));
        let checksum = checksum(&text);
        Self(text + &checksum)
    }

    /// The whole key, for its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// How it begins: enough to tell keys apart, of no use to others.
    pub fn prefix(&self) -> &str {
        &self.0[..PREFIX.len() + SHOWN_DIGITS]
    }

    /// What is kept of it. Of 256 random bits a plain hash gives nothing away.
    pub fn hash(&self) -> ApiKeyHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, self.0.as_bytes()).as_ref());
        hash
    }
}

impl FromStr for ApiKey {
    type Err = NotAnApiKey;

    fn from_str(text: &str) -> Result<Self, NotAnApiKey> {
        let digits = text.strip_prefix(PREFIX).ok_or(NotAnApiKey)?;
        let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || digits.len() != RANDOM_DIGITS + 2 * CHECKSUM_BYTES {
            return Err(NotAnApiKey);
        }
        let (begin, given) = text.split_at(PREFIX.len() + RANDOM_DIGITS);
        if given == checksum(begin) { Ok(Self(text.to_owned())) } else { Err(NotAnApiKey) }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

fn checksum(text: &str) -> String {
    hex(&digest(&SHA256, text.as_bytes()).as_ref()[..CHECKSUM_BYTES])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_one_is_not_printed_and_no_two_are_alike() {
        let (key, other) = (ApiKey::generate(), ApiKey::generate());
        assert_eq!(key.reveal().parse(), Ok(key.clone()));
        assert!(key.reveal().starts_with(key.prefix()) && key.prefix().len() == 14);
        assert_eq!(format!("{key:?}"), "ApiKey(redacted)");
        assert_ne!(key.hash(), other.hash());
        assert_eq!(key.hash(), key.clone().hash());
    }

    #[test]
    fn a_key_with_one_wrong_digit_or_of_another_form_is_none() {
        let key = ApiKey::generate().reveal().to_owned();
        for place in PREFIX.len()..key.len() {
            let mut mistyped = key.clone();
            let other = if &key[place..=place] == "0" { "1" } else { "0" };
            mistyped.replace_range(place..=place, other);
            assert!(mistyped.parse::<ApiKey>().is_err(), "{place}");
        }
        let upper = key.to_uppercase();
        for bad in ["", "pr_live_", &key[1..], &key[..key.len() - 1], &format!("{key}0"), &upper, "pr_live_é"]
        {
            assert!(bad.parse::<ApiKey>().is_err(), "{bad}");
        }
    }
}
