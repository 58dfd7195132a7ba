use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use domain::Invalid;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::values::JwtSecret;

/// Most keys of a set that are looked at.
const MAX_KEYS: usize = 100;
/// Longest name of a key (`kid`), in bytes.
const MAX_ID_BYTES: usize = 256;
/// Most keys that one token is tried with, where no name decides.
const MAX_TRIES: usize = 8;
/// Length of the modulus of an RSA key, in bytes: 2048 to 8192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// Length of a coordinate of P-256, and of a key of Ed25519, in bytes.
const POINT_BYTES: usize = 32;

/// The keys that access tokens are verified with. Each is for one algorithm, whatever a token says.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone)]
pub(super) struct Key {
    /// Its `kid`; a key without is tried for every token of its algorithm.
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Where a JSON Web Key Set comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// A file of the operator's: it may hold shared secrets (`oct`).
    File,
    /// The network: public keys alone.
    Url,
}

/// What a JSON Web Key Set came to.
#[derive(Debug, Clone)]
pub struct ReadKeys {
    /// Those that tokens can be verified with.
    pub keys: KeySet,
    /// Those of other kinds or uses, and those that are malformed.
    pub passed_over: usize,
}

#[derive(Deserialize)]
struct JwksJson {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct JwkJson {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl KeySet {
    /// A shared secret, for HS256 alone.
    pub fn of_secret(secret: &JwtSecret) -> Self {
        let key = DecodingKey::from_secret(secret.expose());
        Self { keys: vec![Key { id: None, algorithm: Algorithm::HS256, key }] }
    }

    /// Reads a JSON Web Key Set (RFC 7517): RSA, P-256 and Ed25519 keys, and from a file shared secrets. Keys of other kinds
    /// are passed over. Never repeats what it cannot read.
    ///
    /// # Errors
    /// When it is not such a set, or has no key that can be used.
    pub fn from_jwks(json: &[u8], origin: KeyOrigin) -> Result<ReadKeys, Invalid> {
        let read = |_| Invalid::new("is not a JSON Web Key Set: {\"keys\": […]}");
        let all = serde_json::from_slice::<JwksJson>(json).map_err(read)?.keys;
        let count = all.len();
        let keys: Vec<Key> =
            all.into_iter().take(MAX_KEYS).filter_map(|json| parse_key(json, origin)).collect();
        if keys.is_empty() {
            let message = "has no key for RS256, ES256 or EdDSA signatures";
            return Err(Invalid::new(message));
        }
        Ok(ReadKeys { passed_over: count - keys.len(), keys: Self { keys } })
    }

