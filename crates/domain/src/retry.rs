use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{Invalid, Outcome};

/// The longest wait that a receiver's `Retry-After` can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How far a delay is moved either way, so that deliveries that failed together do not return together.
const JITTER: f64 = 0.1;

/// The delays between one attempt and the next. The first attempt is made at once; a schedule of `n` delays allows
/// `n + 1` attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

/// What happens to a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is delivered.
    Done,
    /// It is tried again at this time.
    RetryAt(DateTime<Utc>),
    /// It is finally failed: the schedule is used up, or the failure is permanent.
    GiveUp,
}

/// When an attempt would be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedAttempt {
    /// As the schedule says.
    pub at: DateTime<Utc>,
    /// With the shortest delays that the jitter can make.
    pub earliest: DateTime<Utc>,
    /// With the longest.
    pub latest: DateTime<Utc>,
}

impl RetrySchedule {
    /// Most delays a schedule may have.
    pub const MAX_DELAYS: usize = 30;
    /// Most delays the schedule of one webhook may have.
    pub const MAX_DELAYS_OF_WEBHOOK: usize = 20;
    /// Longest single delay.
    pub const MAX_DELAY: Duration = Duration::from_secs(7 * 24 * 3600);

    /// Checks the limits above, and that no delay is zero.
    pub fn new(delays: Vec<Duration>) -> Result<Self, Invalid> {
        if delays.len() > Self::MAX_DELAYS {
            return Err(Invalid::new(format!("a retry schedule has at most {} delays", Self::MAX_DELAYS)));
        }
        if delays.iter().any(|delay| delay.is_zero() || *delay > Self::MAX_DELAY) {
            return Err(Invalid::new("each delay of a retry schedule is from 1 second to 7 days"));
        }
        Ok(Self(delays))
    }

    /// Reads a webhook's own schedule, in seconds.
    ///
    /// Its retries must end within `retention`, because after that the event is gone.
    pub fn of_webhook(seconds: &[i64], retention: Duration) -> Result<Self, Invalid> {
        if seconds.len() > Self::MAX_DELAYS_OF_WEBHOOK {
            let most = Self::MAX_DELAYS_OF_WEBHOOK;
            return Err(Invalid::new(format!("retrySchedule must be at most {most} delays, or null")));
        }
        let delay = |seconds: &i64| u64::try_from(*seconds).map(Duration::from_secs).unwrap_or_default();
        let schedule = Self::new(seconds.iter().map(delay).collect()).map_err(|_| {
            Invalid::new("each delay of retrySchedule must be from 1 second to 7 days, in seconds")
        })?;
        if schedule.longest_course() > retention {
            let days = retention.as_secs() / 86_400;
            return Err(Invalid::new(format!(
                "the delays of retrySchedule must add up to less than the {days} days that events are kept, with 10 % \
                 to spare"
            )));
        }
        Ok(schedule)
    }

    /// The time from the first attempt to the last, where each delay is moved as far as it can be.
    pub fn longest_course(&self) -> Duration {
        self.0.iter().sum::<Duration>().mul_f64(1.0 + JITTER)
    }

    /// When each attempt would be made, of an event whose first attempt is at `first`, if every one failed at once and the
    /// receiver asked for nothing.
    pub fn plan(&self, first: DateTime<Utc>) -> Vec<PlannedAttempt> {
        let mut attempts = vec![PlannedAttempt { at: first, earliest: first, latest: first }];
        let mut passed = Duration::ZERO;
        for delay in &self.0 {
            passed += *delay;
            attempts.push(PlannedAttempt {
                at: first + passed,
                earliest: first + passed.mul_f64(1.0 - JITTER),
                latest: first + passed.mul_f64(1.0 + JITTER),
            });
        }
        attempts
    }

    /// The delays, first to last.
    pub fn delays(&self) -> &[Duration] {
        &self.0
    }

    /// Decides what follows attempt number `attempt` (the first is 1).
    ///
    /// `retry_after` is what the receiver asked for; it can lengthen a delay, up to [`MAX_RETRY_AFTER`], never shorten
    /// it. `random` is from 0 up to 1 and places the retry within the jitter of ±10 %.
    pub fn next(
        &self,
        attempt: u32,
        outcome: Outcome,
        now: DateTime<Utc>,
        retry_after: Option<Duration>,
        random: f64,
    ) -> Next {
        match outcome {
            Outcome::Delivered => Next::Done,
            Outcome::Permanent(_) => Next::GiveUp,
            Outcome::Retryable(_) => {
                let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
                let Some(delay) = self.0.get(index) else { return Next::GiveUp };
                let jittered = delay.mul_f64(1.0 + JITTER * (2.0 * random - 1.0));
                let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
                Next::RetryAt(now + jittered.max(asked))
            }
        }
    }
}

impl Default for RetrySchedule {
    /// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: ten attempts over some three days.
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 3600;
        let seconds =
            [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
        Self(seconds.map(Duration::from_secs).to_vec())
    }
}

impl FromStr for RetrySchedule {
    type Err = Invalid;

    /// Reads delays separated by commas, each a whole number and its unit: `5s,5m,2h,1d`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.trim().is_empty() {
            return Self::new(Vec::new());
        }
        Self::new(text.split(',').map(|delay| parse_delay(delay.trim())).collect::<Result<_, _>>()?)
    }
}

impl fmt::Display for RetrySchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, delay) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let seconds = delay.as_secs();
            match seconds {
                s if s % 86_400 == 0 => write!(f, "{comma}{}d", s / 86_400)?,
                s if s % 3600 == 0 => write!(f, "{comma}{}h", s / 3600)?,
                s if s % 60 == 0 => write!(f, "{comma}{}m", s / 60)?,
                s => write!(f, "{comma}{s}s")?,
            }
        }
        Ok(())
    }
}

