//! The tables of unfinished work are read by index, however large they are and whatever the planner believes of them.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use domain::{Expected, GateSettings, TenantId, WebhookId};
use postrider_store::{
    AttemptOutcome, AttemptRecord, AuditReport, Batch, DeliveryKey, DeliveryState, EventFilter, Interval,
    Pace, Parked, Store, Unfinished,
};
use test_support::{TestDatabase, eventually};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::{delivered, event, lease, new_tenant, waiting, webhook, webhook_at};

const BACKLOG: i64 = 20_000;
const ROUNDS: usize = 10;

/// A backlog that has just come to wait, of which the planner believes that nothing waits.
async fn plant_backlog(client: &Client, tenant: TenantId, webhook: WebhookId) {
    let due =
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT now(), now(), CURRENT_DATE, 1, $1, $2, 'waiting-' || n FROM generate_series(1, $3::bigint) n";
    client.execute(due, &[&tenant.0, &webhook.0, &BACKLOG]).await.unwrap();
    client.batch_execute("ANALYZE deliveries").await.unwrap();
    client.execute("UPDATE deliveries SET due_at = NULL", &[]).await.unwrap();
    let draining = "UPDATE webhook_health SET is_draining = true WHERE webhook_id = $1";
    client.execute(draining, &[&webhook.0]).await.unwrap();
}

/// A delivery is handed over, fails, is taken on again, fails again and is finished; a backlog drains beside it.
async fn round(store: &Store, tenant: TenantId, [webhook, draining]: [WebhookId; 2], number: usize) {
    let (now, lease) = (Utc::now(), lease(Utc::now()));
    let event = event(tenant, &format!("event-{number}"));
    let handed = store.hand_over(&[&event], now, lease, false).await.unwrap();
    let key = DeliveryKey { webhook_id: webhook, event_id: event.id.clone(), event_day: handed.day };
    let attempt = AttemptRecord {
        status_code: Some(500),
        error: Some("status"),
        next_attempt_at: Some(now),
        ..delivered(key.clone(), tenant, now)
    };
    let parked = Parked { attempts: 1, due_at: Some(now), ..waiting(key.clone(), tenant, now, handed.batch) };
    let again = Parked { attempts: 2, batch: None, ..parked.clone() };
    let settled = vec![handed.batch];
    for batch in [
        Batch { attempts: vec![attempt], parked: vec![parked], settled, ..Batch::default() },
        Batch { parked: vec![again], ..Batch::default() },
        Batch { finished: vec![key], ..Batch::default() },
    ] {
        store.record(&batch, lease.holder).await.unwrap();
        if batch.finished.is_empty() {
            let due = store.claim_due(now + TimeDelta::seconds(1), 10, 10, lease).await.unwrap();
            assert_eq!(due.deliveries.len(), 1);
        }
    }
    store.waiting_webhooks(None, 500).await.unwrap();
    store.claim_metered(&[(draining, 1)], 100, now, lease).await.unwrap();
    store.claim_waiting(&[(draining, 1)], lease).await.unwrap();
}

