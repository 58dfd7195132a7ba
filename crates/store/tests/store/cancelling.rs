//! What waits for a webhook that is deleted or off is cancelled, without keeping whoever asked for that.

use chrono::Utc;
use domain::{Expected, GateSettings};
use postrider_store::Store;
use test_support::{TestDatabase, eventually};

use crate::{new_tenant, webhook};

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_to_cancel_is_cancelled_after_the_answer() {
    const WAITING: i64 = 500;
    let database = TestDatabase::create().await;
    let mut client = database.client().await;
    let store = Store::new(&database.url_of("gateway"), 1).unwrap();
    let tenant = new_tenant(&database.store).await;
    let webhook = webhook(&database.store, tenant, GateSettings::default()).await.id;
    let waiting = "WITH stored AS (
            INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
            SELECT 0, now(), now(), CURRENT_DATE, $1, 'waiting-' || n, 'message.sent', '{}'
            FROM generate_series(1, $3::bigint) n
            RETURNING day, id
        )
        INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT now(), NULL, day, 1, $1, $2, id FROM stored";
    client.execute(waiting, &[&tenant.0, &webhook.0, &WAITING]).await.unwrap();
    // Nothing can be written to the history meanwhile.
    let somebody = client.transaction().await.unwrap();
    somebody.batch_execute("LOCK TABLE delivery_attempts IN SHARE MODE").await.unwrap();
    assert!(store.delete_webhook(tenant, webhook, &Expected::Any, Utc::now()).await.unwrap());
    assert_eq!(database.count("SELECT count(*) FROM deliveries").await, WAITING);
    somebody.commit().await.unwrap();
    eventually("the end of what waits", async || {
        (database.count("SELECT count(*) FROM deliveries").await == 0).then_some(())
    })
    .await;
    let cancelled = "SELECT count(*) FROM delivery_attempts WHERE error = 'cancelled'";
    assert_eq!(database.count(cancelled).await, WAITING);
}
