//! What is handed over or written down again is there once.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Event, GateSettings, WebhookId};
use postrider_store::{Batch, DeliveryKey, Handed};
use test_support::TestDatabase;
use uuid::Uuid;

use crate::{delivered, event, lease, new_tenant, waiting, webhook};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_dropped_alone_at_once_later_and_the_next_day() {
    let database = TestDatabase::create().await;
    let tenants = [new_tenant(&database.store).await, new_tenant(&database.store).await];
    webhook(&database.store, tenants[1], GateSettings::default()).await;
    let noon = Utc::now().date_naive().and_hms_opt(12, 0, 0).unwrap().and_utc();
    let hand_over = async |now: DateTime<Utc>, ids: &[(usize, &str)]| {
        let events: Vec<Event> = ids.iter().map(|(tenant, id)| event(tenants[*tenant], id)).collect();
        let events: Vec<&Event> = events.iter().collect();
        database.store.hand_over(&events, now, lease(now), false).await.unwrap().events
    };
    let stored = |tenant| Handed::Stored { webhooks_version: tenant };
    assert_eq!(hand_over(noon, &[(0, "a"), (1, "a"), (1, "b")]).await, [stored(0), stored(1), stored(1)]);
    for (after, ids) in [
        (TimeDelta::seconds(1), [(1, "b"), (0, "b"), (1, "c")]),
        (TimeDelta::seconds(2), [(1, "c"), (0, "c"), (1, "d")]),
        (TimeDelta::days(1), [(1, "d"), (0, "d"), (1, "e")]),
        (TimeDelta::days(1) + TimeDelta::seconds(1), [(1, "d"), (0, "e"), (1, "f")]),
        // The clock that was ahead by a day is put right.
        (TimeDelta::minutes(5), [(1, "f"), (0, "f"), (1, "g")]),
    ] {
        let handed = hand_over(noon + after, &ids).await;
        assert_eq!(handed, [Handed::Repeated, stored(0), stored(1)], "{after}");
    }
    assert_eq!(database.count("SELECT count(*) FROM events").await, 13);
    let unused =
        "SELECT count(*) FROM open_batches b WHERE NOT EXISTS (SELECT FROM events WHERE batch_id = b.id)";
    assert_eq!(database.count(unused).await, 0, "nothing is left of a hand-over that was made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_written_twice_are_there_once() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    let now = Utc::now();
    let lease = lease(now);
    let events = [event(tenant, "a"), event(tenant, "b"), event(tenant, "c")];
    let handed = database.store.hand_over(&events.each_ref(), now, lease, false).await.unwrap();
    let key = |event: &Event| DeliveryKey {
        webhook_id: WebhookId(Uuid::nil()),
        event_id: event.id.clone(),
        event_day: handed.day,
    };
    let attempt = |event: &Event| delivered(key(event), tenant, now);
    let parked = waiting(key(&events[2]), tenant, now, handed.batch);
    let first = Batch { attempts: vec![attempt(&events[0])], ..Batch::default() };
    let both = Batch {
        attempts: events[..2].iter().map(attempt).collect(),
        parked: vec![parked],
        settled: vec![handed.batch],
        ..Batch::default()
    };
    for batch in [&first, &both, &both] {
        database.store.record(batch, lease.holder).await.unwrap();
    }
    assert_eq!(database.count("SELECT count(*) FROM delivery_attempts").await, 2);
    assert_eq!(database.count("SELECT count(*) FROM deliveries").await, 1);
    assert_eq!(database.count("SELECT count(*) FROM open_batches").await, 0);
}
