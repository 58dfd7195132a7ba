//! Postrider's tables, and every query on them. No other crate knows SQL.
//!
//! One file for each table, with the queries beside the code that reads their rows. Times are always passed in: a query never
//! asks the database what time it is, but for the one by which dispatchers set their clocks.

mod access;
mod activity;
mod api_keys;
mod attempts;
mod audit;
mod audit_log;
mod audit_progress;
mod backlog;
mod batches;
mod cancel;
mod catch_up;
mod connecting;
mod deliveries;
mod diagnosis;
mod erasure;
mod error;
mod event_deliveries;
mod event_types;
mod events;
mod exchanges;
mod hand_over;
mod health;
mod idempotency_keys;
mod impatient;
mod lease;
mod metered;
mod metrics;
mod migrations;
mod outbox;
mod pace;
mod partitions;
mod plans;
mod pool;
mod recording;
mod recoveries;
mod recovery_steps;
mod resend;
mod rotation;
mod sealing;
mod sessions;
mod statistics;
mod tenancy;
mod tenants;
mod usage;
mod webhooks;

pub use access::SERVICE_ROLES;
pub use activity::Activity;
pub use api_keys::{ApiKeyError, ApiKeyRow, NewApiKey};
pub use attempts::{Attempt, AttemptCursor, AttemptFilter, AttemptOutcome, AttemptPage};
pub use audit::{AuditFinding, AuditProblem, AuditReport};
pub use audit_log::{Actor, AuditEntry, AuditLogCursor, AuditLogFilter, AuditLogPage, Origin, StoredOrigin};
pub use audit_progress::AuditProgress;
pub use backlog::{Backlog, MOST_COUNTED};
pub use batches::TakenOver;
pub use cancel::Cancellation;
pub use catch_up::{EventCursor, EventFilter, EventPage};
pub use deliveries::{ClaimedDelivery, ClaimedDue, DeliveryKey, WaitingWebhook};
pub use diagnosis::SecretsOfKey;
pub use erasure::Erasure;
pub use error::StoreError;
pub use event_deliveries::{DeliveryState, DeliveryStatus, LastAttempt, Unfinished};
pub use event_types::{EventTypeDeletion, EventTypePut, EventTypeRow};
pub use events::{StoredEvent, sequence};
pub use hand_over::{Handed, HandedOver};
pub use health::HealthNews;
pub use lease::{BatchId, Lease};
pub use metered::{ClaimedMetered, OrderedDelivery};
pub use migrations::{Migration, MigrationError, SCHEMA_VERSION, schema_fingerprint};
pub use outbox::Outgoing;
pub use pace::Pace;
pub use partitions::PartitionReport;
pub use plans::{Plan, PlanDeletion};
pub use pool::Store;
pub use recording::{AttemptRecord, Batch, Parked, Trigger};
pub use recoveries::{
    MAX_RECOVERIES_PER_TENANT, Recovery, RecoveryEnd, RecoveryError, RecoveryEstimate, RecoveryKind,
    RecoveryPlan, RecoveryState,
};
pub use resend::Resend;
pub use rotation::RotationStep;
pub use sealing::Keyring;
pub use statistics::{AttemptCounts, Interval, Statistics};
pub use tenants::Tenant;
pub use usage::{Usage, UsageCount};
pub use webhooks::{CreateError, NewWebhook, WebhookChange};
