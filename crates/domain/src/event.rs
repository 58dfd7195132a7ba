use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::{EventId, EventType, SessionId, TenantId};

/// Something that happened to a tenant, ready to be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose event it is.
    pub tenant_id: TenantId,
    /// Unique within the tenant.
    pub id: EventId,
    /// What happened.
    pub event_type: EventType,
    /// When it happened, as its publisher says.
    pub occurred_at: DateTime<Utc>,
    /// The session it came from, if any.
    pub session_id: Option<SessionId>,
    /// The exact bytes that are signed, stored and sent ([`crate::render_body`]).
    pub body: Bytes,
}
