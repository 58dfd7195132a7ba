//! What becomes of Wycheproof's signatures and tokens, and of those that are made up.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The lines of a file of Wycheproof's, in fields.
fn lines(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect())
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    if hex == "-" { Vec::new() } else { hex.as_bytes().chunks(2).map(byte).collect() }
}

fn key_set(jwk: &str) -> KeySet {
    KeySet::from_jwks(format!(r#"{{"keys":[{jwk}]}}"#).as_bytes(), KeyOrigin::File).unwrap().keys
}

/// Whether a signature, in base64url, is that of a message by the one key of a set.
fn is_verified(keys: &KeySet, algorithm: Algorithm, message: &str, signature: &str) -> bool {
    install_crypto();
    let key = keys.candidates(algorithm, None).next().unwrap();
    jsonwebtoken::crypto::verify(signature, &bytes(message), &key.key, algorithm)
        .is_ok_and(|is_right| is_right)
}

/// Says how many were valid and how many were not.
fn check_with_keys(algorithm: Algorithm, file: &str) -> (usize, usize) {
    let (mut keys, mut valid, mut invalid) = (KeySet::default(), 0, 0);
    for fields in lines(file) {
        match fields[..] {
            ["key", jwk] => keys = key_set(jwk),
            [id, result, message, signature] => {
                let signature = if signature == "-" { "" } else { signature };
                let is_verified = is_verified(&keys, algorithm, message, signature);
                assert_eq!(is_verified, result == "valid", "{algorithm:?} {id}");
                if is_verified { valid += 1 } else { invalid += 1 }
            }
            _ => panic!("{fields:?}"),
        }
    }
    (valid, invalid)
}

#[test]
fn wycheproofs_signatures_of_rs256_and_es256_come_out_as_they_must() {
    let rs256 = include_str!("../../testdata/wycheproof/rs256.txt");
    let es256 = include_str!("../../testdata/wycheproof/es256.txt");
    assert_eq!(check_with_keys(Algorithm::RS256, rs256), (9, 249));
    assert_eq!(check_with_keys(Algorithm::ES256, es256), (169, 83));
}

#[test]
fn wycheproofs_signatures_of_eddsa_come_out_as_they_must() {
    let (mut valid, mut invalid) = (0, 0);
    for fields in lines(include_str!("../../../signing/testdata/wycheproof/ed25519.txt")) {
        let [id, result, key, message, signature] = fields[..] else { panic!("{fields:?}") };
        let encoded = |hex| URL_SAFE_NO_PAD.encode(bytes(hex));
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(key)}).to_string();
        let is_verified = is_verified(&key_set(&jwk), Algorithm::EdDSA, message, &encoded(signature));
        assert_eq!(is_verified, result == "valid", "{id}");
        if is_verified { valid += 1 } else { invalid += 1 }
    }
    assert_eq!((valid, invalid), (88, 63));
}

#[derive(Deserialize)]
struct Group {
    key: Value,
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    id: u32,
    comment: String,
    jws: String,
    result: String,
}

/// Their payload is no claims, so one whose signature is right is refused for that, and only for that.
#[test]
fn wycheproofs_tokens_come_as_far_as_they_may() {
    install_crypto();
    let mut valid = 0;
    for line in include_str!("../../testdata/wycheproof/jws.jsonl").lines() {
        let group: Group = serde_json::from_str(line).unwrap();
        let verifier = TokenVerifier::new(key_set(&group.key.to_string()), "iss", "aud");
        for Test { id, comment, jws, result } in group.tests {
            let refused = verifier.verify(&jws).unwrap_err().to_string();
            let is_verified = refused.contains("a claim of the access token");
            assert_eq!(is_verified, result == "valid", "{id} {comment}: {refused}");
            valid += usize::from(is_verified);
        }
    }
    assert_eq!(valid, 2);
}

fn secret() -> JwtSecret {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

/// With a key of each algorithm.
fn verifier() -> TokenVerifier {
    install_crypto();
    let ed25519 = r#"key {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let rs256 = include_str!("../../testdata/wycheproof/rs256.txt");
    let es256 = include_str!("../../testdata/wycheproof/es256.txt");
    let mut keys = KeySet::of_secret(&secret());
    for file in [rs256, es256, ed25519] {
        let jwk = file.lines().find_map(|line| line.strip_prefix("key ")).unwrap();
        keys = keys.and(&key_set(jwk));
    }
    TokenVerifier::new(keys, "iss", "aud")
}

fn valid_token() -> String {
    let (subject, tenant_id) = ("u".to_owned(), TenantId(Uuid::nil()));
    let caller = Caller { subject, tenant_id, scopes: "admin".parse().unwrap() };
    let now = Utc::now();
    mint(&secret(), "iss", "aud", &caller, now, now + chrono::TimeDelta::hours(1))
}

proptest! {
    #[test]
    fn no_token_that_was_made_up_is_accepted_and_none_panics(
        text in "\\PC{0,60}",
        algorithm in "none|None|HS256|HS512|RS256|ES256|EdDSA|",
        header in r#"(,"(kid|typ|jku|jwk|x5c)":("[^"\\]{0,9}"|null|1)|,"b64":(true|false)|,"crit":\[\]){0,3}"#,
        claims in r#"\{"exp":9999999999,"iss":"iss","aud":"aud"(,"(sub|scope|tenant_id)":("[^"\\]{0,9}"|1)|,"(nbf|iat)":[0-9e.-]{1,12}){0,3}\}"#,
        signature: Vec<u8>,
    ) {
        let verifier = verifier();
        let header = format!(r#"{{"alg":"{algorithm}"{header}}}"#);
        let [header, claims, signature] =
            [header.as_bytes(), claims.as_bytes(), &signature].map(|part| URL_SAFE_NO_PAD.encode(part));
        for token in [
            text.clone(),
            format!("{text}.{claims}."),
            format!("{header}.{text}"),
            format!("{header}.{claims}."),
            format!("{header}.{claims}.{signature}"),
        ] {
            prop_assert!(verifier.verify(&token).is_err(), "{token}");
        }
    }

    /// What a token says of itself counts for nothing.
    #[test]
    fn no_other_header_goes_with_a_signature(
        algorithm in "none|HS256|HS384|RS256|ES256|EdDSA", extra in r#","(kid|jku|x)":"[a-z]{0,9}""#,
    ) {
        let (verifier, token) = (verifier(), valid_token());
        prop_assert!(verifier.verify(&token).is_ok());
        let (_, rest) = token.split_once('.').unwrap();
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}"{extra}}}"#));
        let changed = format!("{header}.{rest}");
        prop_assert!(verifier.verify(&changed).is_err(), "{changed}");
    }

    #[test]
    fn one_character_more_less_or_other_spoils_a_token(
        at: prop::sample::Index, character in "[A-Za-z0-9_.=-]|\\PC",
    ) {
        let (verifier, token) = (verifier(), valid_token());
        prop_assert!(verifier.verify(&token).is_ok());
        let (before, rest) = token.split_at(at.index(token.len()));
        for changed in [
            format!("{before}{character}{rest}"),
            format!("{before}{}", &rest[1..]),
            format!("{before}{character}{}", &rest[1..]),
            format!("{token}{character}"),
        ] {
            prop_assert!(changed == token || verifier.verify(&changed).is_err(), "{changed}");
        }
    }
}
