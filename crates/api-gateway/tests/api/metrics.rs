use service::{health, metrics};
use test_support::{check_metrics_table, check_selectors, eventually, metrics_at, sample};

use crate::helpers::TestApi;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_and_accepted_is_counted_and_every_metric_is_documented() {
    let mut registry = metrics::registry();
    let api = TestApi::start_counted(&mut registry, |_| ()).await;
    let (address, server) = health::serve("127.0.0.1:0".parse().unwrap(), api.readiness(), registry).unwrap();
    tokio::spawn(server);
    let accepted = api.post("/api/events", r#"{"type":"message.sent","data":{}}"#).await;
    assert_eq!(accepted.status, 202);
    assert_eq!(api.post("/api/events", "{}").await.status, 400);
    let counted = eventually("everything is counted", async || {
        let metrics = metrics_at(address).await;
        sample(&metrics, "postrider_queue_messages{queue=\"dispatch\"}").map(|_| metrics)
    })
    .await;
    for (series, count) in [
        ("postrider_accepted_events_total", 1.0),
        ("postrider_confirm_duration_seconds_count", 1.0),
        ("postrider_published_messages_total", 1.0),
        ("postrider_refused_events_total{reason=\"timeout\"}", 0.0),
        ("postrider_http_requests_total{class=\"2xx\"}", 1.0),
        ("postrider_http_requests_total{class=\"4xx\"}", 1.0),
        ("postrider_http_request_duration_seconds_count", 2.0),
        ("postrider_queue_consumers{queue=\"dispatch\"}", 0.0),
        ("postrider_broker_blocked_connections", 0.0),
        ("postrider_database_pool_max_connections", 4.0),
    ] {
        assert_eq!(sample(&counted, series), Some(count), "{series} in {counted}");
    }
    assert!(!counted.contains(&api.tenant.to_string()) && !counted.contains("/api/"));
    check_metrics_table("gateway", &counted);
    check_selectors(&counted);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_not_served_where_the_api_is() {
    let api = TestApi::start().await;
    assert_eq!(api.get("/metrics").await.status, 404);
}