/// Reads `Retry-After` in both its forms, seconds and an HTTP date. Anything else is as if it were not there; a date
/// in the past asks for no wait.
pub fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit ask for more than the bound anyway.
        return Some(value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs).min(MAX_RETRY_AFTER));
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?.with_timezone(&Utc);
    Some((date - now).to_std().unwrap_or_default().min(MAX_RETRY_AFTER))
}

/// Reads a delay: a whole number and its unit, `s`, `m`, `h` or `d`.
pub fn parse_delay(text: &str) -> Result<Duration, Invalid> {
    let wrong = || Invalid::new(format!("{text:?} is not a delay such as 5s, 30m, 2h or 1d"));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Cause;

    const FAILED: Outcome = Outcome::Retryable(Cause::Status(500));

    fn now() -> DateTime<Utc> {
        "2026-05-30T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_default_schedule_reads_as_documented() {
        let text = "5s,5m,30m,2h,5h,10h,14h,20h,1d";
        assert_eq!(RetrySchedule::default().to_string(), text);
        assert_eq!(text.parse(), Ok(RetrySchedule::default()));
    }

    #[test]
    fn ten_attempts_are_made_and_no_more() {
        let schedule = RetrySchedule::default();
        for attempt in 1..=9 {
            assert!(
                matches!(schedule.next(attempt, FAILED, now(), None, 0.5), Next::RetryAt(_)),
                "{attempt}"
            );
        }
        assert_eq!(schedule.next(10, FAILED, now(), None, 0.5), Next::GiveUp);
    }

    #[test]
    fn success_and_permanent_failure_end_a_delivery() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.next(1, Outcome::Delivered, now(), None, 0.0), Next::Done);
        assert_eq!(schedule.next(1, Outcome::Permanent(Cause::Gone), now(), None, 0.0), Next::GiveUp);
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let read = |value| parse_retry_after(value, now());
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sat, 30 May 2026 10:01:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(read("Sat, 30 May 2020 10:01:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("99999999999999999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(read("Fri, 30 May 9999 10:01:00 GMT"), None, "a wrong weekday is not a date");
        for nonsense in ["", "-1", "soon", "1.5", "1e9", "٣"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn schedules_outside_the_limits_are_refused() {
        for bad in ["0s", "8d", "5", "5x", "s", "1s,,2s", "-1s", &["1s"; 31].join(",")] {
            assert!(bad.parse::<RetrySchedule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_webhooks_own_schedule_has_its_limits_and_must_end_while_the_event_is_kept() {
        let month = Duration::from_secs(30 * 86_400);
        let of = |seconds: &[i64]| RetrySchedule::of_webhook(seconds, month);
        assert_eq!(of(&[]).unwrap().delays(), []);
        assert_eq!(of(&[1, 604_800]).unwrap().to_string(), "1s,7d");
        assert_eq!(of(&[604_800; 3]).unwrap().longest_course(), Duration::from_secs(1_995_840));
        for bad in [&[0][..], &[-1], &[604_801], &[i64::MAX], &[i64::MIN], &[1; 21], &[604_800; 4]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_retry_falls_where_the_plan_says(
            delays in proptest::collection::vec(1_u64..=604_800, 0..20), random in 0.0..1.0_f64,
        ) {
            let schedule = RetrySchedule::new(delays.into_iter().map(Duration::from_secs).collect()).unwrap();
            let plan = schedule.plan(now());
            prop_assert_eq!(plan.len(), schedule.delays().len() + 1);
            let mut at = now();
            // Times are in whole microseconds or less, and each step rounds anew.
            let slack = chrono::TimeDelta::microseconds(30);
            for (attempt, planned) in (1_u32..).zip(&plan) {
                prop_assert!(planned.earliest <= planned.at && planned.at <= planned.latest);
                prop_assert!(planned.earliest - slack <= at && at <= planned.latest + slack);
                match schedule.next(attempt, FAILED, at, None, random) {
                    Next::RetryAt(next) => at = next,
                    next @ (Next::Done | Next::GiveUp) => prop_assert_eq!((next, attempt as usize), (Next::GiveUp, plan.len())),
                }
            }
        }

        #[test]
        fn a_retry_stays_within_the_jitter_unless_the_receiver_asks_for_longer(
            attempt in 1_u32..=9, random in 0.0..1.0_f64, asked in proptest::option::of(0_u64..200_000),
        ) {
            let schedule = RetrySchedule::default();
            let asked = asked.map(Duration::from_secs);
            let Next::RetryAt(at) = schedule.next(attempt, FAILED, now(), asked, random) else {
                return Err(TestCaseError::fail("no retry"));
            };
            let wait = (at - now()).to_std().unwrap();
            let delay = schedule.delays()[attempt as usize - 1];
            prop_assert!(wait >= delay.mul_f64(0.9));
            let longest = delay.mul_f64(1.1).max(asked.unwrap_or_default().min(MAX_RETRY_AFTER));
            prop_assert!(wait <= longest);
        }

        #[test]
        fn every_date_of_http_is_read(seconds in 0..253_402_300_800_i64) {
            let date = DateTime::from_timestamp(seconds, 0).unwrap();
            let wait = parse_retry_after(&date.format("%a, %d %b %Y %H:%M:%S GMT").to_string(), now());
            let asked = (date - now()).to_std().unwrap_or_default();
            prop_assert_eq!(wait, Some(asked.min(MAX_RETRY_AFTER)));
        }

        #[test]
        fn retry_after_never_panics_and_never_exceeds_its_bound(value in ".{0,40}") {
            prop_assert!(parse_retry_after(&value, now()).is_none_or(|wait| wait <= MAX_RETRY_AFTER));
        }
    }
}
