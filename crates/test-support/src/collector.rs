use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use crate::Receiver;

/// A trace collector on loopback, which keeps every span that it is sent (OTLP over HTTP, as JSON).
pub struct Collector {
    receiver: Receiver,
    spans: VecDeque<CollectedSpan>,
}

/// A span as a collector sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedSpan {
    /// The `service.name` of who sent it.
    pub service: String,
    /// What it is called.
    pub name: String,
    /// 2 is a server's, 3 a client's, 4 a producer's, 5 a consumer's.
    pub kind: u64,
    /// Its trace.
    pub trace_id: String,
    /// Itself.
    pub span_id: String,
    /// What caused it; empty: nothing.
    pub parent: String,
    /// The attributes, numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// Other spans that led to it: trace and span.
    pub links: Vec<(String, String)>,
    /// Whether it failed.
    pub failed: bool,
}

impl Collector {
    /// Starts one, on any free port.
    pub async fn start() -> Self {
        Self { receiver: Receiver::start().await, spans: VecDeque::new() }
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        self.receiver.url("")
    }

    /// The next span, in the order they are sent.
    pub async fn next(&mut self) -> CollectedSpan {
        loop {
            if let Some(span) = self.spans.pop_front() {
                return span;
            }
            let request = self.receiver.next().await;
            assert_eq!((&*request.path, request.header("content-type")), ("/v1/traces", "application/json"));
            self.spans.extend(read(&serde_json::from_slice(&request.body).unwrap()));
        }
    }
}

impl CollectedSpan {
    /// An attribute; empty when it is not there.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

fn read(export: &Value) -> Vec<CollectedSpan> {
    let mut spans = Vec::new();
    for resource in list(&export["resourceSpans"]) {
        let service = &attributes(&resource["resource"]["attributes"])["service.name"];
        let scopes = list(&resource["scopeSpans"]);
        spans.extend(
            scopes.iter().flat_map(|scope| list(&scope["spans"])).map(|span| read_span(span, service)),
        );
    }
    spans
}

fn read_span(span: &Value, service: &str) -> CollectedSpan {
    let time = |name: &str| text(&span[name]).parse::<u64>().unwrap();
    assert!(time("startTimeUnixNano") <= time("endTimeUnixNano") && time("startTimeUnixNano") > 0, "{span}");
    let link = |link: &Value| (text(&link["traceId"]), text(&link["spanId"]));
    CollectedSpan {
        service: service.to_owned(),
        name: text(&span["name"]),
        kind: span["kind"].as_u64().unwrap(),
        trace_id: text(&span["traceId"]),
        span_id: text(&span["spanId"]),
        parent: text(&span["parentSpanId"]),
        attributes: attributes(&span["attributes"]),
        links: list(&span["links"]).iter().map(link).collect(),
        failed: span["status"]["code"] == 2,
    }
}

fn attributes(list_of: &Value) -> BTreeMap<String, String> {
    let value = |value: &Value| match value.get("stringValue") {
        Some(value) => text(value),
        None => text(&value["intValue"]),
    };
    list(list_of).iter().map(|pair| (text(&pair["key"]), value(&pair["value"]))).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
