//! Types of arguments.

use std::str::FromStr;
use std::time::Duration;

use domain::Invalid;

/// A number and `s`, `m`, `h` or `d`.
#[derive(Clone)]
pub(crate) struct Delay(pub(crate) Duration);

impl FromStr for Delay {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        domain::parse_delay(text).map(Self)
    }
}
