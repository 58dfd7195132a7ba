use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::Invalid;

/// Most secrets of one webhook that sign at a time.
pub const MAX_LIVE_SECRETS: usize = 5;
/// How long a secret goes on signing after it was replaced, unless its owner says otherwise.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// The longest that it can.
pub const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);

/// The key that signs a webhook's deliveries. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// Wraps key bytes.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The key bytes, for signing and storing only.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(redacted)")
    }
}

/// Why a webhook's secret cannot be read here and now. Nothing is lost: with the right key it can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretUnreadable {
    /// Its key is not there.
    #[error("the secret is encrypted with key {key_id}, which is not in POSTRIDER_ENCRYPTION_KEYS")]
    UnknownKey {
        /// The key's name.
        key_id: Box<str>,
    },
    /// Its key does not open it.
    #[error(
        "key {key_id} does not open the secret: it is another key of that name, or the row was tampered with"
    )]
    Damaged {
        /// The key's name.
        key_id: Box<str>,
    },
}

/// A secret that was replaced and signs for a while yet, beside the one that replaced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousSecret {
    /// The secret.
    pub secret: SecretBytes,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl PreviousSecret {
    /// Whether it signs at a moment.
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        now < self.expires_at
    }
}

/// Checks an overlap, in seconds.
pub fn check_overlap(seconds: i64) -> Result<Duration, Invalid> {
    let overlap = u64::try_from(seconds).map(Duration::from_secs).ok();
    overlap.filter(|overlap| *overlap <= MAX_OVERLAP).ok_or_else(|| {
        Invalid::new(format!("overlapSeconds must be from 0 to {}, which is 7 days", MAX_OVERLAP.as_secs()))
    })
}

/// The secrets that sign beside a new one: the one that it replaces, for `overlap`, and those that were replaced before and
/// have not ended. `None` where there would be more than [`MAX_LIVE_SECRETS`] in all.
pub fn replaced_secrets(
    current: SecretBytes,
    before: &[PreviousSecret],
    overlap: Duration,
    now: DateTime<Utc>,
) -> Option<Vec<PreviousSecret>> {
    let replaced = PreviousSecret { secret: current, expires_at: now + overlap };
    let all = std::iter::once(&replaced).chain(before);
    let live: Vec<PreviousSecret> = all.filter(|secret| secret.is_live(now)).cloned().collect();
    (live.len() < MAX_LIVE_SECRETS).then_some(live)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_overlap_is_at_most_seven_days() {
        assert_eq!(check_overlap(0), Ok(Duration::ZERO));
        assert_eq!(check_overlap(604_800), Ok(MAX_OVERLAP));
        for bad in [-1, 604_801, i64::MIN, i64::MAX] {
            assert!(check_overlap(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_replaced_secret_signs_for_its_overlap_the_newest_first_and_never_too_many(
            steps in proptest::collection::vec((0_u64..200, 0_u64..100), 1..20), later in 0_u64..400,
        ) {
            let secret = |number: usize| SecretBytes::new(number.to_be_bytes());
            let mut now = DateTime::UNIX_EPOCH;
            let mut previous: Vec<PreviousSecret> = Vec::new();
            let mut ends = Vec::new();
            let mut current = 0;
            for (overlap, pause) in steps {
                now += Duration::from_secs(pause);
                let overlap = Duration::from_secs(overlap);
                let live = ends.iter().filter(|(_, end)| now < *end).count() + usize::from(!overlap.is_zero());
                match replaced_secrets(secret(current), &previous, overlap, now) {
                    None => prop_assert!(live >= MAX_LIVE_SECRETS),
                    Some(replaced) => {
                        prop_assert!(live < MAX_LIVE_SECRETS && replaced.len() == live);
                        previous = replaced;
                        ends.push((current, now + overlap));
                        current += 1;
                    }
                }
            }
            let at = now + Duration::from_secs(later);
            let live: Vec<SecretBytes> =
                previous.into_iter().filter(|secret| secret.is_live(at)).map(|previous| previous.secret).collect();
            let newest_first = ends.iter().rev().filter(|(_, end)| at < *end);
            let expected: Vec<SecretBytes> = newest_first.map(|(number, _)| secret(*number)).collect();
            prop_assert_eq!(live, expected);
        }
    }
}
