//! Access tokens: JWTs signed with HS256, minted by the platform (or `postrider token`), verified by the gateway.

use chrono::{DateTime, Utc};
use domain::{Scopes, TenantId};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result as JwtResult};
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::hmac;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::values::JwtSecret;

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY_SECONDS: u64 = 5;

/// Who is calling, by a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user or service within the tenant.
    pub subject: String,
    /// Whose data is concerned.
    pub tenant_id: TenantId,
    /// What may be done.
    pub scopes: Scopes,
}

/// Why a token is not accepted, in a sentence for its holder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TokenError(String);

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    tenant_id: Uuid,
    scope: String,
    exp: i64,
    iss: String,
    // A string or an array of strings; the library checks it.
    aud: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
}

/// Verifies tokens of one issuer for one audience.
#[derive(Clone)]
pub struct TokenVerifier {
    key: DecodingKey,
    validation: Validation,
}

impl TokenVerifier {
    /// Pins algorithm, issuer and audience.
    pub fn new(secret: &JwtSecret, issuer: &str, audience: &str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS;
        Self { key: DecodingKey::from_secret(secret.expose()), validation }
    }

    /// Checks a token and says whose it is.
    pub fn verify(&self, token: &str) -> Result<Caller, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError(format!("the access token is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| TokenError(explain(error.kind())))?
            .claims;
        Ok(Caller {
            subject: claims.sub,
            tenant_id: TenantId(claims.tenant_id),
            scopes: Scopes::from_claim(&claims.scope),
        })
    }
}

/// Mints a token.
pub fn mint(
    secret: &JwtSecret,
    issuer: &str,
    audience: &str,
    caller: &Caller,
    issued_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> String {
    let claims = Claims {
        sub: caller.subject.clone(),
        tenant_id: caller.tenant_id.0,
        scope: caller.scopes.to_string(),
        exp: expires_at.timestamp(),
        iss: issuer.to_owned(),
        aud: audience.into(),
        iat: Some(issued_at.timestamp()),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.expose()))
        .expect("an HMAC over serializable claims cannot fail")
}

/// What the holder can act on. Nothing about the key.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list of faults is open")]
fn explain(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "the access token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the access token is not valid yet".to_owned(),
        ErrorKind::InvalidIssuer => "the access token has another issuer (iss)".to_owned(),
        ErrorKind::InvalidAudience => "the access token is for another audience (aud)".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the access token lacks the claim {claim}"),
        ErrorKind::Json(_) => "a claim of the access token is missing or has the wrong type".to_owned(),
        _ => "the access token is not valid".to_owned(),
    }
}

/// Makes ring the cryptography of this library, for HS256 alone: nothing else is ever signed or accepted.
pub(crate) fn install_crypto() {
    static RING: CryptoProvider =
        CryptoProvider { signer_factory, verifier_factory, key_utils: KeyUtils::new_unimplemented() };
    let _ = RING.install_default();
}

struct Hs256(hmac::Key);

fn signer_factory(algorithm: &Algorithm, key: &EncodingKey) -> JwtResult<Box<dyn JwtSigner>> {
    only_hs256(algorithm)?;
    Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))))
}

fn verifier_factory(algorithm: &Algorithm, key: &DecodingKey) -> JwtResult<Box<dyn JwtVerifier>> {
    only_hs256(algorithm)?;
    Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?))))
}

fn only_hs256(algorithm: &Algorithm) -> JwtResult<()> {
    if *algorithm == Algorithm::HS256 { Ok(()) } else { Err(ErrorKind::InvalidAlgorithm.into()) }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        hmac::verify(&self.0, message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use domain::Scope;

    use super::*;

    fn secret() -> JwtSecret {
        "0123456789abcdef0123456789abcdef".parse().unwrap()
    }

    fn caller() -> Caller {
        Caller {
            subject: "user-1".to_owned(),
            tenant_id: TenantId(Uuid::from_u128(7)),
            scopes: "webhooks:read admin".parse().unwrap(),
        }
    }

    #[test]
    fn a_minted_token_verifies_and_says_who_calls() {
        install_crypto();
        let now = Utc::now();
        let token = mint(&secret(), "iss", "aud", &caller(), now, now + TimeDelta::hours(1));
        let verified = TokenVerifier::new(&secret(), "iss", "aud").verify(&token).unwrap();
        assert_eq!(verified, caller());
        assert!(verified.scopes.contains(Scope::Admin));
    }

    #[test]
    fn expired_foreign_and_forged_tokens_are_refused() {
        install_crypto();
        let now = Utc::now();
        let later = now + TimeDelta::hours(1);
        let verifier = TokenVerifier::new(&secret(), "iss", "aud");
        let other: JwtSecret = "another secret of thirty-two bytes".parse().unwrap();
        for (token, reason) in [
            (mint(&secret(), "iss", "aud", &caller(), now, now - TimeDelta::minutes(1)), "expired"),
            (mint(&secret(), "other", "aud", &caller(), now, later), "issuer"),
            (mint(&secret(), "iss", "other", &caller(), now, later), "audience"),
            (mint(&other, "iss", "aud", &caller(), now, later), "not valid"),
            ("x".repeat(MAX_TOKEN_BYTES + 1), "longer"),
            (String::new(), "not valid"),
        ] {
            let error = verifier.verify(&token).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} for {reason}");
        }
    }
}
