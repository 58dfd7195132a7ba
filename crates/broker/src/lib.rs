//! Postrider's exchanges and queues, and everything said over AMQP. No other crate knows AMQP.
//!
//! Lost connections are found and replaced here, for ever, with jittered backoff; lapin's own recovery stays off.
//! Publishing and consuming use separate connections, because a broker short of memory blocks those that publish. The
//! gateway's publishers have connections that do nothing else (`publishing_connection.rs`); lapin does the rest.

mod acknowledgement;
mod connection;
mod consumer;
mod dead_letter;
mod dead_letter_queue;
mod domain_events;
mod inspection;
mod metrics;
mod pacing;
mod parcel;
mod publisher;
mod publishing_connection;
mod topology;
mod watch;
mod wire;

pub use connection::BrokerConfig;
pub use consumer::{Consumer, Message};
pub use dead_letter::DeadLetters;
pub use dead_letter_queue::{DeadLetter, DeadLetterError, DeadLetterQueue, MAX_DEAD_LETTERS, ReadLetters};
pub use domain_events::DomainEvents;
pub use inspection::{Inspection, QueueDepth};
pub use parcel::Parcel;
pub use publisher::{PublishError, Publisher, Publishers};
pub use topology::{Intake, Topology};
pub use watch::watch_queues;
pub use wire::{MAX_EVENTS_PER_MESSAGE, MAX_MESSAGE_BYTES, Reason, Rejection};
