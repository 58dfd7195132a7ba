use chrono::{Days, TimeDelta, Utc};
use domain::TenantId;
use postrider_store::{Usage, UsageCount};
use test_support::TestDatabase;
use uuid::Uuid;

use crate::new_tenant;

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_is_written_again_counts_once() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let (tenant, unknown) = (new_tenant(store).await, TenantId(Uuid::now_v7()));
    let (today, [first, second]) = (Utc::now().date_naive(), [Uuid::now_v7(), Uuid::now_v7()]);
    let usage = Usage { events: 3, requests: 2 };
    let count =
        |sequence| UsageCount { sequence, used: vec![(tenant, today, usage), (unknown, today, usage)] };
    for (gateway, sequence) in [(first, 1), (first, 1), (second, 1), (first, 2), (first, 1), (second, 1)] {
        store.record_usage(gateway, &count(sequence), Utc::now()).await.unwrap();
    }
    let used = async || store.tenants(&[tenant, unknown], today).await.unwrap().pop().unwrap().usage;
    assert_eq!(used().await, Usage { events: 9, requests: 6 });

    store.forget_usage(today, Utc::now() - TimeDelta::days(1)).await.unwrap();
    assert_eq!(used().await, Usage { events: 9, requests: 6 }, "today is kept");
    store.forget_usage(today + Days::new(1), Utc::now()).await.unwrap();
    assert_eq!(used().await, Usage::default());
    assert_eq!(database.count("SELECT count(*) FROM usage_writers").await, 0);
}
