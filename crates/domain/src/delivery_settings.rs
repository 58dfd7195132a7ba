use std::time::Duration;

use crate::{CustomHeaders, HeadersChange, Invalid, RetrySchedule, SecretUnreadable, SignatureScheme};

/// What a tenant sets of a webhook's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Added to each request.
    pub headers: Result<CustomHeaders, SecretUnreadable>,
    /// The deadline of an attempt; `None`: the dispatchers' default.
    pub timeout: Option<AttemptTimeout>,
    /// The delays between attempts; `None`: the dispatchers' default.
    pub retry_schedule: Option<RetrySchedule>,
    /// Whether the body names the event and where to get it, in place of its data.
    pub is_thin: bool,
    /// How bodies are laid out.
    pub payload_version: PayloadVersion,
    /// How they are signed.
    pub signature_scheme: SignatureScheme,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            headers: Ok(CustomHeaders::default()),
            timeout: None,
            retry_schedule: None,
            is_thin: false,
            payload_version: PayloadVersion::default(),
            signature_scheme: SignatureScheme::default(),
        }
    }
}

/// What a tenant changes of a webhook's requests; `None` leaves a setting as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryChange {
    /// See [`DeliverySettings::headers`].
    pub headers: Option<HeadersChange>,
    /// See [`DeliverySettings::timeout`].
    pub timeout: Option<Option<AttemptTimeout>>,
    /// See [`DeliverySettings::retry_schedule`].
    pub retry_schedule: Option<Option<RetrySchedule>>,
    /// See [`DeliverySettings::is_thin`].
    pub is_thin: Option<bool>,
    /// See [`DeliverySettings::payload_version`].
    pub payload_version: Option<PayloadVersion>,
    /// See [`DeliverySettings::signature_scheme`].
    pub signature_scheme: Option<SignatureScheme>,
}

/// The deadline of an attempt that a webhook sets for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptTimeout(Duration);

impl AttemptTimeout {
    /// Shortest, in milliseconds.
    pub const MIN_MS: u32 = 1_000;
    /// Longest, in milliseconds.
    pub const MAX_MS: u32 = 30_000;

    /// Checks a number of milliseconds.
    pub fn from_ms(ms: i64) -> Result<Self, Invalid> {
        match u32::try_from(ms) {
            Ok(ms @ Self::MIN_MS..=Self::MAX_MS) => Ok(Self(Duration::from_millis(ms.into()))),
            _ => Err(Invalid::new(format!(
                "timeoutMs must be a whole number of milliseconds from {} to {}, or null",
                Self::MIN_MS,
                Self::MAX_MS
            ))),
        }
    }

    /// In milliseconds.
    pub fn as_ms(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(Self::MAX_MS)
    }

    /// As a time.
    pub fn duration(self) -> Duration {
        self.0
    }
}

/// A version of the layout of bodies. A webhook keeps its own when a newer one comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PayloadVersion {
    /// `{"id","type","timestamp","data"}`, or `url` in place of `data`.
    #[default]
    V1,
}

impl PayloadVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 1] = [Self::V1];

    /// Reads a version's number.
    pub fn from_number(number: i64) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|version| i64::from(version.number()) == number).ok_or_else(|| {
            let known: Vec<String> = Self::ALL.iter().map(|version| version.number().to_string()).collect();
            Invalid::new(format!("payloadVersion must be one there is: {}", known.join(", ")))
        })
    }

    /// Its number, in the API and the database.
    pub fn number(self) -> i16 {
        match self {
            Self::V1 => 1,
        }
    }

    /// Its number as a header has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_bounds_and_a_version_must_exist() {
        for good in [1_000, 30_000] {
            assert_eq!(i64::from(AttemptTimeout::from_ms(good).unwrap().as_ms()), good);
        }
        for bad in [0, -1, 999, 30_001, i64::MIN, i64::MAX] {
            assert!(
                AttemptTimeout::from_ms(bad).is_err() && PayloadVersion::from_number(bad).is_err(),
                "{bad}"
            );
        }
        for version in PayloadVersion::ALL {
            assert_eq!(PayloadVersion::from_number(version.number().into()), Ok(version));
            assert_eq!(version.as_str(), version.number().to_string());
        }
    }
}