    /// Those of both.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.keys.extend(other.keys.iter().cloned());
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Those that may have signed a token.
    pub(super) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        let may_be = move |key: &&Key| {
            key.algorithm == algorithm
                && match (&key.id, id) {
                    (Some(known), Some(named)) => known == named,
                    (None, _) | (_, None) => true,
                }
        };
        self.keys.iter().filter(may_be).take(MAX_TRIES)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

/// Whether a text can name a key: visible ASCII that means nothing to a shell, a database or a file system.
pub(super) fn can_be_id(id: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"'\"`\\;<>".contains(&byte);
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(is_allowed) && !id.contains("..")
}

fn parse_key(json: Value, origin: KeyOrigin) -> Option<Key> {
    let jwk: JwkJson = serde_json::from_value(json).ok()?;
    let is_for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
        && jwk.key_ops.as_ref().is_none_or(|uses| uses.iter().any(|usage| usage == "verify"));
    if !is_for_signatures || jwk.kid.as_deref().is_some_and(|id| !can_be_id(id)) {
        return None;
    }
    let names: &[&str];
    let (algorithm, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            names = &["RS256"];
            let (n, e) = (unsigned(jwk.n.as_deref()?)?, unsigned(jwk.e.as_deref()?)?);
            let key = DecodingKey::from_rsa_raw_components(&n, &e);
            (Algorithm::RS256, MODULUS_BYTES.contains(&n.len()).then_some(key)?)
        }
        ("EC", Some("P-256")) => {
            names = &["ES256"];
            let (x, y) = (point(jwk.x.as_deref()?)?, point(jwk.y.as_deref()?)?);
            (Algorithm::ES256, DecodingKey::from_ec_der(&[&[4], &x[..], &y].concat()))
        }
        ("OKP", Some("Ed25519")) => {
            names = &["EdDSA", "Ed25519"];
            (Algorithm::EdDSA, DecodingKey::from_ed_der(&point(jwk.x.as_deref()?)?))
        }
        ("oct", _) if origin == KeyOrigin::File => {
            names = &["HS256"];
            let secret = decode(jwk.k.as_deref()?)?;
            (Algorithm::HS256, (secret.len() >= 32).then(|| DecodingKey::from_secret(&secret))?)
        }
        _ => return None,
    };
    let is_pinned_otherwise = jwk.alg.as_deref().is_some_and(|name| !names.contains(&name));
    (!is_pinned_otherwise).then_some(Key { id: jwk.kid, algorithm, key })
}

fn point(text: &str) -> Option<Vec<u8>> {
    decode(text).filter(|bytes| bytes.len() == POINT_BYTES)
}

/// A number, without the zeros that some put before it.
fn unsigned(text: &str) -> Option<Vec<u8>> {
    let bytes = decode(text)?;
    let begin = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[begin..].to_vec())
}

/// Padding may be there or not: both are seen in the wild.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::URL_SAFE, config).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(key: Value, origin: KeyOrigin) -> Option<Algorithm> {
        let set = json!({"keys": [key]}).to_string();
        KeySet::from_jwks(set.as_bytes(), origin).ok().map(|read| read.keys.keys[0].algorithm)
    }

    fn encoded(bytes: usize) -> String {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(vec![1; bytes])
    }

    #[test]
    fn each_kind_of_key_is_for_one_algorithm() {
        let (short, long) = (encoded(32), encoded(256));
        let rsa = json!({"kty": "RSA", "n": long, "e": "AQAB"});
        let ec = json!({"kty": "EC", "crv": "P-256", "x": short, "y": short});
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": short});
        let oct = json!({"kty": "oct", "k": short});
        let with = |key: &Value, name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        for (key, from_url, from_file) in [
            (rsa.clone(), Some(Algorithm::RS256), Some(Algorithm::RS256)),
            (ec.clone(), Some(Algorithm::ES256), Some(Algorithm::ES256)),
            (ed.clone(), Some(Algorithm::EdDSA), Some(Algorithm::EdDSA)),
            (oct.clone(), None, Some(Algorithm::HS256)),
            (with(&ed, "alg", json!("Ed25519")), Some(Algorithm::EdDSA), Some(Algorithm::EdDSA)),
            (with(&rsa, "use", json!("sig")), Some(Algorithm::RS256), Some(Algorithm::RS256)),
            (with(&rsa, "key_ops", json!(["verify"])), Some(Algorithm::RS256), Some(Algorithm::RS256)),
            (with(&rsa, "use", json!("enc")), None, None),
            (with(&rsa, "key_ops", json!(["encrypt"])), None, None),
            (with(&rsa, "alg", json!("HS256")), None, None),
            (with(&rsa, "alg", json!("RS512")), None, None),
            (with(&rsa, "n", json!(encoded(128))), None, None),
            (with(&rsa, "n", json!("not base64!")), None, None),
            (with(&rsa, "kid", json!("../../dev/null")), None, None),
            (with(&ec, "crv", json!("P-384")), None, None),
            (with(&ec, "y", json!(encoded(31))), None, None),
            (with(&ed, "crv", json!("X25519")), None, None),
            (with(&oct, "k", json!(encoded(31))), None, None),
            (json!({"kty": "RSA"}), None, None),
            (json!("RSA"), None, None),
        ] {
            assert_eq!(read(key.clone(), KeyOrigin::Url), from_url, "{key}");
            assert_eq!(read(key.clone(), KeyOrigin::File), from_file, "{key}");
        }
    }

    #[test]
    fn what_is_no_key_set_is_an_error_that_repeats_nothing() {
        for bad in
            ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"hunter2"}]}"#]
        {
            let error = KeySet::from_jwks(bad.as_bytes(), KeyOrigin::Url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let debug =
            format!("{:?}", KeySet::of_secret(&"hunter2 hunter2 hunter2 hunter2 hunter2".parse().unwrap()));
        assert!(!debug.contains("hunter2") && debug.contains("HS256"), "{debug}");
    }

    #[test]
    fn hostile_names_name_no_key() {
        let long = "k".repeat(257);
        for bad in ["", "../../dev/null", "' OR 1=1 --", "a;b", "a b", "é", "a\nb", "<a>", &long] {
            assert!(!can_be_id(bad), "{bad}");
        }
        for good in ["2026-01", "did:example:1#key", "abc/def+ghi=", "https://issuer.test/keys/1"] {
            assert!(can_be_id(good), "{good}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in r#"\{"keys":\[\{"kty":"(RSA|EC|OKP|oct)","[a-z]{1,3}":"[^"\\]{0,9}"\}\]\}"#) {
            for bytes in [&bytes[..], text.as_bytes()] {
                let _ = KeySet::from_jwks(bytes, KeyOrigin::File);
            }
        }
    }
}
