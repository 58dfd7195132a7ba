use chrono::{TimeDelta, Utc};
use domain::TenantId;
use test_support::TestDatabase;

use crate::new_tenant;

/// Two deliveries that are due, one that comes later and one that waits.
async fn plant(database: &TestDatabase, tenant: TenantId) {
    let plant = format!(
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
         SELECT now(), due_at, current_date, 0, '{tenant}', gen_random_uuid(), 'e'
         FROM unnest(ARRAY[now() - interval '5 minutes', now() - interval '1 minute', now() + interval '1 hour', NULL]) AS due_at"
    );
    database.client().await.batch_execute(&plant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_counts_what_is_due_what_waits_and_what_comes_later() {
    let database = TestDatabase::create().await;
    let now = Utc::now();
    let empty = database.store.backlog(now).await.unwrap();
    assert_eq!((empty.oldest_due_at, empty.due, empty.waiting, empty.later), (None, 0, 0, 0));
    let tenant = new_tenant(&database.store).await;
    plant(&database, tenant).await;
    let backlog = database.store.backlog(Utc::now()).await.unwrap();
    assert_eq!((backlog.due, backlog.waiting, backlog.later), (2, 1, 1));
    let age = Utc::now() - backlog.oldest_due_at.unwrap();
    assert!((300..330).contains(&age.num_seconds()), "{age}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_ahead_are_counted_up_to_the_first_day_that_lacks_one() {
    let database = TestDatabase::create().await;
    let today = Utc::now().date_naive();
    database.store.maintain_partitions(today, 5, 30).await.unwrap();
    assert_eq!(database.store.partition_days_ahead(today).await.unwrap(), 5);
    let third = today + TimeDelta::days(3);
    let drop = format!("DROP TABLE delivery_attempts_{}", third.format("%Y%m%d"));
    database.client().await.batch_execute(&drop).await.unwrap();
    assert_eq!(database.store.partition_days_ahead(today).await.unwrap(), 2);
    assert_eq!(database.store.partition_days_ahead(third).await.unwrap(), -1);
}

/// The queries by which the autoscaler of k8s/components counts what waits.
fn scaler_queries() -> Vec<String> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../k8s/components/autoscaling/dispatcher.yaml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    manifest.lines().filter_map(|line| line.trim().strip_prefix("query: ").map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autoscaler_counts_what_is_due_with_the_right_to_read_one_column() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    plant(&database, tenant).await;
    let scaler = database.client_of("autoscaler").await;
    let queries = scaler_queries();
    assert_eq!(queries.len(), 2);
    assert_eq!(scaler.query_one(&queries[0], &[]).await.unwrap().get::<_, i64>(0), 2, "those that are due");
    let age: f64 = scaler.query_one(&queries[1], &[]).await.unwrap().get(0);
    assert!((300.0..330.0).contains(&age), "{age}");
    assert!(scaler.query("SELECT tenant_id FROM deliveries", &[]).await.is_err());
}
