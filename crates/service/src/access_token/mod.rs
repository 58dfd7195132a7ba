//! Access tokens: JWTs signed with HS256, RS256, ES256 or EdDSA, verified by the gateway. `postrider token` mints such with HS256.

mod crypto;
mod keys;
mod verified;
#[cfg(test)]
mod wycheproof;

use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use domain::{Scopes, TenantId};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::verified::Verified;
use crate::values::JwtSecret;

pub(crate) use crypto::install as install_crypto;
pub use keys::{KeyOrigin, KeySet, ReadKeys};

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY_SECONDS: i64 = 5;
/// Of a token that is none of ours. Its holder is told no more.
const NOT_VALID: &str = "the access token is not valid";

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
pub enum TokenError {
    /// No key is known that could have signed it. That can change, when keys are read again.
    #[error("the access token is signed with a key that is not known (kid)")]
    UnknownKey,
    /// Whatever becomes known.
    #[error("{0}")]
    Refused(String),
}

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

/// What of a token's header decides. Keys that it brings along or points to (`jwk`, `jku`, `x5u`, `x5c`) do not.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood. None is.
    crit: Option<IgnoredAny>,
    /// Whether the payload is encoded. It always is.
    b64: Option<serde_json::Value>,
}

/// Verifies tokens of one issuer for one audience.
pub struct TokenVerifier {
    keys: RwLock<KeySet>,
    verified: Verified,
    issuer: String,
    audience: String,
}

impl TokenVerifier {
    /// Pins issuer and audience.
    pub fn new(keys: KeySet, issuer: &str, audience: &str) -> Self {
        Self {
            keys: RwLock::new(keys),
            verified: Verified::default(),
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
        }
    }

    /// Verifies with other keys from now on. What those before verified is forgotten.
    pub fn replace_keys(&self, keys: KeySet) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        self.verified.forget();
    }

    /// Checks a token and says whose it is.
    pub fn verify(&self, token: &str) -> Result<Caller, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused(format!("the access token is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        // A token comes with every request of its holder's. To have seen it before is a tenth of the work of reading it.
        let (name, generation) = (verified::name(token), self.verified.generation());
        if let Some(caller) = self.verified.find(&name, Utc::now().timestamp() - LEEWAY_SECONDS) {
            return Ok(caller);
        }
        let header = read_header(token).ok_or_else(|| refused(NOT_VALID))?;
        let algorithm = supported(&header.alg).ok_or_else(|| refused(NOT_VALID))?;
        if header.crit.is_some() || header.b64.is_some_and(|b64| b64 != true) {
            return Err(refused("the access token asks for an extension (crit) that is not supported"));
        }
        if header.kid.as_deref().is_some_and(|id| !keys::can_be_id(id)) {
            return Err(refused("the name of the access token's key (kid) is not one that a key can have"));
        }
        let (caller, ends_at) = self.check(token, algorithm, header.kid.as_deref())?;
        self.verified.keep(name, caller.clone(), ends_at, generation);
        Ok(caller)
    }

    /// Says whose a token is, and when it ends.
    fn check(
        &self,
        token: &str,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<(Caller, i64), TokenError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS.unsigned_abs();
        // Shared secrets are never read from the network: none can become known.
        let is_secret = algorithm == Algorithm::HS256;
        let mut error = if is_secret { refused(NOT_VALID) } else { TokenError::UnknownKey };
        for key in keys.candidates(algorithm, id) {
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(decoded) => return Ok(whose(decoded.claims)),
                // Of several keys, the one that signed it has the say.
                Err(problem) if *problem.kind() != ErrorKind::InvalidSignature => {
                    return Err(refused(explain(problem.kind())));
                }
                Err(_) => error = refused(NOT_VALID),
            }
        }
        Err(error)
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

fn read_header(token: &str) -> Option<TokenHeader> {
    let (header, _) = token.split_once('.')?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
}

fn supported(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "RS256" => Some(Algorithm::RS256),
        "ES256" => Some(Algorithm::ES256),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

fn whose(claims: Claims) -> (Caller, i64) {
    let caller = Caller {
        subject: claims.sub,
        tenant_id: TenantId(claims.tenant_id),
        scopes: Scopes::from_claim(&claims.scope),
    };
    (caller, claims.exp)
}

fn refused(message: impl Into<String>) -> TokenError {
    TokenError::Refused(message.into())
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
        _ => NOT_VALID.to_owned(),
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

    fn verifier() -> TokenVerifier {
        TokenVerifier::new(KeySet::of_secret(&secret()), "iss", "aud")
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
        let verified = verifier().verify(&token).unwrap();
        assert_eq!(verified, caller());
        assert!(verified.scopes.contains(Scope::Admin));
    }

    #[test]
    fn expired_foreign_and_forged_tokens_are_refused() {
        install_crypto();
        let now = Utc::now();
        let later = now + TimeDelta::hours(1);
        let other: JwtSecret = "another secret of thirty-two bytes".parse().unwrap();
        for (token, reason) in [
            (mint(&secret(), "iss", "aud", &caller(), now, now - TimeDelta::minutes(1)), "expired"),
            (mint(&secret(), "other", "aud", &caller(), now, later), "issuer"),
            (mint(&secret(), "iss", "other", &caller(), now, later), "audience"),
            (mint(&other, "iss", "aud", &caller(), now, later), "not valid"),
            ("x".repeat(MAX_TOKEN_BYTES + 1), "longer"),
            (String::new(), "not valid"),
        ] {
            let error = verifier().verify(&token).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} for {reason}");
        }
    }

    #[test]
    fn of_several_keys_the_one_that_signed_has_the_say() {
        install_crypto();
        let other: JwtSecret = "another secret of thirty-two bytes".parse().unwrap();
        let keys = KeySet::of_secret(&other).and(&KeySet::of_secret(&secret()));
        let verifier = TokenVerifier::new(keys, "iss", "aud");
        let now = Utc::now();
        let good = mint(&secret(), "iss", "aud", &caller(), now, now + TimeDelta::hours(1));
        assert_eq!(verifier.verify(&good), Ok(caller()));
        let expired = mint(&other, "iss", "aud", &caller(), now, now - TimeDelta::hours(1));
        assert!(verifier.verify(&expired).unwrap_err().to_string().contains("expired"));
        verifier.replace_keys(KeySet::of_secret(&other));
        assert!(verifier.verify(&good).unwrap_err().to_string().contains("not valid"));
    }
}
