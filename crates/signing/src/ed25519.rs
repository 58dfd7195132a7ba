use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::VerifyError;
use crate::secret::decode;
use crate::signature::{check_timestamp, content, given};

const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const VERSION: &str = "v1a,";
const SEED_BYTES: usize = 32;
const PUBLIC_BYTES: usize = 32;

/// A private key of Ed25519. Only who signs has it.
pub struct SigningKey {
    seed: [u8; SEED_BYTES],
    pair: Ed25519KeyPair,
}

/// A public key of Ed25519, for receivers: it verifies, and cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey([u8; PUBLIC_BYTES]);

/// Why a text is not a key. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Not `whsk_` or `whpk_`, and base64 of the right length.
    #[error(
        "key must be {PRIVATE_PREFIX} (private) or {PUBLIC_PREFIX} (public) and base64 of an Ed25519 key"
    )]
    Form,
    /// The private key's public half is not its own.
    #[error("the halves of the private key do not belong together")]
    Mismatch,
}

impl SigningKey {
    /// A new random key.
    ///
    /// # Panics
    /// When the operating system has no randomness to give; nothing secret can be made then.
    pub fn generate() -> Self {
        let mut seed = [0; SEED_BYTES];
        SystemRandom::new().fill(&mut seed).expect("the operating system gives random bytes");
        Self::from_seed(&seed).expect("any 32 bytes are a private key")
    }

    /// Takes the 32 bytes that a key is made of.
    pub fn from_seed(seed: &[u8]) -> Result<Self, InvalidKey> {
        let seed = <[u8; SEED_BYTES]>::try_from(seed).map_err(|_| InvalidKey::Form)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| InvalidKey::Form)?;
        Ok(Self { seed, pair })
    }

    /// The 32 bytes, for storing.
    pub fn expose_seed(&self) -> &[u8] {
        &self.seed
    }

    /// The public half, for receivers.
    pub fn verifying_key(&self) -> VerifyingKey {
        let mut bytes = [0; PUBLIC_BYTES];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        VerifyingKey(bytes)
    }
}

impl FromStr for SigningKey {
    type Err = InvalidKey;

    /// Reads `whsk_` and base64 of the 32 bytes, alone or with the public key behind them.
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let encoded = text.strip_prefix(PRIVATE_PREFIX).ok_or(InvalidKey::Form)?;
        let bytes = decode(encoded).map_err(|_| InvalidKey::Form)?;
        let (seed, public) = bytes.split_at_checked(SEED_BYTES).ok_or(InvalidKey::Form)?;
        let key = Self::from_seed(seed)?;
        match public {
            [] => Ok(key),
            public if *public == key.verifying_key().0 => Ok(key),
            _ => Err(InvalidKey::Mismatch),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

impl VerifyingKey {
    /// The key's name: its JWK thumbprint (RFC 7638), so that it says nothing that the key does not.
    pub fn id(&self) -> String {
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.to_base64url());
        URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()))
    }

    /// The `x` of its JWK.
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    fn matches_any(&self, content: &[u8], signatures: &[Vec<u8>]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        signatures.iter().any(|signature| key.verify(content, signature).is_ok())
    }
}

impl fmt::Display for VerifyingKey {
    /// The `whpk_` form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl FromStr for VerifyingKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let encoded = text.strip_prefix(PUBLIC_PREFIX).ok_or(InvalidKey::Form)?;
        let bytes = decode(encoded).map_err(|_| InvalidKey::Form)?;
        bytes.try_into().map(Self).map_err(|_| InvalidKey::Form)
    }
}

/// The value of the `webhook-signature` header: one `v1a` signature for each key, the newest first.
pub fn sign_ed25519<'a>(
    keys: impl IntoIterator<Item = &'a SigningKey>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> String {
    let content = content(id, &timestamp.to_string(), body);
    let mut header = String::new();
    for key in keys {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str(VERSION);
        STANDARD.encode_string(key.pair.sign(&content), &mut header);
    }
    header
}

