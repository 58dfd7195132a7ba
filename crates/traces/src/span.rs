//! What is said of one step of a trace.

use std::borrow::Cow;
use std::num::NonZeroU64;

use chrono::{DateTime, Utc};
use domain::TraceContext;

/// A span that has begun.
#[derive(Debug, Clone)]
pub struct Open {
    /// Its own place: what it causes are its children.
    pub context: TraceContext,
    /// The span that caused it.
    pub parent: Option<NonZeroU64>,
    /// When it began.
    pub began_at: DateTime<Utc>,
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub struct Span {
    pub(crate) open: Open,
    pub(crate) kind: Kind,
    pub(crate) name: Cow<'static, str>,
    pub(crate) ended_at: DateTime<Utc>,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    pub(crate) links: Vec<TraceContext>,
    pub(crate) error: Option<Cow<'static, str>>,
}

/// Which side of a conversation a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers a request.
    Server,
    /// It makes a request.
    Client,
    /// It sends a message.
    Producer,
    /// It handles a message.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl Open {
    /// The same under an id that can be worked out again.
    pub fn with_id(mut self, span_id: NonZeroU64) -> Self {
        self.context.span_id = span_id;
        self
    }

    /// Log lines within it name the trace.
    pub fn log_span(&self) -> tracing::Span {
        let TraceContext { trace_id, span_id, .. } = &self.context;
        // An error's level, so that no filter that lets anything through leaves it out.
        tracing::error_span!(
            "trace",
            trace_id = format!("{trace_id:032x}"),
            span_id = format!("{span_id:016x}")
        )
    }

    /// It is over.
    pub fn end(self, kind: Kind, name: impl Into<Cow<'static, str>>, at: DateTime<Utc>) -> Span {
        let (attributes, links) = (Vec::new(), Vec::new());
        Span { open: self, kind, name: name.into(), ended_at: at, attributes, links, error: None }
    }
}

impl Span {
    /// Adds an attribute, named as OpenTelemetry's semantic conventions name it.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// Another span that led to this one.
    pub fn linked_to(mut self, other: TraceContext) -> Self {
        self.links.push(other);
        self
    }

    /// It failed, for this reason: one of few.
    pub fn failed(mut self, error: impl Into<Cow<'static, str>>) -> Self {
        let error = error.into();
        self.attributes.push(("error.type", Value::Text(error.clone())));
        self.error = Some(error);
        self
    }
}
