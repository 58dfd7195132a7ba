//! What every binary of Postrider's does around its work: configuration, logs, access tokens, health, shutdown.

use std::fmt;
use std::process::ExitCode;
use std::sync::LazyLock;

pub mod access_token;
pub mod api_key;
pub mod health;
pub mod metrics;
pub mod secret_files;
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

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was made from, where whoever built it said so.
pub const COMMIT: Option<&str> = match option_env!("POSTRIDER_COMMIT") {
    Some(commit) if !commit.is_empty() => Some(commit),
    Some(_) | None => None,
};

/// What `--version` says.
pub fn version() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| COMMIT.map_or_else(|| VERSION.to_owned(), |commit| format!("{VERSION} ({commit})")));
    &TEXT
}

/// Says on standard error why the process does not start. Logging may not have begun yet.
#[expect(clippy::print_stderr, reason = "standard error is where a process that cannot start says so")]
pub fn refuse_to_start(reason: &dyn fmt::Display, code: u8) -> ExitCode {
    eprintln!("{reason}");
    ExitCode::from(code)
}

/// Answers `--version` and `--help`, and explains what an unknown argument should have been.
#[expect(clippy::print_stdout, reason = "this is what was asked for")]
pub fn explain(argument: &str, name: &str, help: &str) -> ExitCode {
    match argument {
        "--version" | "-V" => println!("{name} {}", version()),
        "--help" | "-h" => println!("{help}"),
        unknown => {
            return refuse_to_start(&format!("unknown argument {unknown:?}\n\n{help}"), EXIT_CONFIGURATION);
        }
    }
    ExitCode::SUCCESS
}
