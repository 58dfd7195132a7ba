//! [Standard Webhooks](https://www.standardwebhooks.com) signatures: made by Postrider, verified by receivers.
//!
//! A request carries three headers. `webhook-id` names the event and is the same on every retry; `webhook-timestamp`
//! is the time of the attempt in seconds since 1970; `webhook-signature` is one or more signatures separated by spaces,
//! each `v1,` and the base64 of HMAC-SHA256 over `{id}.{timestamp}.{body}` with a shared [`Secret`], or `v1a,` and the base64 of an
//! Ed25519 signature of the same with a private [`SigningKey`], for whose [`VerifyingKey`] no secret is needed.
//!
//! ```
//! use postrider_signing::{Secret, sign, verify};
//!
//! let secret: Secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse()?;
//! let signature = sign([&secret], "evt_1", 1_649_367_553, b"{}");
//! verify([&secret], "evt_1", "1649367553", &signature, b"{}", 1_649_367_600)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ed25519;
mod secret;
mod signature;

pub use ed25519::{InvalidKey, SigningKey, VerifyingKey, sign_ed25519, verify_ed25519};
pub use secret::{InvalidSecret, Secret};
pub use signature::{TOLERANCE_SECONDS, VerifyError, sign, verify};

/// Header that names the event.
pub const ID_HEADER: &str = "webhook-id";
/// Header with the time of the attempt, in seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header with the signatures.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
