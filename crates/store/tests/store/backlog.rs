use chrono::{TimeDelta, Utc};
use test_support::TestDatabase;

use crate::new_tenant;

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_counts_what_is_due_what_waits_and_what_comes_later() {
    let database = TestDatabase::create().await;
    let now = Utc::now();
    let empty = database.store.backlog(now).await.unwrap();
    assert_eq!((empty.oldest_due_at, empty.due, empty.waiting, empty.later), (None, 0, 0, 0));
    let tenant = new_tenant(&database.store).await;
    let plant = format!(
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
         SELECT now(), due_at, current_date, 0, '{tenant}', gen_random_uuid(), 'e'
         FROM unnest(ARRAY[now() - interval '5 minutes', now() - interval '1 minute', now() + interval '1 hour', NULL]) AS due_at"
    );
    database.client().await.batch_execute(&plant).await.unwrap();
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
