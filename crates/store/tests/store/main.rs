//! What the database must guarantee, whoever asks it: exactly once, one holder at a time, nothing lost with a partition.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Event, GateSettings, SecretBytes, TenantId, Webhook, WebhookId, WebhookUrl};
use postrider_store::{
    AttemptRecord, AuditProblem, Batch, BatchId, ClaimedDue, DeliveryKey, Handed, Lease, NewWebhook, Pace,
    Parked, Store, WebhookChange,
};
use test_support::TestDatabase;
use uuid::Uuid;

mod audit_log;
mod backlog;
mod cancelling;
mod catch_up;
mod expanding;
mod metered;
mod outbox;
mod planning;
mod recovering;
mod repeats;
mod runbook;
mod secrets;
mod tls;
mod usage;
mod walls;

fn event(tenant: TenantId, id: &str) -> Event {
    Event {
        tenant_id: tenant,
        id: id.parse().unwrap(),
        event_type: "message.sent".parse().unwrap(),
        occurred_at: Utc::now(),
        session_id: None,
        ordering_key: None,
        trace: None,
        deliver_at: None,
        tags: Vec::new(),
        body: Bytes::from_static(b"{}"),
    }
}

fn lease(now: DateTime<Utc>) -> Lease {
    Lease { holder: Uuid::now_v7(), until: now + TimeDelta::seconds(30) }
}

async fn webhook(store: &Store, tenant: TenantId, gate: GateSettings) -> Webhook {
    webhook_at(store, tenant, "https://example.com/", gate).await
}

/// One hour old.
async fn webhook_at(store: &Store, tenant: TenantId, url: &str, gate: GateSettings) -> Webhook {
    let url = WebhookUrl::parse_stored(url).unwrap();
    let events = vec!["message.*".parse().unwrap()];
    let new = NewWebhook { gate, ..NewWebhook::new(url, events, SecretBytes::new(*b"0123456789")) };
    store.create_webhook(tenant, &new, Utc::now() - TimeDelta::hours(1)).await.unwrap()
}

async fn new_tenant(store: &Store) -> TenantId {
    let tenant = TenantId(Uuid::now_v7());
    store.ensure_tenants(&[tenant]).await.unwrap();
    tenant
}

/// A first attempt that delivered.
fn delivered(key: DeliveryKey, tenant_id: TenantId, started_at: DateTime<Utc>) -> AttemptRecord {
    AttemptRecord {
        key,
        tenant_id,
        event_type: "message.sent".parse().unwrap(),
        attempt: 1,
        started_at,
        duration_ms: 1,
        status_code: Some(200),
        error: None,
        next_attempt_at: None,
        trigger: None,
        exchange: None,
    }
}

