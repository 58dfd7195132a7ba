//! Sends one request to a receiver: looks its name up, refuses addresses that are not to be connected to, signs, and reads
//! the answer within its limits.

mod attempt;
mod occasionally;
mod request;
mod resolver;
mod target;

pub use attempt::{Attempted, Fault, Sender};
pub use resolver::MAX_NAME_SERVERS;
pub use target::Target;
