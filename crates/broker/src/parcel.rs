use domain::{Event, TraceContext};
use serde_json::value::RawValue;

use crate::wire::write_event;

/// Most events of a parcel.
const MAX_EVENTS: usize = 256;
/// From this size on nothing is added to a parcel, in bytes. A single event can be larger.
const FULL_FROM_BYTES: usize = 192 * 1024;

/// Events that are published together: the broker takes all of them or none.
#[derive(Debug, Default)]
pub struct Parcel {
    /// The events as the queue contract wants them, with commas between.
    pub(crate) json: Vec<u8>,
    pub(crate) events: usize,
}

impl Parcel {
    /// Adds an event, as part of a trace if it is of one. `event.body` is not used: dispatchers render it.
    pub fn push(&mut self, event: &Event, data: &RawValue, trace: Option<&TraceContext>) {
        if self.events > 0 {
            self.json.push(b',');
        }
        write_event(&mut self.json, event, data, trace);
        self.events += 1;
    }

    /// Whether further events belong into another one.
    pub fn is_full(&self) -> bool {
        self.events >= MAX_EVENTS || self.json.len() >= FULL_FROM_BYTES
    }
}
