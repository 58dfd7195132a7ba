//! What a webhook can be told, parsed.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use domain::{
    AttemptTimeout, Description, EventPattern, Filter, Invalid, MAX_EVENTS_PER_WEBHOOK,
    MAX_SESSIONS_PER_WEBHOOK, PayloadVersion, RetrySchedule, SecretBytes, SessionId, SignatureScheme,
    check_concurrency, check_rate,
};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use signing::SigningKey;

use crate::body::FieldErrors;
use crate::catalogue::{Include, Types};

pub(super) fn parse_rate(errors: &mut FieldErrors, field: &str, rate: Option<i64>) -> Option<u32> {
    rate.and_then(|rate| errors.keep(field, check_rate(field, rate)))
}

pub(super) fn parse_concurrency(errors: &mut FieldErrors, concurrency: Option<i64>) -> Option<u32> {
    concurrency.and_then(|cap| errors.keep("concurrency", check_concurrency(cap)))
}

pub(super) fn parse_events(events: &[String], types: &Types) -> Result<Vec<EventPattern>, Invalid> {
    if events.is_empty() || events.len() > MAX_EVENTS_PER_WEBHOOK {
        return Err(Invalid::new(format!("events must name 1 to {MAX_EVENTS_PER_WEBHOOK} event types")));
    }
    let mut patterns = Vec::with_capacity(events.len());
    for event in events {
        let pattern: EventPattern = event.parse()?;
        if !types.covers(&pattern) {
            let names = types.names(Include::Ordinary);
            return Err(Invalid::new(format!(
                "{event} is not an event type; choose from {}",
                names.join(", ")
            )));
        }
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

pub(super) fn parse_sessions<S: AsRef<str>>(sessions: &[S]) -> Result<Vec<SessionId>, Invalid> {
    if sessions.is_empty() || sessions.len() > MAX_SESSIONS_PER_WEBHOOK {
        let limit = MAX_SESSIONS_PER_WEBHOOK;
        return Err(Invalid::new(format!("sessionIds must name 1 to {limit} sessions, or be null for all")));
    }
    sessions.iter().map(|session| session.as_ref().parse()).collect()
}

pub(super) fn parse_filter(errors: &mut FieldErrors, json: Option<&RawValue>) -> Option<Filter> {
    json.and_then(|json| errors.keep("filter", json.get().parse()))
}

pub(super) fn parse_description(errors: &mut FieldErrors, text: Option<&str>) -> Option<Description> {
    text.and_then(|text| errors.keep("description", Description::new(text)))
}

pub(super) fn parse_timeout(errors: &mut FieldErrors, ms: Option<i64>) -> Option<AttemptTimeout> {
    ms.and_then(|ms| errors.keep("timeoutMs", AttemptTimeout::from_ms(ms)))
}

pub(super) fn parse_schedule(
    errors: &mut FieldErrors,
    seconds: Option<&[i64]>,
    retention: Duration,
) -> Option<RetrySchedule> {
    seconds.and_then(|seconds| errors.keep("retrySchedule", RetrySchedule::of_webhook(seconds, retention)))
}

pub(super) fn parse_scheme(errors: &mut FieldErrors, name: &str) -> SignatureScheme {
    errors.keep("signatureScheme", name.parse()).unwrap_or_default()
}

/// A new private key, where the scheme needs one.
pub(super) fn key_for(scheme: Option<SignatureScheme>) -> Option<SecretBytes> {
    let is_needed = scheme == Some(SignatureScheme::Ed25519);
    is_needed.then(|| SecretBytes::new(SigningKey::generate().expose_seed()))
}

pub(super) fn parse_version(errors: &mut FieldErrors, number: Option<i64>) -> PayloadVersion {
    let version =
        number.and_then(|number| errors.keep("payloadVersion", PayloadVersion::from_number(number)));
    version.unwrap_or_default()
}

/// A JSON object whose names are the client's own. A name that comes twice is not lost.
pub(super) struct Pairs<V>(pub(super) Vec<(String, V)>);

impl<V> Pairs<V> {
    pub(super) fn unique(self) -> Result<BTreeMap<String, V>, Invalid> {
        let mut entries = BTreeMap::new();
        for (name, value) in self.0 {
            if entries.contains_key(&name) {
                return Err(Invalid::new(format!("the key {name:?} comes twice")));
            }
            entries.insert(name, value);
        }
        Ok(entries)
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<V>, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}
