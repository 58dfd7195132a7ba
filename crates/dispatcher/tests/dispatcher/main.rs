//! Black-box tests of the dispatcher: events go into a real broker, requests come out at a real receiver.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod crashes;
mod delivering;
mod domain_events;
mod exchanges;
mod filters;
mod gates;
mod helpers;
mod hostile;
mod metered;
mod metrics;
mod names;
mod ordering;
mod process;
mod queue_contract;
mod recovering;
mod redaction;
mod resending;
mod retrying;
mod scheduling;
mod secrets;
mod settings;
mod several;
mod traces;
mod verification;
