//! What black-box tests share: a database and a broker scope of each test's own, receivers that count, a network
//! that breaks on demand, a clock to step.
//!
//! The servers are those of `./scripts/test`, which says where they are in `POSTRIDER_TEST_DATABASE_URL` and
//! `POSTRIDER_TEST_AMQP_URL`.
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot be set up fails")]

mod clock;
mod collector;
mod database;
mod dns;
mod leaks;
mod metrics;
mod proxy;
mod queue;
mod raw_receiver;
mod readme;
mod receiver;
mod server_url;
mod tls;
mod wait;

pub use clock::ManualClock;
pub use collector::{CollectedSpan, Collector};
pub use database::{TestDatabase, service_url};
pub use dns::NameServer;
pub use leaks::{LoggedProcess, Secrets, password_of};
pub use metrics::{check_metrics_table, check_selectors, metrics_at, sample};
pub use proxy::{Direction, Proxy};
pub use queue::{DeadLetter, TestBroker};
pub use raw_receiver::{RawReceiver, Step, read_head};
pub use readme::check_configuration_table;
pub use receiver::{Received, Receiver};
pub use server_url::{server_of, through};
pub use tls::{TlsProxy, certificate};
pub use wait::{PATIENCE, eventually};

use domain::{AddressPolicy, UrlPolicy};

/// The signing secret of access tokens in tests.
pub const JWT_SECRET: &str = "a secret that only tests know, long enough";
/// The encryption keys of test databases.
pub const ENCRYPTION_KEYS: &str = "test:dGhpcnR5LXR3byBieXRlcyB0aGF0IHRlc3RzIGtub3c=";
/// Another one, which does not open what is encrypted with those.
pub const OTHER_ENCRYPTION_KEY: &str = "other:dGhpcnR5LXR3byBvdGhlciBieXRlcyBmb3IgdGVzdHM=";
/// The issuer of access tokens in tests.
pub const JWT_ISSUER: &str = "https://issuer.test";
/// The audience of access tokens in tests.
pub const JWT_AUDIENCE: &str = "postrider-tests";

/// Allows what tests deliver to: loopback, over plain HTTP.
pub fn local_url_policy() -> UrlPolicy {
    let loopback = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    UrlPolicy { allow_http: true, addresses: AddressPolicy::allowing(loopback), ..UrlPolicy::default() }
}

/// Shows the product's log on standard error when `POSTRIDER_TEST_LOG` says what to log, for example `debug`.
fn show_log() {
    if let Ok(directives) = std::env::var("POSTRIDER_TEST_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(directives);
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
}

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by ./scripts/test"))
}