/// Like [`crate::verify`], with the public keys of whoever may have signed. Signatures of other versions are passed over.
pub fn verify_ed25519<'a>(
    keys: impl IntoIterator<Item = &'a VerifyingKey>,
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: i64,
) -> Result<(), VerifyError> {
    check_timestamp(timestamp, now)?;
    let given = given(signatures, VERSION);
    let content = content(id, timestamp, body);
    let matches = |key: &VerifyingKey| key.matches_any(&content, &given);
    if keys.into_iter().any(matches) { Ok(()) } else { Err(VerifyError::NoMatch) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signature::tests::vectors;
    use crate::{Secret, TOLERANCE_SECONDS, sign, verify};

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn key() -> SigningKey {
        let halves =
            "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
        halves.parse().unwrap()
    }

    #[test]
    fn the_published_vector_is_reproduced() {
        let signature = sign_ed25519([&key()], ID, AT, BODY);
        let published =
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        assert_eq!(signature, published);
        assert_eq!(key().verifying_key().to_string(), "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_8037() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let bytes = URL_SAFE_NO_PAD.decode(x).unwrap();
        let key: VerifyingKey = format!("whpk_{}", STANDARD.encode(bytes)).parse().unwrap();
        assert_eq!(key.to_base64url(), x);
        assert_eq!(key.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn during_a_rotation_either_key_verifies_and_no_other() {
        let (old, new) = (key(), SigningKey::generate());
        let signatures = sign_ed25519([&new, &old], ID, AT, BODY);
        let check = |key: &SigningKey, now| {
            verify_ed25519([&key.verifying_key()], ID, &AT.to_string(), &signatures, BODY, now)
        };
        assert_eq!((check(&old, AT), check(&new, AT)), (Ok(()), Ok(())));
        assert_eq!(check(&SigningKey::generate(), AT), Err(VerifyError::NoMatch));
        assert_eq!(check(&old, AT + TOLERANCE_SECONDS + 1), Err(VerifyError::Stale));
    }

    #[test]
    fn a_signature_of_one_scheme_is_none_of_the_other() {
        let (key, secret) = (key(), Secret::generate());
        let (symmetric, asymmetric) = (sign([&secret], ID, AT, BODY), sign_ed25519([&key], ID, AT, BODY));
        let both = format!("{symmetric} {asymmetric}");
        let at = AT.to_string();
        for (header, is_hmac, is_ed25519) in
            [(&symmetric, true, false), (&asymmetric, false, true), (&both, true, true)]
        {
            assert_eq!(verify([&secret], ID, &at, header, BODY, AT).is_ok(), is_hmac, "{header}");
            let verified = verify_ed25519([&key.verifying_key()], ID, &at, header, BODY, AT);
            assert_eq!(verified.is_ok(), is_ed25519, "{header}");
        }
        let disguised = asymmetric.replace("v1a,", "v1,");
        assert!(verify_ed25519([&key.verifying_key()], ID, &at, &disguised, BODY, AT).is_err());
    }

    #[test]
    fn keys_of_another_form_are_refused_and_private_ones_are_not_printed() {
        for bad in [
            "",
            "whsk_",
            "whsk_AAAA",
            "whsk_not base64!",
            "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
        ] {
            assert_eq!(bad.parse::<SigningKey>().err(), Some(InvalidKey::Form), "{bad}");
        }
        let mut halves = key().expose_seed().to_vec();
        halves.extend([7; 32]);
        let mixed = format!("whsk_{}", STANDARD.encode(halves));
        assert_eq!(mixed.parse::<SigningKey>().err(), Some(InvalidKey::Mismatch));
        for bad in ["", "whpk_", "whpk_AAAA", "whsk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="] {
            assert_eq!(bad.parse::<VerifyingKey>(), Err(InvalidKey::Form), "{bad}");
        }
        assert_eq!(format!("{:?}", key()), "SigningKey(redacted)");
    }

    /// From the texts of key and header on. What is signed is theirs: no `webhook-id` and no timestamp stands before it.
    #[test]
    fn wycheproofs_vectors_of_ed25519_come_out_as_they_must() {
        let (mut valid, mut invalid) = (0, 0);
        for (id, is_valid, fields) in vectors(include_str!("../testdata/wycheproof/ed25519.txt")) {
            let [key, message, signature] = &fields[..] else { panic!("three fields: {id}") };
            let key: VerifyingKey = format!("whpk_{}", STANDARD.encode(key)).parse().unwrap();
            let header = format!("v1,AAAA v1a,{} v1a,", STANDARD.encode(signature));
            assert_eq!(key.matches_any(message, &given(&header, VERSION)), is_valid, "{id}");
            if is_valid { valid += 1 } else { invalid += 1 }
        }
        assert_eq!((valid, invalid), (88, 63));
    }

    proptest! {
        #[test]
        fn any_change_to_id_timestamp_or_body_is_noticed(
            id in "[a-z]{1,9}", body in proptest::collection::vec(any::<u8>(), 1..99), flip in any::<prop::sample::Index>(),
        ) {
            let key = key();
            let signatures = sign_ed25519([&key], &id, AT, &body);
            let verify = |id: &str, at: i64, body: &[u8]| {
                verify_ed25519([&key.verifying_key()], id, &at.to_string(), &signatures, body, AT).is_ok()
            };
            let mut changed = body.clone();
            changed[flip.index(body.len())] ^= 1;
            prop_assert!(verify(&id, AT, &body));
            prop_assert!(!verify(&id, AT, &changed) && !verify(&id, AT + 1, &body));
            let other_id = format!("{id}x");
            prop_assert!(!verify(&other_id, AT, &body));
        }

        #[test]
        fn hostile_headers_never_verify_and_never_panic(timestamp in ".{0,20}", signatures in ".{0,80}") {
            let key = key().verifying_key();
            prop_assert!(verify_ed25519([&key], ID, &timestamp, &signatures, BODY, AT).is_err());
        }

        /// Those that look like signatures, at a right time.
        #[test]
        fn made_up_or_changed_v1a_signatures_never_verify_and_never_panic(
            made_up in proptest::collection::vec(any::<u8>(), 0..99),
            text in "(v1a?,[A-Za-z0-9+/=, ]{0,90} ?){0,3}",
            at: prop::sample::Index, character in "[A-Za-z0-9+/=,]|\\PC",
        ) {
            let (key, timestamp) = (key(), AT.to_string());
            let right = sign_ed25519([&key], ID, AT, BODY);
            let (before, rest) = right.split_at(at.index(right.len()));
            for header in [
                format!("v1a,{}", STANDARD.encode(made_up)),
                text,
                format!("{before}{character}{}", &rest[1..]),
                format!("{before}{}", &rest[1..]),
            ] {
                let verified = verify_ed25519([&key.verifying_key()], ID, &timestamp, &header, BODY, AT);
                prop_assert!(header == right || verified == Err(VerifyError::NoMatch), "{header}");
            }
        }
    }
}
