//! Black-box tests of the REST API, on a real database and a real broker.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod access_tokens;
mod api_keys;
mod audit_log;
mod auth;
mod contract;
mod deliveries;
mod docs;
mod errors;
mod event_batches;
mod event_types;
mod filters;
mod habits;
mod helpers;
mod history;
mod hostile_clients;
mod idempotency;
mod isolation;
mod limits;
mod metrics;
mod preconditions;
mod process;
mod publishing;
mod recoveries;
mod redaction;
mod secret_files;
mod secrets;
mod signing_keys;
mod stopping;
mod stored_events;
mod testing;
mod traces;
mod webhook_settings;
mod webhooks;
