//! What a trace collector is told of an event's way through a dispatcher, and the receiver of the trace.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use test_support::{CollectedSpan, Collector, Receiver};
use traces::{Exporter, Tracer};

use crate::helpers::World;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PUBLISHER: &str = "b7ad6b7169203331";

fn tracer(collector: &Collector, ratio: &str) -> (Tracer, Exporter) {
    let endpoint = collector.endpoint().parse().unwrap();
    Exporter::start(endpoint, ratio.parse().unwrap(), "test-dispatcher", "1").unwrap()
}

fn in_trace(flags: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    let parent = format!("00-{TRACE}-{PUBLISHER}-{flags}");
    headers.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
    headers.insert("tracestate".into(), AMQPValue::LongString("vendor=1".into()));
    BasicProperties::default().with_headers(headers)
}

fn place(span: &CollectedSpan) -> (&str, &str) {
    (&span.trace_id, &span.parent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_by_another_dispatcher_belongs_to_the_publishers_trace_and_is_linked_to_the_first_attempt() {
    let world = World::create().await;
    let mut collector = Collector::start().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[503]);
    let webhook = world.webhook(&receiver.url("/secret-path?token=1"), &["*"]).await;
    // It keeps no traces of its own: the publisher has decided.
    let (tracer, _exporter) = tracer(&collector, "0");
    let first = world.dispatcher_with(|config| config.tracer = tracer.clone()).await;
    world.publish_raw("message.sent", world.event("e1", "message.sent", "{}"), in_trace("01")).await;
    let requests = [receiver.next().await];
    world.wait_for_history(webhook, 1).await;
    assert!(first.shut_down().await);

    let taken = collector.next().await;
    assert_eq!((&*taken.service, taken.kind, taken.failed), ("test-dispatcher", 5, false));
    assert_eq!(place(&taken), (TRACE, PUBLISHER));
    assert_eq!(taken.attribute("messaging.message.id"), "e1");
    assert_eq!(taken.attribute("messaging.system"), "rabbitmq");
    let failed = collector.next().await;
    assert_eq!((&*failed.name, failed.kind, failed.failed), ("POST", 3, true));
    assert_eq!(place(&failed), (TRACE, &*taken.span_id));
    assert_eq!(
        (failed.attribute("http.response.status_code"), failed.attribute("error.type")),
        ("503", "503")
    );
    assert_eq!(failed.attribute("postrider.webhook.id"), webhook.to_string());
    assert!(failed.attribute("url.full").ends_with("/REDACTED"), "{failed:?}");
    assert!(failed.links.is_empty());
    let sent = requests[0].header("traceparent");
    assert_eq!(sent, format!("00-{TRACE}-{}-01", failed.span_id), "the receiver can go on with the trace");
    assert_eq!(requests[0].header("tracestate"), "", "what tracing systems add stays with them");

    let _second = world.dispatcher_with(|config| config.tracer = tracer.clone()).await;
    world.clock.advance(Duration::from_secs(6));
    let retry = collector.next().await;
    assert_eq!((place(&retry), retry.failed), ((TRACE, &*taken.span_id), false));
    assert_eq!(retry.links, [(TRACE.to_owned(), failed.span_id.clone())]);
    assert_eq!(retry.attribute("http.request.resend_count"), "1");
    let sent = receiver.next().await;
    assert_eq!(sent.header("traceparent"), format!("00-{TRACE}-{}-01", retry.span_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_costs_nothing_and_tells_nobody() {
    let world = World::create().await;
    let mut collector = Collector::start().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    let (tracer, _exporter) = tracer(&collector, "1");
    let traced = world.dispatcher_with(|config| config.tracer = tracer).await;
    let event = |id: &str| world.event(id, "message.sent", "{}");
    world.publish_raw("message.sent", event("not-sampled"), in_trace("00")).await;
    assert_eq!(receiver.next().await.header("traceparent"), "");
    world.publish_raw("message.sent", event("new"), BasicProperties::default()).await;
    assert_ne!(receiver.next().await.header("traceparent"), "", "a new trace, of which all are kept here");
    let first = collector.next().await;
    assert_eq!((first.attribute("messaging.message.id"), &*first.parent), ("new", ""));
    assert!(traced.shut_down().await);

    let _untraced = world.dispatcher().await;
    world.publish_raw("message.sent", event("off"), in_trace("01")).await;
    assert_eq!(receiver.next().await.header("traceparent"), "", "tracing is off");
    world.wait_until_settled().await;
    let kept = "SELECT count(*) FROM events WHERE trace IS NOT NULL AND id <> 'new'";
    assert_eq!(world.database.count(kept).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_nothing_up() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    // Nobody listens there.
    let endpoint = "http://127.0.0.1:9".parse().unwrap();
    let (tracer, exporter) = Exporter::start(endpoint, "1".parse().unwrap(), "test", "1").unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    tracer.register_metrics(&mut registry);
    let dispatcher = world.dispatcher_with(|config| config.tracer = tracer).await;
    world.publish_raw("message.sent", world.event("e1", "message.sent", "{}"), in_trace("01")).await;
    assert_eq!(receiver.next().await.id(), "e1");
    world.wait_until_settled().await;
    assert!(dispatcher.shut_down().await);
    exporter.shut_down().await;
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    assert_eq!(test_support::sample(&metrics, "trace_spans_dropped_total"), Some(2.0), "{metrics}");
}
