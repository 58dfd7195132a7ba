//! What Postrider knows about tenants, webhooks, events and attempts, and every decision it takes about them.
//!
//! Nothing here does I/O, waits, reads a clock or rolls a die: time and randomness are passed in. Text from outside
//! becomes one of these types by parsing, once, at the edge; a value of such a type cannot be wrong afterwards.

mod address;
mod api_key;
mod backoff;
mod clock;
mod custom_headers;
mod delivery_settings;
mod domain_event;
mod event;
mod event_link;
mod event_type;
mod exchange;
mod filter;
mod gate;
mod health;
mod ids;
mod invalid;
mod labels;
mod outcome;
mod payload;
mod plan;
mod port;
mod retry;
mod revision;
mod scope;
mod secret;
mod session;
mod signature_scheme;
mod throttle;
mod trace;
mod webhook;

pub use address::{AddressPolicy, Refused};
pub use api_key::{ApiKeyName, MAX_API_KEY_NAME_CHARS};
pub use backoff::Backoff;
pub use clock::{Clock, SystemClock};
pub use custom_headers::{
    CustomHeaders, HeadersChange, MAX_CUSTOM_HEADER_BYTES, MAX_CUSTOM_HEADERS, REDACTED,
};
pub use delivery_settings::{AttemptTimeout, DeliveryChange, DeliverySettings, PayloadVersion};
pub use domain_event::{DomainEvent, FailedDelivery, WebhookNews};
pub use event::{
    Event, IDEMPOTENCY_KEYS_KEPT, MAX_DELIVERY_DELAY, MAX_TAGS_PER_EVENT, check_deliver_at, parse_deliver_at,
    parse_occurred_at, parse_tags,
};
pub use event_link::EventLinks;
pub use event_type::{EventPattern, EventType};
pub use exchange::{CapturedResponse, Exchange, Headers};
pub use filter::{
    EventData, Explanation, Filter, JudgedCondition, MAX_FILTER_BYTES, MAX_FILTER_DEPTH, MAX_FILTER_NODES,
    MAX_FILTER_VALUES,
};
pub use gate::{GateChange, GateSettings, check_concurrency, check_rate};
pub use health::{Gate, Health};
pub use ids::{ApiKeyId, EventId, OrderingKey, SessionId, Tag, TenantId, WebhookId};
pub use invalid::Invalid;
pub use ipnet::IpNet;
pub use labels::{
    Description, MAX_DESCRIPTION_CHARS, MAX_METADATA_KEY_CHARS, MAX_METADATA_KEYS, MAX_METADATA_VALUE_BYTES,
    Metadata, MetadataChange,
};
pub use outcome::{Cause, Outcome};
pub use payload::{MAX_DATA_BYTES, MAX_DATA_DEPTH, check_data, render_body, render_thin_body};
pub use plan::{Limits, NotInForce, PlanName, Subscription, TenantStatus};
pub use port::PortPolicy;
pub use retry::{MAX_RETRY_AFTER, Next, PlannedAttempt, RetrySchedule, parse_delay, parse_retry_after};
pub use revision::{Expected, Revision};
pub use scope::{Scope, Scopes};
pub use secret::{
    DEFAULT_OVERLAP, MAX_LIVE_SECRETS, MAX_OVERLAP, PreviousSecret, SecretBytes, SecretUnreadable,
    check_overlap, replaced_secrets,
};
pub use session::SessionState;
pub use signature_scheme::{SignatureScheme, SigningKeys};
pub use throttle::{Rate, Throttle, Throttled};
pub use trace::{MAX_TRACE_STATE_BYTES, TraceContext};
pub use webhook::{
    DisabledReason, MAX_EVENTS_PER_WEBHOOK, MAX_SESSIONS_PER_WEBHOOK, UrlPolicy, Webhook, WebhookUrl,
};
