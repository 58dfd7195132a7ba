use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

const PREFIX: &str = "whsec_";
const GENERATED_BYTES: usize = 32;

/// A shared signing secret.
///
/// Text that begins `whsec_` is base64; any other text is used as its bytes. Either way [`Secret::reveal`] gives the
/// `whsec_` form, which every Standard Webhooks library takes.
#[derive(Clone)]
pub struct Secret {
    bytes: Box<[u8]>,
    key: hmac::Key,
}

/// Why a text is not a secret. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// Too short to be secret, or too long.
    #[error("secret must be {} to {} bytes long", Secret::MIN_BYTES, Secret::MAX_BYTES)]
    Length,
    /// `whsec_` and then something that is not base64.
    #[error("secret begins with whsec_, so the rest must be base64")]
    NotBase64,
    /// Control characters, which are a slip of the keyboard.
    #[error("secret must not contain control characters")]
    ControlCharacter,
}

impl Secret {
    /// Shortest secret, in bytes of key.
    pub const MIN_BYTES: usize = 8;
    /// Longest secret, in bytes of key.
    pub const MAX_BYTES: usize = 256;

    /// Takes key bytes as they are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidSecret> {
        if !(Self::MIN_BYTES..=Self::MAX_BYTES).contains(&bytes.len()) {
            return Err(InvalidSecret::Length);
        }
        Ok(Self { bytes: bytes.into(), key: hmac::Key::new(hmac::HMAC_SHA256, bytes) })
    }

    /// A new random secret of 32 bytes.
    ///
    /// # Panics
    /// When the operating system has no randomness to give; nothing secret can be made then.
    pub fn generate() -> Self {
        let mut bytes = [0; GENERATED_BYTES];
        SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
        Self { bytes: bytes.into(), key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) }
    }

    /// The key bytes, for storing.
    pub fn expose_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The `whsec_` form, for the secret's owner.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.bytes))
    }

    pub(crate) fn key(&self) -> &hmac::Key {
        &self.key
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        match text.strip_prefix(PREFIX) {
            Some(encoded) => Self::from_bytes(&decode(encoded)?),
            None if text.chars().any(char::is_control) => Err(InvalidSecret::ControlCharacter),
            None => Self::from_bytes(text.as_bytes()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Padding may be there or not: both are seen in the wild.
pub(crate) fn decode(encoded: &str) -> Result<Vec<u8>, InvalidSecret> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::STANDARD, config).decode(encoded).map_err(|_| InvalidSecret::NotBase64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_its_bytes_and_shown_in_the_whsec_form() {
        let secret: Secret = "your-signing-secret".parse().unwrap();
        assert_eq!(secret.expose_bytes(), b"your-signing-secret");
        assert_eq!(secret.reveal(), "whsec_eW91ci1zaWduaW5nLXNlY3JldA==");
        let again: Secret = secret.reveal().parse().unwrap();
        assert_eq!(again.expose_bytes(), secret.expose_bytes());
    }

    #[test]
    fn whsec_is_base64_with_or_without_padding() {
        let bytes = |text: &str| text.parse::<Secret>().map(|secret| secret.expose_bytes().to_vec());
        assert_eq!(bytes("whsec_eW91ci1zaWduaW5nLXNlY3JldA"), Ok(b"your-signing-secret".to_vec()));
        assert_eq!(bytes("whsec_not base64!"), Err(InvalidSecret::NotBase64));
        assert_eq!(bytes("whsec_AAAA"), Err(InvalidSecret::Length));
    }

    #[test]
    fn lengths_and_control_characters_are_checked() {
        assert_eq!("short".parse::<Secret>().unwrap_err(), InvalidSecret::Length);
        assert_eq!("x".repeat(257).parse::<Secret>().unwrap_err(), InvalidSecret::Length);
        assert_eq!("a secret\nwith a break".parse::<Secret>().unwrap_err(), InvalidSecret::ControlCharacter);
    }

    #[test]
    fn a_secret_is_never_printed_and_generated_ones_differ() {
        let secret = Secret::generate();
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
        assert_ne!(secret.reveal(), Secret::generate().reveal());
    }
}
