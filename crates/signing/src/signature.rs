use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::Secret;

/// How far a request's timestamp may be from the receiver's clock, either way, in seconds.
pub const TOLERANCE_SECONDS: i64 = 300;

/// Why a request is not from who it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// `webhook-timestamp` is not a number of seconds.
    #[error("webhook-timestamp is not a number of seconds since 1970")]
    BadTimestamp,
    /// The request is too old, or from the future: perhaps a replay.
    #[error("webhook-timestamp is more than {TOLERANCE_SECONDS} seconds from now")]
    Stale,
    /// No signature in the header matches.
    #[error("no signature matches: wrong secret, or the body was changed on its way")]
    NoMatch,
}

/// The value of the `webhook-signature` header: one `v1` signature for each secret, the newest first.
pub fn sign<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> String {
    let mut header = String::new();
    for secret in secrets {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str("v1,");
        STANDARD.encode_string(mac(secret, id, &timestamp.to_string(), body), &mut header);
    }
    header
}

/// Checks a request's three headers and its body against every secret that may have signed it.
///
/// `now` is the receiver's time in seconds since 1970. Signatures of other versions are passed over; the comparison
/// takes the same time wherever it fails.
pub fn verify<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: i64,
) -> Result<(), VerifyError> {
    check_timestamp(timestamp, now)?;
    let given = given(signatures, "v1,");
    let matches = |secret: &Secret| {
        let content = content(id, timestamp, body);
        given.iter().any(|signature| hmac::verify(secret.key(), &content, signature).is_ok())
    };
    if secrets.into_iter().any(matches) { Ok(()) } else { Err(VerifyError::NoMatch) }
}

pub(crate) fn check_timestamp(timestamp: &str, now: i64) -> Result<(), VerifyError> {
    let sent_at = timestamp.parse::<i64>().map_err(|_| VerifyError::BadTimestamp)?;
    let is_stale = now.abs_diff(sent_at) > TOLERANCE_SECONDS.unsigned_abs();
    if is_stale { Err(VerifyError::Stale) } else { Ok(()) }
}

/// The signatures of one version.
pub(crate) fn given(signatures: &str, version: &str) -> Vec<Vec<u8>> {
    let of_version = signatures.split(' ').filter_map(|signature| signature.strip_prefix(version));
    of_version.filter_map(|encoded| STANDARD.decode(encoded).ok()).collect()
}

fn mac(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(secret.key());
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        context.update(part);
    }
    context.sign()
}

pub(crate) fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const AT: i64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    fn secret() -> Secret {
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse().unwrap()
    }

    #[test]
    fn the_published_vector_is_reproduced() {
        let signature = sign([&secret()], ID, AT, BODY);
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    /// The lines of a file of Wycheproof's, each with its number, whether it is valid, and its bytes.
    pub(crate) fn vectors(file: &str) -> impl Iterator<Item = (&str, bool, Vec<Vec<u8>>)> {
        let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        let bytes = move |hex: &str| {
            if hex == "-" { Vec::new() } else { hex.as_bytes().chunks(2).map(byte).collect() }
        };
        file.lines().filter(|line| !line.starts_with('#')).map(move |line| {
            let (id, rest) = line.split_once(' ').unwrap();
            let (result, rest) = rest.split_once(' ').unwrap();
            (id, result == "valid", rest.split(' ').map(bytes).collect())
        })
    }

    #[test]
    fn wycheproofs_vectors_of_hmac_sha256_come_out_as_they_must() {
        let (mut valid, mut invalid) = (0, 0);
        for (id, is_valid, fields) in vectors(include_str!("../testdata/wycheproof/hmac_sha256.txt")) {
            let [key, message, tag] = &fields[..] else { panic!("three fields: {id}") };
            let secret = Secret::from_bytes(key).unwrap();
            // Half a tag is right for others, and never for us: a signature is compared whole.
            let is_whole = tag.len() == 32;
            let verified = hmac::verify(secret.key(), message, tag).is_ok();
            assert_eq!(verified, is_valid && is_whole, "{id}");
            if is_valid {
                let mut context = hmac::Context::with_key(secret.key());
                message.chunks(7).for_each(|part| context.update(part));
                assert_eq!(context.sign().as_ref()[..tag.len()], tag[..], "{id}");
            }
            if verified { valid += 1 } else { invalid += 1 }
        }
        assert!(valid > 30 && invalid > 100, "{valid}, {invalid}");
    }

    #[test]
    fn during_a_rotation_either_secret_verifies() {
        let (old, new) = (secret(), Secret::generate());
        let signatures = sign([&new, &old], ID, AT, BODY);
        assert_eq!(signatures.split(' ').count(), 2);
        for secret in [&old, &new] {
            assert_eq!(verify([secret], ID, &AT.to_string(), &signatures, BODY, AT), Ok(()));
        }
        let other = Secret::generate();
        assert_eq!(verify([&other], ID, &AT.to_string(), &signatures, BODY, AT), Err(VerifyError::NoMatch));
    }

    #[test]
    fn stale_and_malformed_requests_are_refused() {
        let signatures = sign([&secret()], ID, AT, BODY);
        let check = |timestamp: &str, now| verify([&secret()], ID, timestamp, &signatures, BODY, now);
        assert_eq!(check(&AT.to_string(), AT + TOLERANCE_SECONDS), Ok(()));
        assert_eq!(check(&AT.to_string(), AT + TOLERANCE_SECONDS + 1), Err(VerifyError::Stale));
        assert_eq!(check(&AT.to_string(), AT - TOLERANCE_SECONDS - 1), Err(VerifyError::Stale));
        assert_eq!(check("yesterday", AT), Err(VerifyError::BadTimestamp));
        assert_eq!(check(&i64::MIN.to_string(), i64::MAX), Err(VerifyError::Stale));
    }

    proptest! {
        #[test]
        fn any_change_to_id_timestamp_or_body_is_noticed(
            id in "[a-z]{1,9}", body in proptest::collection::vec(any::<u8>(), 1..99), flip in any::<prop::sample::Index>(),
        ) {
            let signatures = sign([&secret()], &id, AT, &body);
            let verify = |id: &str, at: i64, body: &[u8]| {
                verify([&secret()], id, &at.to_string(), &signatures, body, AT).is_ok()
            };
            let mut changed = body.clone();
            changed[flip.index(body.len())] ^= 1;
            prop_assert!(verify(&id, AT, &body));
            prop_assert!(!verify(&id, AT, &changed));
            prop_assert!(!verify(&id, AT + 1, &body));
            let other_id = format!("{id}x");
            prop_assert!(!verify(&other_id, AT, &body));
        }

        #[test]
        fn hostile_headers_never_verify_and_never_panic(timestamp in ".{0,20}", signatures in ".{0,80}") {
            prop_assert!(verify([&secret()], ID, &timestamp, &signatures, BODY, AT).is_err());
        }
    }
}
