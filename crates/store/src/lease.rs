use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Names a hand-over whose deliveries are not all settled.
pub type BatchId = i64;

/// Who holds something, and until when unless it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The dispatcher.
    pub holder: Uuid,
    /// When anybody else may take it.
    pub until: DateTime<Utc>,
}
