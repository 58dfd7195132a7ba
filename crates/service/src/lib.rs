//! What every binary of Postrider's does around its work: configuration, logs, access tokens, health, shutdown.

pub mod access_token;
pub mod health;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod values;

/// Exit code for a configuration that cannot be used.
pub const EXIT_CONFIGURATION: u8 = 2;
/// Exit code for a database whose schema is older than the binary.
pub const EXIT_SCHEMA: u8 = 3;

/// Makes ring the cryptography of TLS and of access tokens in this process. Call it first in `main`.
pub fn install_crypto() {
    // Fails only when it is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    access_token::install_crypto();
}

/// The version of this build, for `--version`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
