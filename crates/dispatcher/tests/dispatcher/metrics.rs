use dispatcher::Dispatcher;
use lapin::BasicProperties;
use service::{health, metrics};
use test_support::{Receiver, check_metrics_table, check_selectors, eventually, metrics_at, sample};

use crate::helpers::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_events_is_counted_and_every_metric_is_documented() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    receiver.answer_next(&[500, 200]);
    let mut registry = metrics::registry();
    let dispatcher = Dispatcher::start(world.config(), &mut registry).unwrap();
    let (address, server) =
        health::serve("127.0.0.1:0".parse().unwrap(), dispatcher.readiness(), registry).unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    world.broker.wait_until_declared().await;

    let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap();
    for id in ["a", "b"] {
        let event = world.event(id, "message.sent", "{}");
        world.publish_raw("message.sent", event, BasicProperties::default().with_timestamp(now)).await;
        receiver.next().await;
    }
    world.publish_raw("message.sent", "no event", BasicProperties::default()).await;
    world.broker.dead_letter().await;

    let counted = eventually("everything is counted", async || {
        let metrics = metrics_at(address).await;
        let is_counted = |series: &str, count: f64| sample(&metrics, series) == Some(count);
        let all = is_counted("postrider_attempts_total{outcome=\"delivered\"}", 1.0)
            && is_counted("postrider_attempts_total{outcome=\"retrying\"}", 1.0)
            && is_counted("postrider_dead_lettered_events_total{reason=\"not_json\"}", 1.0)
            && is_counted("postrider_backlog_deliveries{state=\"due\"}", 0.0)
            && sample(&metrics, "postrider_queue_consumers{queue=\"dispatch\"}").is_some();
        all.then_some(metrics)
    })
    .await;
    for (series, count) in [
        ("postrider_handed_over_events_total{result=\"stored\"}", 2.0),
        ("postrider_attempt_failures_total{cause=\"status_5xx\"}", 1.0),
        ("postrider_parked_deliveries_total{reason=\"retry\"}", 1.0),
        ("postrider_first_attempt_delay_seconds_count{held=\"no\"}", 2.0),
        ("postrider_delivery_duration_seconds_count", 1.0),
        ("postrider_attempts_in_flight", 0.0),
        ("postrider_open_gates", 0.0),
        ("postrider_oldest_due_age_seconds", 0.0),
        ("postrider_broker_connections_opened_total{result=\"failed\"}", 0.0),
    ] {
        assert_eq!(sample(&counted, series), Some(count), "{series} in {counted}");
    }
    assert!(sample(&counted, "postrider_queue_lag_seconds_count").unwrap() >= 2.0, "{counted}");
    assert!(sample(&counted, "postrider_partitions_ahead").unwrap() >= 2.0, "{counted}");
    assert!(!counted.contains(&world.tenant.to_string()) && !counted.contains("127.0.0.1"));
    check_metrics_table("dispatcher", &counted);
    check_selectors(&counted);
    handle.stop(false).await;
    assert!(dispatcher.shut_down().await, "the metrics do not keep the engine alive");
}
