//! Sends one request to a receiver: looks its name up, refuses addresses that are not to be connected to, signs, and reads
//! the answer within its limits.

mod attempt;
mod capture;
mod certificate;
mod client;
mod connection;
mod dry_run;
mod idle;
mod name_servers;
mod occasionally;
mod request;
mod resolver;
mod stream;
mod target;
mod witness;

pub use attempt::{Attempted, Fault, Sender};
pub use capture::{Capture, MAX_KEPT_BODY_BYTES, MAX_KEPT_HEADER_BYTES, MAX_KEPT_HEADERS};
pub use certificate::Certificate;
pub use dry_run::{Connected, DryRun, FoundAddress, Step, TlsHandshake};
pub use name_servers::NameServers;
pub use target::Target;
