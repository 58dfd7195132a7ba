//! What is to be told is told with the change, once, and by one dispatcher at a time.

use chrono::{TimeDelta, Utc};
use domain::{Health, WebhookId};
use postrider_store::{AttemptRecord, Batch, DeliveryKey, HealthNews, Lease, Store};
use test_support::TestDatabase;
use uuid::Uuid;

use crate::{delivered, lease, new_tenant, webhook};

async fn told(store: &Store) -> Vec<(String, String)> {
    let outgoing = store.read_outbox(100).await.unwrap();
    outgoing.iter().map(|o| (o.event.event_type.to_string(), o.event.id.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_failure_that_is_written_twice_is_told_once_and_other_attempts_are_not() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant_id = new_tenant(store).await;
    let now = Utc::now();
    let webhook_id = WebhookId::generate();
    let attempt = |id: &str, event_type: &str, error, next_attempt_at| AttemptRecord {
        event_type: event_type.parse().unwrap(),
        attempt: 3,
        status_code: None,
        error,
        next_attempt_at,
        ..delivered(
            DeliveryKey { webhook_id, event_id: id.parse().unwrap(), event_day: now.date_naive() },
            tenant_id,
            now,
        )
    };
    let attempts = vec![
        attempt("delivered", "message.sent", None, None),
        attempt("retried", "message.sent", Some("timeout"), Some(now)),
        attempt("cancelled", "message.sent", Some("cancelled"), None),
        attempt("given-up", "message.sent", Some("timeout"), None),
        attempt("news-given-up", "delivery.failing", Some("timeout"), None),
    ];
    let batch = Batch { attempts, ..Batch::default() };
    let mut ids = Vec::new();
    for _ in 0..2 {
        store.record(&batch, Uuid::nil()).await.unwrap();
        let outgoing = store.read_outbox(100).await.unwrap();
        assert_eq!(outgoing.len(), 1);
        let told = &outgoing[0];
        assert_eq!(told.event.event_type.as_str(), "delivery.exhausted");
        assert!(told.event.data.get().contains(r#""eventId":"given-up""#) && !told.is_wanted);
        ids.push(told.event.id.clone());
    }
    // Also where it was published and cleared in between: the same id.
    let sequences: Vec<i64> =
        store.read_outbox(100).await.unwrap().iter().map(|told| told.sequence).collect();
    store.clear_outbox(&sequences).await.unwrap();
    assert!(!store.has_outbox().await.unwrap());
    store.record(&batch, Uuid::nil()).await.unwrap();
    ids.push(store.read_outbox(100).await.unwrap()[0].event.id.clone());
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_dispatchers_tell_of_one_failing_webhook_once() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let webhook_id = webhook(store, tenant, domain::GateSettings::default()).await.id;
    let now = Utc::now();
    let failing = (0..3).fold(Health::default(), |health, _| health.after_failure(now, None));
    for (health, event_type) in [(failing, "delivery.failing"), (Health::default(), "delivery.recovered")] {
        let news = HealthNews { webhook_id, is_told: health.is_worth_telling(), health };
        // The row is there, as after a first failure.
        if news.is_told {
            let first = HealthNews { is_told: false, ..news.clone() };
            store.save_health(&[first], now).await.unwrap();
        }
        let all = (0..8).map(|_| {
            let (store, news) = (store.clone(), news.clone());
            tokio::spawn(async move { store.save_health(&[news], now).await.unwrap() })
        });
        for saved in all.collect::<Vec<_>>() {
            saved.await.unwrap();
        }
        let of_type = told(store).await.into_iter().filter(|(told, _)| told == event_type).count();
        assert_eq!(of_type, 1, "{event_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_has_the_outbox() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let now = Utc::now();
    let (first, second) = (lease(now), lease(now));
    assert!(store.lease_outbox(first, now).await.unwrap());
    assert!(!store.lease_outbox(second, now).await.unwrap());
    assert!(store.lease_outbox(first, now).await.unwrap(), "it can go on");
    let later = first.until + TimeDelta::seconds(1);
    let until = later + TimeDelta::seconds(30);
    assert!(store.lease_outbox(Lease { until, ..second }, later).await.unwrap(), "the lease ran out");
    store.release_outbox(first.holder).await.unwrap();
    assert!(!store.lease_outbox(first, later).await.unwrap(), "nobody gives up what is another's");
    store.release_outbox(second.holder).await.unwrap();
    assert!(store.lease_outbox(first, later).await.unwrap());
}
