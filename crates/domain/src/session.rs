use crate::EventType;

/// Whether one of a tenant's sessions is online, as its events say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// The last was `session.connected`.
    Connected,
    /// The last was `session.disconnected`.
    Disconnected,
}

impl SessionState {
    /// What an event of this type says of its session, if it says anything.
    pub fn told_by(event_type: &EventType) -> Option<Self> {
        match event_type.as_str() {
            "session.connected" => Some(Self::Connected),
            "session.disconnected" => Some(Self::Disconnected),
            _ => None,
        }
    }
}
