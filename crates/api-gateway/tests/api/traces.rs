//! What a trace collector is told of requests, and the dispatchers of the traces that they belong to.

use reqwest::Method;
use serde_json::Value;
use test_support::Collector;
use traces::{Exporter, Tracer};

use crate::helpers::{TestApi, send};
use crate::publishing::next_message;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn tracer(collector: &Collector, ratio: &str) -> (Tracer, Exporter) {
    let endpoint = collector.endpoint().parse().unwrap();
    Exporter::start(endpoint, ratio.parse().unwrap(), "test-gateway", "1").unwrap()
}

async fn publish(api: &TestApi, traceparent: &str) -> Value {
    let request = api.request(Method::POST, "/api/events").bearer_auth(&api.token);
    let request = request.header("traceparent", traceparent).header("tracestate", "vendor=1");
    let body = r#"{"type":"message.sent","data":1,"id":"e1"}"#;
    assert_eq!(send(request.header("content-type", "application/json").body(body)).await.status, 202);
    next_message(api).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_on_in_the_trace_of_its_request() {
    let mut collector = Collector::start().await;
    let (tracer, _exporter) = tracer(&collector, "0");
    let api = TestApi::start_with(|config| config.tracer = tracer).await;
    let event = publish(&api, PARENT).await;
    let sent = collector.next().await;
    let answered = collector.next().await;
    assert_eq!((sent.kind, answered.kind), (4, 2));
    assert_eq!((&*answered.name, &*answered.service), ("POST /api/events", "test-gateway"));
    assert_eq!((&*answered.trace_id, &*answered.parent), (&PARENT[3..35], &PARENT[36..52]));
    assert_eq!(answered.attribute("http.route"), "/api/events");
    assert_eq!(answered.attribute("http.response.status_code"), "202");
    assert_eq!((&sent.trace_id, &sent.parent), (&answered.trace_id, &answered.span_id));
    assert_eq!(sent.attribute("messaging.message.id"), "e1");
    assert_eq!(event["traceparent"], format!("00-{}-{}-01", sent.trace_id, sent.span_id));
    assert_eq!(event["tracestate"], "vendor=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_began_the_trace_decides_and_what_is_no_trace_begins_one() {
    let mut collector = Collector::start().await;
    let (tracer, _exporter) = tracer(&collector, "1");
    let api = TestApi::start_with(|config| config.tracer = tracer).await;
    let not_kept = publish(&api, &PARENT.replace("-01", "-00")).await;
    assert_eq!(not_kept.get("traceparent"), None);
    let begun = publish(&api, "what is no trace").await;
    assert_eq!(api.get("/api/webhooks/none").await.status, 404);
    let spans = [collector.next().await, collector.next().await, collector.next().await];
    let kinds: Vec<u64> = spans.iter().map(|span| span.kind).collect();
    assert_eq!(kinds, [4, 2, 2], "nothing of the first request");
    assert_eq!(begun["traceparent"], format!("00-{}-{}-01", spans[0].trace_id, spans[0].span_id));
    assert_eq!((&*spans[1].parent, spans[1].failed), ("", false));
    assert_eq!(spans[2].attribute("http.response.status_code"), "404");
    assert!(!spans[2].failed, "a client's mistake is no failure of the server's");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_nothing_is_passed_on() {
    let api = TestApi::start().await;
    assert_eq!(publish(&api, PARENT).await.get("traceparent"), None);
}