/// Waits until the connection has ended that did this last: what it has read is counted then.
async fn wait_for_the_end_of(database: &TestDatabase, query: &str) {
    let asked = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '{query}%'"
    );
    eventually("the end of the connection", async || (database.count(&asked).await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_makes_no_other_delivery_dearer() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let store = Store::new(&database.url_of("dispatcher"), 1).unwrap();
    let tenant = new_tenant(&store).await;
    let webhook_at = |url| webhook_at(&database.store, tenant, url, GateSettings::default());
    let webhook = webhook_at("https://example.com/1").await.id;
    let draining = webhook_at("https://example.com/2").await.id;
    // Everything is planned while there is nothing, as at the start of a process.
    client
        .batch_execute("ALTER TABLE deliveries SET (autovacuum_enabled = off); ANALYZE deliveries")
        .await
        .unwrap();
    round(&store, tenant, [webhook, draining], 0).await;
    plant_backlog(&client, tenant, draining).await;
    // What a connection has read is counted when it ends.
    drop(client);
    let asked = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
        WHERE relname IN ('deliveries', 'open_batches')";
    let planting = eventually("the count of what planting read", async || {
        let read = database.count(asked).await;
        (read >= BACKLOG).then_some(read)
    })
    .await;
    for number in 1..=ROUNDS {
        round(&store, tenant, [webhook, draining], number).await;
    }
    drop(store);
    wait_for_the_end_of(&database, "-- claim_waiting").await;
    let read = database.count(asked).await - planting;
    assert!(read > 0, "nothing was counted");
    assert!(read < BACKLOG, "{read} rows were read for {ROUNDS} deliveries beside {BACKLOG} that wait");
}

/// As at midnight: what a process does all the time was planned before the new day had an event.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_does_not_read_the_other_events_of_a_day_that_was_empty_when_it_was_planned() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let store = Store::new(&database.url_of("dispatcher"), 1).unwrap();
    let tenant = new_tenant(&store).await;
    let webhook_at = |url| webhook_at(&database.store, tenant, url, GateSettings::default());
    let webhooks =
        [webhook_at("https://example.com/1").await.id, webhook_at("https://example.com/2").await.id];
    for number in 0..ROUNDS {
        round(&store, tenant, webhooks, number).await;
    }
    let plant = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT 0, now(), now(), CURRENT_DATE, $1, 'other-' || n, 'message.sent', '{}' FROM generate_series(1, $2::bigint) n";
    client.execute(plant, &[&tenant.0, &BACKLOG]).await.unwrap();
    for number in ROUNDS..2 * ROUNDS {
        round(&store, tenant, webhooks, number).await;
    }
    drop((client, store));
    wait_for_the_end_of(&database, "-- claim_waiting").await;
    let read = rows_read(&database, "events").await;
    assert!(
        (1..BACKLOG).contains(&read),
        "{read} events were read for {ROUNDS} deliveries beside {BACKLOG} others"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_tenants_events_reads_those_it_shows() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let store = Store::new(&database.url_of("gateway"), 1).unwrap();
    let tenant = new_tenant(&database.store).await;
    // One event a batch, of a hundred tenants in turn and of this one, today and tomorrow.
    let plant = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT n, now(), now(), CURRENT_DATE + (n / $2)::integer,
            CASE WHEN n % 2 = 0 THEN $1::uuid ELSE md5((n % 100)::text)::uuid END, 'event-' || n, 'message.sent', '{}'
        FROM generate_series(0, 2 * $2::bigint - 1) n";
    client.execute(plant, &[&tenant.0, &(BACKLOG / 2)]).await.unwrap();
    client.batch_execute("ANALYZE events").await.unwrap();
    let mut place = None;
    for number in 0..ROUNDS {
        let page = store.events_after(tenant, place, BACKLOG, &EventFilter::default(), 10).await.unwrap();
        assert_eq!(page.events[0].event.id.to_string(), format!("event-{}", 20 * number + 2));
        place = page.next;
    }
    drop(store);
    wait_for_the_end_of(&database, "-- events_after").await;
    let read = rows_read(&database, "events").await;
    assert!((100..1_000).contains(&read), "{read} rows were read for 100 of {BACKLOG} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_reads_the_webhooks_of_what_is_due_and_no_others() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let store = Store::new(&database.url_of("dispatcher"), 1).unwrap();
    let tenant = new_tenant(&store).await;
    let webhook = webhook(&database.store, tenant, GateSettings::default()).await.id;
    let webhooks = "INSERT INTO webhooks
            (id, tenant_id, url, events, secret, is_active, duplicate_key, created_at, updated_at)
        SELECT lpad(n::text, 32, '0')::uuid, $1, 'https://example.com/', ARRAY['*'], '\\x5a', true, md5(n::text), now(), now()
        FROM generate_series(1, $2::bigint) n";
    // By their ids before the one that counts: who reads all of them in order passes them by.
    client.execute(webhooks, &[&tenant.0, &BACKLOG]).await.unwrap();
    // Many for later, of which the planner knows, and a few that are due.
    let deliveries =
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT now(), now() + make_interval(hours => $4::integer), CURRENT_DATE, 1, $1, $2, concat($4, '-', n)
        FROM generate_series(1, $3::bigint) n";
    client.execute(deliveries, &[&tenant.0, &webhook.0, &(5 * BACKLOG), &2]).await.unwrap();
    client.batch_execute("ANALYZE deliveries, webhooks").await.unwrap();
    client.execute(deliveries, &[&tenant.0, &webhook.0, &50_i64, &-2]).await.unwrap();
    let now = Utc::now();
    assert!(!store.set_waiting(now).await.unwrap().set_waiting, "it neither is metered nor drains");
    store.claim_due(now, 100, 10, lease(now)).await.unwrap();
    assert_eq!(database.count("SELECT count(*) FROM deliveries WHERE leased_by IS NOT NULL").await, 10);
    assert_eq!(database.count("SELECT count(*) FROM deliveries WHERE due_at IS NULL").await, 40);
    drop(store);
    wait_for_the_end_of(&database, "-- claim_due").await;
    let read = rows_read(&database, "webhooks").await;
    assert!((50..500).contains(&read), "{read} rows were read of {BACKLOG}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_reads_the_batches_of_its_range_and_no_others() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let store = Store::new(&database.url_of("dispatcher"), 1).unwrap();
    let tenant = new_tenant(&store).await;
    // One event in each batch and second; the newest is now.
    let plant = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT n, at, at, $3, $1, 'event-' || n, 'message.sent', '{}'
        FROM (SELECT n, $4::timestamptz - make_interval(secs => $2 - n) AS at FROM generate_series(1, $2::bigint) n) b";
    let now = Utc::now();
    let [from, to] = [10_000, 9_940].map(|seconds| now - TimeDelta::seconds(seconds));
    client.execute(plant, &[&tenant.0, &BACKLOG, &from.date_naive(), &now]).await.unwrap();
    let report = store.audit(from, to, Pace::Full).await.unwrap();
    assert_eq!(report.events, 60);
    drop(store);
    wait_for_the_end_of(&database, "-- audit").await;
    let read = rows_read(&database, "events").await;
    assert!((60..1_000).contains(&read), "{read} rows were read for 60 of {BACKLOG} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_goes_on_past_pages_without_an_event_of_its_range() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let tenant = new_tenant(&database.store).await;
    // Far more than a page, shortly before the range, and a few in it.
    let plant = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT $5::bigint, $4, $4, $3, $1, concat($5, '-event-', n), 'message.sent', '{}' FROM generate_series(1, $2::bigint) n";
    let from = Utc::now() - TimeDelta::seconds(60);
    for (batch, seconds, count) in [(1_i64, -10, 3_500_i64), (2, 10, 3)] {
        let at = from + TimeDelta::seconds(seconds);
        client.execute(plant, &[&tenant.0, &count, &from.date_naive(), &at, &batch]).await.unwrap();
    }
    let report = database.store.audit(from, from + TimeDelta::seconds(20), Pace::Full).await.unwrap();
    assert_eq!(report.events, 3);
}

/// Audits so many events of two seconds, each delivered after so long.
async fn audit_of_delivered_after(
    database: &TestDatabase,
    store: &Store,
    count: i64,
    milliseconds: u32,
) -> AuditReport {
    let client = database.client().await;
    let tenant = new_tenant(store).await;
    let settings = GateSettings::default();
    let webhook = webhook_at(&database.store, tenant, "https://example.com/1", settings).await.id;
    let from = Utc::now() + TimeDelta::seconds(10);
    let day = from.date_naive();
    let at = "$3::timestamptz + make_interval(secs => n / ($2::double precision / 2))";
    let events = format!(
        "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT n / 100, {at}, {at}, $4, $1, 'event-' || n, 'message.sent', '{{}}'
        FROM generate_series(0, $2::bigint - 1) n"
    );
    client.execute(&events, &[&tenant.0, &count, &from, &day]).await.unwrap();
    let attempts = format!(
        "INSERT INTO delivery_attempts
            (started_at, duration_ms, attempt, event_day, status_code, tenant_id, webhook_id, event_id, event_type)
        SELECT {at} + interval '{milliseconds} ms', 1, 1, $4, 200, $1, $5, 'event-' || n, 'message.sent'
        FROM generate_series(0, $2::bigint - 1) n"
    );
    client.execute(&attempts, &[&tenant.0, &count, &from, &day, &webhook.0]).await.unwrap();
    let audit = store.audit(from, from + TimeDelta::seconds(2), Pace::Full);
    timeout(Duration::from_secs(15), audit).await.expect("an audit in reasonable time").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_of_what_was_delivered_late_looks_at_each_attempt_a_few_times() {
    let database = TestDatabase::create().await;
    // Minutes where each delivery is compared with each attempt.
    let count = 3 * BACKLOG;
    let report = audit_of_delivered_after(&database, &database.store, count, 1_500).await;
    let all = count.cast_unsigned();
    assert_eq!((report.events, report.delivered, report.lost), (all, all, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_of_what_was_delivered_at_once_reads_little_else() {
    let database = TestDatabase::create().await;
    let store = Store::new(&database.url_of("dispatcher"), 1).unwrap();
    // They are looked at in two steps.
    let report = audit_of_delivered_after(&database, &store, BACKLOG, 5).await;
    let all = BACKLOG.cast_unsigned();
    assert_eq!((report.events, report.delivered, report.lost), (all, all, 0));
    drop(store);
    wait_for_the_end_of(&database, "-- audit").await;
    let read = rows_read(&database, "delivery_attempts").await;
    assert!((BACKLOG..2 * BACKLOG).contains(&read), "{read} attempts were read for {BACKLOG} events");
    assert_eq!(rows_read(&database, "deliveries").await, 0);
    let looks =
        "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_tables WHERE relname = 'deliveries'";
    assert_eq!(database.count(looks).await, 0, "what was delivered is not scheduled");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_counts_each_of_many_deliveries_of_few_events_once() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let tenant = new_tenant(&database.store).await;
    // 70 events for 900 webhooks each are more than are looked at together, twice.
    let webhooks = "INSERT INTO webhooks
            (id, tenant_id, url, events, secret, is_active, duplicate_key, created_at, updated_at)
        SELECT gen_random_uuid(), $1, 'https://example.com/' || n, ARRAY['message.sent'], decode(repeat('5a', 32), 'hex'), true,
            n::text, now() - interval '1 hour', now() - interval '1 hour'
        FROM generate_series(1, 900) n";
    client.execute(webhooks, &[&tenant.0]).await.unwrap();
    let now = Utc::now();
    let events = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT 1, $2, $2, $3, $1, 'event-' || n, 'message.sent', '{}' FROM generate_series(1, 70) n";
    client.execute(events, &[&tenant.0, &now, &now.date_naive()]).await.unwrap();
    // To one webhook in three each was delivered; to another it is to be.
    let attempts = "INSERT INTO delivery_attempts
            (started_at, duration_ms, attempt, event_day, status_code, tenant_id, webhook_id, event_id, event_type)
        SELECT accepted_at, 1, 1, day, 200, e.tenant_id, w.id, e.id, type
        FROM events e, webhooks w WHERE w.duplicate_key::integer % 3 = 0";
    client.execute(attempts, &[]).await.unwrap();
    let deliveries =
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT accepted_at, NULL, day, 0, e.tenant_id, w.id, e.id
        FROM events e, webhooks w WHERE w.duplicate_key::integer % 3 = 1";
    client.execute(deliveries, &[]).await.unwrap();
    let (from, to) = (now - TimeDelta::seconds(1), now + TimeDelta::seconds(1));
    let report = database.store.audit(from, to, Pace::Full).await.unwrap();
    let counts = [report.events, report.delivered, report.scheduled, report.lost];
    assert_eq!(counts, [70, 21_000, 21_000, 21_000]);
}

/// Rows read by index or as a whole, of all partitions of a table.
async fn rows_read(database: &TestDatabase, table: &str) -> i64 {
    let asked = format!(
        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
        WHERE relname LIKE '{table}%'"
    );
    database.count(&asked).await
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_and_what_became_of_an_event_read_what_they_show_and_not_all_of_the_history() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let store = Store::new(&database.url_of("gateway"), 1).unwrap();
    let tenant = new_tenant(&database.store).await;
    let webhook = webhook(&database.store, tenant, GateSettings::default()).await.id;
    // An attempt a second, up to now: in one of 100 the delivery has failed.
    let plant = "INSERT INTO delivery_attempts
            (started_at, duration_ms, attempt, event_day, status_code, tenant_id, webhook_id, event_id, event_type, error)
        SELECT $4::timestamptz - make_interval(secs => n), 1, 1, $5, 200, $1, $2, 'event-' || n, 'message.sent',
            CASE WHEN n % 100 = 0 THEN 'status' END
        FROM generate_series(1, $3::bigint) n";
    let now = Utc::now();
    let day = (now - TimeDelta::seconds(10_000)).date_naive();
    client.execute(plant, &[&tenant.0, &webhook.0, &BACKLOG, &now, &day]).await.unwrap();
    let event = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT 0, at, at, $2, $1, 'event-10000', 'message.sent', '{}' FROM (SELECT $3::timestamptz AS at) a";
    client.execute(event, &[&tenant.0, &day, &(now - TimeDelta::seconds(10_001))]).await.unwrap();
    client.batch_execute("ANALYZE delivery_attempts").await.unwrap();

    let [from, to] = [10_000, 9_940].map(|seconds| now - TimeDelta::seconds(seconds));
    let statistics = store.statistics(tenant, webhook, from, to, Interval::Hour).await.unwrap();
    assert_eq!((statistics.total.delivered, statistics.total.failed()), (59, 1));
    let event = "event-10000".parse().unwrap();
    let found = store.event_deliveries(tenant, &event, None, 10, now).await.unwrap();
    assert_eq!(found[0].state, DeliveryState::Ended(AttemptOutcome::Failed));
    drop(store);
    wait_for_the_end_of(&database, "-- event_deliveries").await;
    let read = rows_read(&database, "delivery_attempts").await;
    assert!((60..500).contains(&read), "{read} rows were read of {BACKLOG}");
}

/// Events of a hundred tenants, which the planner knows of, and then as many of one tenant.
async fn plant_events(client: &Client, tenant: TenantId) {
    let plant = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT 0, now(), now(), CURRENT_DATE, CASE WHEN $1 THEN md5((n % 100)::text)::uuid ELSE $2::uuid END, 'waiting-' || n,
            'message.sent', '{}'
        FROM generate_series(1, $3::bigint) n";
    client.batch_execute("ALTER TABLE deliveries SET (autovacuum_enabled = off)").await.unwrap();
    client.execute(plant, &[&true, &tenant.0, &BACKLOG]).await.unwrap();
    client.batch_execute("ANALYZE events").await.unwrap();
    client.execute(plant, &[&false, &tenant.0, &BACKLOG]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_webhooks_deliveries_are_cancelled_without_reading_all_events_and_without_waiting() {
    const WAITING: i64 = 2_500;
    let database = TestDatabase::create().await;
    let mut client = database.client().await;
    let store = Store::new(&database.url_of("gateway"), 1).unwrap();
    let tenant = new_tenant(&database.store).await;
    let webhook = webhook(&database.store, tenant, GateSettings::default()).await.id;
    plant_events(&client, tenant).await;
    let waiting =
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT now(), NULL, CURRENT_DATE, 1, $1, $2, 'waiting-' || n FROM generate_series(1, $3::bigint) n";
    client.execute(waiting, &[&tenant.0, &webhook.0, &WAITING]).await.unwrap();

    let now = Utc::now();
    let later =
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        VALUES ($3, NULL, CURRENT_DATE, 1, $1, $2, 'waiting-3000')";
    client.execute(later, &[&tenant.0, &webhook.0, &(now + TimeDelta::seconds(1))]).await.unwrap();
    let page = store.unfinished_deliveries(tenant, webhook, Unfinished::Any, 10, None, now).await.unwrap();
    assert_eq!(page.0.len(), 10);
    // A dispatcher writes down what became of one of them, and takes its time.
    let dispatcher = client.transaction().await.unwrap();
    dispatcher.execute("SELECT FROM deliveries WHERE event_id = 'waiting-7' FOR UPDATE", &[]).await.unwrap();
    assert!(store.delete_webhook(tenant, webhook, &Expected::Any, now).await.unwrap());
    dispatcher.commit().await.unwrap();
    drop(store);
    // The one that was held, and the one that came later.
    assert_eq!(database.count("SELECT count(*) FROM deliveries").await, 2);
    let cancelled =
        "SELECT count(*) FROM delivery_attempts WHERE error = 'cancelled' AND event_type = 'message.sent'";
    assert_eq!(database.count(cancelled).await, WAITING - 1);
    wait_for_the_end_of(&database, "-- cancel_deliveries").await;
    drop(client);
    let read = eventually("the count of what was read", async || {
        let read = rows_read(&database, "events").await;
        (read >= WAITING).then_some(read)
    })
    .await;
    assert!(read < WAITING * 3, "{read} events were read for {WAITING} deliveries");
}