/// A delivery of an open batch that comes to wait for its webhook's gate.
fn waiting(key: DeliveryKey, tenant_id: TenantId, accepted_at: DateTime<Utc>, batch: BatchId) -> Parked {
    Parked { key, tenant_id, accepted_at, attempts: 0, due_at: None, leased_by: None, batch: Some(batch) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_handed_over_by_ten_at_once_is_stored_once_also_at_midnight() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    let midnight = Utc::now().date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
    for (id, moments) in [
        ("noon", [midnight + TimeDelta::hours(12); 2]),
        ("midnight", [midnight - TimeDelta::milliseconds(1), midnight]),
    ] {
        let attempts: Vec<_> = (0..10)
            .map(|number| {
                let (store, event, now) = (database.store.clone(), event(tenant, id), moments[number % 2]);
                tokio::spawn(async move { store.hand_over(&[&event], now, lease(now), false).await.unwrap() })
            })
            .collect();
        let mut stored = 0;
        for attempt in attempts {
            let handed = attempt.await.unwrap();
            stored += handed.events.iter().filter(|e| matches!(e, Handed::Stored { .. })).count();
        }
        assert_eq!(stored, 1, "{id}");
        assert_eq!(database.count(&format!("SELECT count(*) FROM events WHERE id = '{id}'")).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_judges_each_event_by_itself() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    let unknown_type = Event { event_type: "order.paid".parse().unwrap(), ..event(tenant, "c") };
    let stranger = event(TenantId(Uuid::nil()), "d");
    let (first, second) = (event(tenant, "a"), event(tenant, "b"));
    let now = Utc::now();
    let given = [&first, &unknown_type, &first, &stranger, &second];
    let handed = database.store.hand_over(&given, now, lease(now), false).await.unwrap();
    let stored = Handed::Stored { webhooks_version: 0 };
    assert_eq!(handed.events, [stored, Handed::UnknownType, Handed::Repeated, Handed::UnknownTenant, stored]);
}

#[tokio::test(flavor = "multi_thread")]
async fn due_deliveries_are_claimed_by_one_at_a_time_and_again_when_the_lease_runs_out() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let webhook_id = WebhookId::generate();
    let now = Utc::now();
    let events: Vec<Event> = (0..100).map(|number| event(tenant, &format!("e{number}"))).collect();
    let given: Vec<&Event> = events.iter().collect();
    let batch_lease = lease(now);
    let handed = store.hand_over(&given, now, batch_lease, false).await.unwrap();
    let parked = events
        .iter()
        .map(|event| {
            let key = DeliveryKey { webhook_id, event_id: event.id.clone(), event_day: handed.day };
            Parked { attempts: 1, due_at: Some(now), ..waiting(key, tenant, now, handed.batch) }
        })
        .collect();
    store
        .record(&Batch { parked, settled: vec![handed.batch], ..Batch::default() }, batch_lease.holder)
        .await
        .unwrap();

    let claims: Vec<_> = (0..10)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.claim_due(now, 10, 1000, lease(now)).await.unwrap().deliveries })
        })
        .collect();
    let mut claimed = Vec::new();
    for claim in claims {
        claimed.extend(claim.await.unwrap().into_iter().map(|delivery| delivery.event.event.id));
    }
    let count = claimed.len();
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed.len(), count, "nothing is claimed twice");
    let claim_all = async |at| {
        let mut claimed = 0;
        loop {
            let due = store.claim_due(at, 1000, 1000, lease(at)).await.unwrap();
            claimed += due.deliveries.len();
            if !due.more {
                return claimed;
            }
        }
    };
    assert_eq!(count + claim_all(now).await, 100);
    assert_eq!(claim_all(now + TimeDelta::seconds(29)).await, 0);
    assert_eq!(claim_all(now + TimeDelta::seconds(31)).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_one_webhook_is_out_of_the_way_of_another_after_three_claims() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let now = Utc::now();
    let insert = "WITH e AS (
        INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT 0, $1, $1, $2, $3, $5 || n, 'message.sent', '{}' FROM generate_series(1, $6::bigint) n RETURNING *)
        INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT accepted_at, accepted_at, day, 1, tenant_id, $4, id FROM e";
    let (busy, other) = (WebhookId::generate(), WebhookId::generate());
    let client = database.client().await;
    let day = now.date_naive();
    client.execute(insert, &[&now, &day, &tenant.0, &busy.0, &"busy-", &160_i64]).await.unwrap();
    let later = now + TimeDelta::seconds(1);
    client.execute(insert, &[&later, &day, &tenant.0, &other.0, &"other-", &1_i64]).await.unwrap();
    let without_room = store.claim_due(later, 0, 16, lease(later)).await.unwrap();
    assert!(without_room.deliveries.is_empty() && without_room.set_waiting && without_room.more);
    for claim in 2..=3 {
        let ClaimedDue { deliveries: claimed, more, .. } =
            store.claim_due(later, 100, 16, lease(later)).await.unwrap();
        let of_busy = claimed.iter().filter(|delivery| delivery.webhook_id == busy).count();
        assert_eq!((of_busy, more), (16, claim < 3));
        assert_eq!(claimed.len() - of_busy, usize::from(claim == 3));
    }
    let waiting = "SELECT count(*) FROM deliveries WHERE due_at IS NULL";
    assert_eq!(database.count(waiting).await, 160 - 2 * 16, "for its gate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_failure_does_not_bring_back_what_another_dispatcher_has_finished() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let now = Utc::now();
    let holder = lease(now);
    let handed = store.hand_over(&[&event(tenant, "e1")], now, holder, false).await.unwrap();
    let key = DeliveryKey {
        webhook_id: WebhookId::generate(),
        event_id: "e1".parse().unwrap(),
        event_day: handed.day,
    };
    let parked = |batch| Batch {
        parked: vec![Parked {
            attempts: 1,
            due_at: Some(now),
            batch,
            ..waiting(key.clone(), tenant, now, handed.batch)
        }],
        ..Batch::default()
    };
    let rows = "SELECT count(*) FROM deliveries";
    let stranger = Uuid::now_v7();
    store.record(&parked(Some(handed.batch)), stranger).await.unwrap();
    assert_eq!(database.count(rows).await, 0, "the batch is not the stranger's");
    store.record(&parked(Some(handed.batch)), holder.holder).await.unwrap();
    store.record(&parked(None), holder.holder).await.unwrap();
    assert_eq!(database.count(rows).await, 1);
    store.record(&Batch { finished: vec![key.clone()], ..Batch::default() }, stranger).await.unwrap();
    store.record(&parked(None), holder.holder).await.unwrap();
    assert_eq!(database.count(rows).await, 0, "it had a row, and somebody has finished it");
    let later = now + TimeDelta::seconds(31);
    let taken = store.take_over_batch(later, lease(later), &[]).await.unwrap().unwrap();
    let late = Batch { settled: vec![taken.id], ..parked(Some(taken.id)) };
    store.record(&late, holder.holder).await.unwrap();
    assert_eq!(database.count(rows).await, 0, "its batch was taken over");
    assert_eq!(database.count("SELECT count(*) FROM open_batches").await, 1, "and is the taker's to close");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_batch_is_taken_over_once_its_lease_runs_out_and_only_by_one() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let now = Utc::now();
    let first = event(tenant, "a");
    let at = now + TimeDelta::hours(1);
    let put_off = Event { deliver_at: Some(at), ..event(tenant, "b") };
    let handed = store.hand_over(&[&first, &put_off], now, lease(now), false).await.unwrap();
    assert!(store.take_over_batch(now, lease(now), &[]).await.unwrap().is_none(), "still leased");
    let later = now + TimeDelta::seconds(31);
    let taker = lease(later);
    let own = store.take_over_batch(later, taker, &[handed.batch]).await.unwrap();
    assert!(own.is_none(), "not what the taker itself is at");
    let taken = store.take_over_batch(later, taker, &[]).await.unwrap().unwrap();
    assert_eq!((taken.id, taken.events.len()), (handed.batch, 2));
    assert!(store.take_over_batch(later, lease(later), &[]).await.unwrap().is_none());
    let webhook = webhook(store, tenant, GateSettings::default()).await;
    let deliveries = [(&webhook, &taken.events[0]), (&webhook, &taken.events[1])];
    let stranger = Uuid::now_v7();
    assert_eq!(
        store.resume_batch(taken.id, stranger, &deliveries, later).await.unwrap(),
        0,
        "not the holder"
    );
    assert_eq!(store.resume_batch(taken.id, taker.holder, &deliveries, later).await.unwrap(), 2);
    assert_eq!(database.count("SELECT count(*) FROM open_batches").await, 0);
    assert_eq!(database.count("SELECT count(*) FROM deliveries").await, 2);
    let due = store.claim_due(later, 10, 10, lease(later)).await.unwrap().deliveries;
    assert_eq!(due.len(), 1, "the other waits for its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_ahead_take_up_the_default_and_go_with_retention() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let far = Utc::now() + TimeDelta::days(100);
    let late = event(tenant, "late");
    store.hand_over(&[&late], far, lease(far), false).await.unwrap();
    assert_eq!(
        database.count("SELECT count(*) FROM events_default").await,
        1,
        "no partition for that day yet"
    );

    let report = store.maintain_partitions(far.date_naive(), 2, 30).await.unwrap();
    assert_eq!(report.created, 12, "yesterday to two days ahead, of three tables");
    assert!(report.dropped > 0 && report.default_in_use, "whoever is to know that it was missing is told");
    assert_eq!(database.count("SELECT count(*) FROM events_default").await, 0);
    assert_eq!(database.count("SELECT count(*) FROM events WHERE id = 'late'").await, 1, "moved, not lost");

    let again = store.maintain_partitions(far.date_naive(), 2, 30).await.unwrap();
    assert_eq!((again.created, again.dropped, again.default_in_use), (0, 0, false));
    let gone = far.date_naive() + chrono::Days::new(40);
    store.maintain_partitions(gone, 2, 30).await.unwrap();
    assert_eq!(database.count("SELECT count(*) FROM events").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_exactly_the_lost_deliveries_and_repairs_them() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let now = Utc::now();
    let webhook = webhook(store, tenant, GateSettings::default()).await.id;
    let unwanted = Event { event_type: "session.connected".parse().unwrap(), ..event(tenant, "unwanted") };
    let events: Vec<Event> = ["delivered", "failed", "scheduled", "retry-missing", "never-attempted"]
        .map(|id| event(tenant, id))
        .into_iter()
        .chain([unwanted])
        .collect();
    let given: Vec<&Event> = events.iter().collect();
    let holder = lease(now);
    let handed = store.hand_over(&given, now, holder, false).await.unwrap();
    let key =
        |id: &str| DeliveryKey { webhook_id: webhook, event_id: id.parse().unwrap(), event_day: handed.day };
    let attempt = |id: &str, error, next_attempt_at| AttemptRecord {
        status_code: None,
        error,
        next_attempt_at,
        ..delivered(key(id), tenant, now)
    };
    let later = Some(now + TimeDelta::seconds(5));
    let parked =
        Parked { attempts: 1, due_at: later, ..waiting(key("scheduled"), tenant, now, handed.batch) };
    let batch = Batch {
        attempts: vec![
            attempt("delivered", None, None),
            attempt("failed", Some("status"), None),
            attempt("scheduled", Some("timeout"), later),
            attempt("retry-missing", Some("timeout"), later),
        ],
        parked: vec![parked],
        finished: Vec::new(),
        settled: vec![handed.batch],
    };
    store.record(&batch, holder.holder).await.unwrap();
    let open = event(tenant, "under-way");
    store.hand_over(&[&open], now, lease(now), false).await.unwrap();

    let (from, to) = (now - TimeDelta::minutes(1), now + TimeDelta::minutes(1));
    let report = store.audit(from, to, Pace::Full).await.unwrap();
    let counts =
        [report.events, report.delivered, report.failed, report.scheduled, report.under_way, report.unjudged];
    assert_eq!(counts, [7, 1, 1, 1, 1, 0]);
    let mut found: Vec<(&str, AuditProblem)> =
        report.findings.iter().map(|finding| (finding.key.event_id.as_str(), finding.problem)).collect();
    found.sort_by_key(|(id, _)| *id);
    assert_eq!(
        found,
        [("never-attempted", AuditProblem::NeverAttempted), ("retry-missing", AuditProblem::RetryMissing)]
    );
    assert_eq!(
        store.audit(to, to + TimeDelta::hours(1), Pace::Full).await.unwrap().events,
        0,
        "outside the range"
    );

    assert_eq!(store.repair(&report.findings, now).await.unwrap(), 2);
    assert_eq!(store.repair(&report.findings, now).await.unwrap(), 0, "once");
    assert_eq!(store.audit(from, to, Pace::Full).await.unwrap().lost, 0);
    let claimed = store.claim_due(now, 10, 10, lease(now)).await.unwrap().deliveries;
    let mut attempts: Vec<(&str, u32)> =
        claimed.iter().map(|delivery| (delivery.event.event.id.as_str(), delivery.attempts)).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [("never-attempted", 0), ("retry-missing", 1)], "each goes on where it was");

    let change = WebhookChange { is_active: Some(true), ..WebhookChange::default() };
    store.change_webhook(tenant, webhook, &change, now).await.unwrap();
    let report = store.audit(from, to, Pace::Full).await.unwrap();
    assert_eq!((report.scheduled, report.unjudged, report.lost), (3, 0, 0), "what happened needs no guess");
    let forget = "DELETE FROM deliveries WHERE event_id = 'never-attempted'";
    database.client().await.execute(forget, &[]).await.unwrap();
    let report = store.audit(from, to, Pace::Full).await.unwrap();
    assert_eq!((report.unjudged, report.lost), (1, 0), "changed since: nobody knows whether it matched");
}
