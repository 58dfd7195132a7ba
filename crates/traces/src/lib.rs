//! Traces, for OpenTelemetry: which are kept, what a span says, and how spans get to a collector (OTLP over HTTP, as JSON).
//!
//! Small, because little is needed: a span is recorded once it has ended, by whoever knows when it began, and only where its
//! trace is kept. Where tracing is off nothing is made, kept or sent.

mod exporter;
mod otlp;
mod settings;
mod span;

use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::TraceContext;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

pub use exporter::Exporter;
pub use settings::{Endpoint, Ratio};
pub use span::{Kind, Open, Span, Value};

/// Spans that wait to be sent. When it is full, more are dropped.
const QUEUE: usize = 8_192;

/// Decides which traces are kept, and takes their spans. Clones share everything.
#[derive(Clone, Default)]
pub struct Tracer {
    on: Option<Arc<On>>,
    metrics: Metrics,
}

struct On {
    ratio: Ratio,
    spans: mpsc::Sender<Span>,
}

/// What becomes of spans.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) exported: Counter,
    pub(crate) dropped: Counter,
}

impl Tracer {
    /// Keeps nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether anything is kept. Where it is not, nothing need be read or passed on for it.
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Adds what becomes of spans to `registry`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let Metrics { exported, dropped } = self.metrics.clone();
        registry.register("trace_spans_exported", "Spans that the trace collector has taken", exported);
        let help = "Spans that were lost, because the trace collector was away or too slow";
        registry.register("trace_spans_dropped", help, dropped);
    }

    /// Begins a span: of the trace that `parent` belongs to, if that is kept; without a parent, of a new one, if that is
    /// chosen. `None`: nothing is kept of it.
    pub fn begin(&self, parent: Option<&TraceContext>, at: DateTime<Utc>) -> Option<Open> {
        let context = match (self.on.as_ref()?, parent) {
            (_, Some(parent)) if parent.is_sampled => parent.child(random_span_id()),
            (_, Some(_)) => return None,
            (on, None) => TraceContext {
                trace_id: on.ratio.choose(rand::random())?,
                span_id: random_span_id(),
                is_sampled: true,
                state: None,
            },
        };
        Some(Open { context, parent: parent.map(|parent| parent.span_id), began_at: at })
    }

    /// Takes a span that has ended. Never waits.
    pub fn record(&self, span: Span) {
        if let Some(on) = &self.on
            && on.spans.try_send(span).is_err()
        {
            self.metrics.dropped.inc();
        }
    }
}

fn random_span_id() -> NonZeroU64 {
    NonZeroU64::new(rand::random()).unwrap_or(NonZeroU64::MIN)
}

impl Ratio {
    /// A trace's id, if the trace is one of those to keep. `random` decides, as OpenTelemetry's sampler by ratio does, so that
    /// all who are asked about the same id agree.
    fn choose(self, random: u128) -> Option<NonZeroU128> {
        let [.., a, b, c, d, e, f, g, h] = random.to_be_bytes();
        let low = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        NonZeroU128::new(random).filter(|_| low < self.threshold())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(ratio: &str) -> (Tracer, mpsc::Receiver<Span>) {
        let (spans, received) = mpsc::channel(1);
        let on = Some(Arc::new(On { ratio: ratio.parse().unwrap(), spans }));
        (Tracer { on, metrics: Metrics::default() }, received)
    }

    fn parent(flags: &str) -> TraceContext {
        let text = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        TraceContext::parse(&text, Some("a=1")).unwrap()
    }

    #[test]
    fn whoever_began_the_trace_decides_whether_it_is_kept() {
        let (never, _received) = tracer("0");
        let open = never.begin(Some(&parent("01")), Utc::now()).unwrap();
        assert_eq!((open.context.trace_id, open.parent), (parent("01").trace_id, Some(parent("01").span_id)));
        assert_eq!(open.context.state.as_deref(), Some("a=1"));
        assert_ne!(open.context.span_id, parent("01").span_id);
        assert!(never.begin(None, Utc::now()).is_none());
        let (always, _received) = tracer("1");
        assert!(always.begin(Some(&parent("00")), Utc::now()).is_none());
        assert!(always.begin(None, Utc::now()).unwrap().parent.is_none());
        assert!(Tracer::off().begin(Some(&parent("01")), Utc::now()).is_none());
    }

    #[test]
    fn of_new_traces_the_given_part_is_kept() {
        let ratio: Ratio = "0.25".parse().unwrap();
        let ids = (0..4096_u128).map(|n| (n << 64 | n << 52) + 1);
        assert_eq!(ids.filter(|id| ratio.choose(*id).is_some()).count(), 1024);
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (tracer, mut received) = tracer("1");
        for _ in 0..3 {
            let now = Utc::now();
            tracer.record(tracer.begin(None, now).unwrap().end(Kind::Server, "GET", now));
        }
        assert_eq!(tracer.metrics.dropped.get(), 2);
        assert!(received.try_recv().is_ok());
    }
}
