//! Spans in the JSON of OTLP 1.x: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>.

use chrono::{DateTime, Utc};
use domain::TraceContext;
use serde_json::{Value as Json, json};

use crate::span::{Kind, Span, Value};

/// Who sends the spans.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    /// Tells this process from others of its kind.
    pub(crate) instance: String,
}

/// The body of one export.
pub(crate) fn request(resource: &Resource, spans: &[Span]) -> Json {
    let attributes = [
        attribute("service.name", &resource.service.into()),
        attribute("service.version", &resource.version.into()),
        attribute("service.instance.id", &resource.instance.clone().into()),
    ];
    let spans: Vec<Json> = spans.iter().map(span).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": attributes},
        "scopeSpans": [{"scope": {"name": "postrider", "version": resource.version}, "spans": spans}],
    }]})
}

fn span(span: &Span) -> Json {
    let TraceContext { trace_id, span_id, state, .. } = &span.open.context;
    let attributes: Vec<Json> = span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    let links: Vec<Json> = span.links.iter().map(link).collect();
    let status = match &span.error {
        Some(error) => json!({"code": 2, "message": error}),
        None => json!({}),
    };
    json!({
        "traceId": format!("{trace_id:032x}"),
        "spanId": format!("{span_id:016x}"),
        "parentSpanId": span.open.parent.map_or_else(String::new, |parent| format!("{parent:016x}")),
        "traceState": state.as_deref().unwrap_or_default(),
        "name": span.name,
        "kind": match span.kind {
            Kind::Server => 2,
            Kind::Client => 3,
            Kind::Producer => 4,
            Kind::Consumer => 5,
        },
        "startTimeUnixNano": nanoseconds(span.open.began_at),
        "endTimeUnixNano": nanoseconds(span.ended_at.max(span.open.began_at)),
        "attributes": attributes,
        "links": links,
        "status": status,
    })
}

fn link(context: &TraceContext) -> Json {
    let TraceContext { trace_id, span_id, .. } = context;
    json!({"traceId": format!("{trace_id:032x}"), "spanId": format!("{span_id:016x}")})
}

fn attribute(name: &str, value: &Value) -> Json {
    let value = match value {
        Value::Text(text) => json!({"stringValue": text}),
        // 64 bits are a string in JSON.
        Value::Number(number) => json!({"intValue": number.to_string()}),
    };
    json!({"key": name, "value": value})
}

fn nanoseconds(time: DateTime<Utc>) -> String {
    time.timestamp_nanos_opt().unwrap_or_default().to_string()
}
