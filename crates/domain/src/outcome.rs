/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered 2xx.
    Delivered,
    /// It failed, and trying again may help.
    Retryable(Cause),
    /// It failed, and trying again cannot help.
    Permanent(Cause),
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The receiver answered with a status outside 2xx.
    Status(u16),
    /// The receiver answered 410: this webhook is no longer wanted.
    Gone,
    /// Nothing, or not everything, arrived within the deadline.
    Timeout,
    /// The receiver's name has no address, or could not be looked up.
    Dns,
    /// The receiver's address is one that Postrider does not connect to.
    AddressRefused,
    /// No connection could be opened.
    Connect,
    /// The TLS handshake failed: certificate, name or protocol.
    Tls,
    /// The connection broke, or what came back is not HTTP.
    Protocol,
}

impl Outcome {
    /// What a complete answer with this status means. Redirects are not followed, so 3xx is a failure.
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Delivered,
            410 => Self::Permanent(Cause::Gone),
            other => Self::Retryable(Cause::Status(other)),
        }
    }

    /// Whether the receiver, or what stands before it, has more to do than it can: 429, 502, 503, 504.
    pub fn is_overload(self) -> bool {
        matches!(self, Self::Retryable(Cause::Status(429 | 502 | 503 | 504)))
    }

    /// The reason of a failure.
    pub fn cause(self) -> Option<Cause> {
        match self {
            Self::Delivered => None,
            Self::Retryable(cause) | Self::Permanent(cause) => Some(cause),
        }
    }
}

impl Cause {
    /// The name that history, logs and metrics use.
    pub fn code(self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::AddressRefused => "address_refused",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_2xx_is_success_and_only_410_is_permanent(status in 100_u16..=999) {
            let outcome = Outcome::of_status(status);
            prop_assert_eq!(outcome == Outcome::Delivered, (200..300).contains(&status));
            prop_assert_eq!(outcome == Outcome::Permanent(Cause::Gone), status == 410);
        }
    }
}
