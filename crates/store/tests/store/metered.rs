//! Gates that hold for all dispatchers together: rate, concurrency, order, drain.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Event, GateSettings, TenantId, Webhook};
use postrider_store::{Batch, DeliveryKey, Lease, OrderedDelivery, Store, sequence};
use test_support::TestDatabase;
use uuid::Uuid;

use crate::{event, lease, new_tenant, waiting, webhook, webhook_at};

/// Hands events over and lets their deliveries wait for the webhook's gate.
async fn wait_for_gate(store: &Store, tenant: TenantId, webhook: &Webhook, count: usize, now: DateTime<Utc>) {
    let events: Vec<Event> = (0..count).map(|number| event(tenant, &format!("e{number}"))).collect();
    let given: Vec<&Event> = events.iter().collect();
    let lease = lease(now);
    let handed = store.hand_over(&given, now, lease, false).await.unwrap();
    let parked = |event: &Event| {
        let key = DeliveryKey { webhook_id: webhook.id, event_id: event.id.clone(), event_day: handed.day };
        waiting(key, tenant, now, handed.batch)
    };
    let parked = events.iter().map(parked).collect();
    store
        .record(&Batch { parked, settled: vec![handed.batch], ..Batch::default() }, lease.holder)
        .await
        .unwrap();
}

async fn claim(store: &Store, webhook: &Webhook, room: usize, now: DateTime<Utc>) -> Vec<String> {
    let claimed = store.claim_metered(&[(webhook.id, room)], 100, now, lease(now)).await.unwrap();
    claimed.deliveries.into_iter().map(|delivery| delivery.event.event.id.to_string()).collect()
}

async fn finish(store: &Store, webhook: &Webhook, ids: &[String], now: DateTime<Utc>) {
    let finished = ids
        .iter()
        .map(|id| DeliveryKey {
            webhook_id: webhook.id,
            event_id: id.parse().unwrap(),
            event_day: now.date_naive(),
        })
        .collect();
    store.record(&Batch { finished, ..Batch::default() }, Uuid::nil()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_however_many_ask_at_once() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let webhook =
        webhook(store, tenant, GateSettings { rate_limit: Some(50), ..GateSettings::default() }).await;
    let start = Utc::now();
    wait_for_gate(store, tenant, &webhook, 1000, start).await;
    let mut claimed = 0;
    // Five seconds in steps of 10 ms, four dispatchers at each.
    for step in 0..500_u32 {
        let now = start + TimeDelta::milliseconds(i64::from(step) * 10);
        let claims = (0..4).map(|_| {
            let (store, webhook) = (store.clone(), webhook.clone());
            tokio::spawn(async move { claim(&store, &webhook, 100, now).await.len() })
        });
        for claim in claims.collect::<Vec<_>>() {
            claimed += claim.await.unwrap();
        }
        let allowed = step as usize / 2 + 6;
        assert!(claimed <= allowed, "{claimed} after {step} steps");
    }
    assert!(claimed >= 249, "{claimed}: all of the rate is used");
    let later = start + TimeDelta::seconds(60);
    let burst = claim(store, &webhook, 100, later).await.len();
    assert_eq!(burst, 6, "what was not used is forgotten, but for 100 ms of it");
}

/// A dispatcher that knows it does not ask again too soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_says_whether_only_time_lets_more_go() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let now = Utc::now();
    let waiting_webhook = async |concurrency| {
        let tenant = new_tenant(store).await;
        let gate = GateSettings { rate_limit: Some(50), concurrency, ..GateSettings::default() };
        let webhook = webhook(store, tenant, gate).await;
        wait_for_gate(store, tenant, &webhook, 20, now).await;
        webhook
    };
    let rated = waiting_webhook(None).await;
    let capped = waiting_webhook(Some(3)).await;
    let claim = async |rooms: &[(&Webhook, usize)], milliseconds| {
        let rooms: Vec<_> = rooms.iter().map(|(webhook, room)| (webhook.id, *room)).collect();
        let now = now + TimeDelta::milliseconds(milliseconds);
        let claimed = store.claim_metered(&rooms, 100, now, lease(now)).await.unwrap();
        (claimed.deliveries.len(), claimed.is_held_by_rate)
    };
    assert_eq!(claim(&[(&rated, 5)], 0).await, (5, false), "the rate allows one more");
    assert_eq!(claim(&[(&rated, 5)], 0).await, (1, true));
    assert_eq!(claim(&[(&rated, 5)], 0).await, (0, false), "nothing was taken on");
    assert_eq!(claim(&[(&rated, 5), (&capped, 5)], 40).await, (5, false), "the second has reached its cap");
    assert_eq!(claim(&[(&rated, 5)], 80).await, (2, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrency_cap_counts_the_requests_of_all_dispatchers() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let webhook =
        webhook(store, tenant, GateSettings { concurrency: Some(3), ..GateSettings::default() }).await;
    let now = Utc::now();
    wait_for_gate(store, tenant, &webhook, 10, now).await;
    let first = claim(store, &webhook, 2, now).await;
    let second = claim(store, &webhook, 64, now).await;
    assert_eq!((first.len(), second.len()), (2, 1));
    assert_eq!(claim(store, &webhook, 64, now).await.len(), 0);
    finish(store, &webhook, &first, now).await;
    assert_eq!(claim(store, &webhook, 64, now).await.len(), 2);
    let expired = now + TimeDelta::seconds(31);
    assert_eq!(
        claim(store, &webhook, 64, expired).await.len(),
        3,
        "a dispatcher that went silent counts no more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_leaves_at_the_drain_rate_until_it_is_gone() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let webhook = webhook(store, tenant, GateSettings::default()).await;
    let start = Utc::now();
    store.pause_webhook(tenant, webhook.id, start).await.unwrap().unwrap();
    wait_for_gate(store, tenant, &webhook, 30, start).await;
    assert!(store.waiting_webhooks(None, 10).await.unwrap()[0].is_paused);
    assert_eq!(claim(store, &webhook, 64, start).await.len(), 0, "paused");
    let resumed = store.resume_webhook(tenant, webhook.id, Some(10), start).await.unwrap().unwrap();
    assert_eq!((resumed.paused_at, resumed.gate.drain_rate), (None, Some(10)));
    let mut claimed = Vec::new();
    for step in 0..29 {
        claimed.extend(claim(store, &webhook, 64, start + TimeDelta::milliseconds(step * 100)).await);
        let draining = store.health_of(webhook.tenant_id, &[webhook.id]).await.unwrap()[0].1.is_draining;
        assert_eq!(draining, claimed.len() < 30, "{}", claimed.len());
    }
    assert!((29..=30).contains(&claimed.len()), "{}", claimed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_order_only_the_first_of_each_key_goes_and_nothing_before_an_earlier_batch_is_placed() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let webhook = webhook(store, tenant, GateSettings { is_ordered: true, ..GateSettings::default() }).await;
    let now = Utc::now();
    let holder = Lease { holder: Uuid::now_v7(), until: now + TimeDelta::seconds(30) };
    let keyed = |id: &str| Event { ordering_key: Some(id[..1].parse().unwrap()), ..event(tenant, id) };
    let place = async |ids: &[&str], batch| {
        let deliveries: Vec<OrderedDelivery> = ids
            .iter()
            .zip(1..)
            .map(|(id, position)| OrderedDelivery {
                key: DeliveryKey {
                    webhook_id: webhook.id,
                    event_id: id.parse().unwrap(),
                    event_day: now.date_naive(),
                },
                tenant_id: tenant,
                accepted_at: now,
                sequence: sequence((batch, position)),
                ordering_key: id[..1].to_owned(),
            })
            .collect();
        store.place_in_order(batch, holder.holder, &deliveries).await.unwrap()
    };
    let (early, late) = (["a1", "b1", "a2"], ["a3", "b2", "c1"]);
    let early_events = early.map(keyed);
    let first = store.hand_over(&early_events.each_ref(), now, holder, true).await.unwrap().batch;
    let late_events = late.map(keyed);
    let second = store.hand_over(&late_events.each_ref(), now, holder, true).await.unwrap().batch;
    assert!(place(&late, second).await);
    assert_eq!(claim(store, &webhook, 64, now).await.len(), 0, "the first batch is not placed yet");
    assert!(place(&early, first).await);
    let claimed = claim(store, &webhook, 64, now).await;
    assert_eq!(claimed, ["a1", "b1", "c1"]);
    assert_eq!(claim(store, &webhook, 64, now).await.len(), 0);
    finish(store, &webhook, &claimed[..1], now).await;
    assert_eq!(claim(store, &webhook, 64, now).await, ["a2"]);
    finish(store, &webhook, &["a2".to_owned(), "b1".to_owned()], now).await;
    assert_eq!(claim(store, &webhook, 1, now).await, ["a3"], "the earliest of all keys first");
    assert_eq!(claim(store, &webhook, 64, now).await, ["b2"]);

    let taken = store.take_over_batch(now + TimeDelta::seconds(31), lease(now), &[]).await.unwrap().unwrap();
    let again = ["a1"];
    assert!(!place(&again, taken.id).await, "what another dispatcher has taken over is not placed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_blocked_keys_than_one_claim_looks_at_hold_nobody_up() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let webhook = webhook(store, tenant, GateSettings { is_ordered: true, ..GateSettings::default() }).await;
    let now = Utc::now();
    wait_for_gate(store, tenant, &webhook, 1, now).await;
    let client = database.client().await;
    let key = "UPDATE deliveries SET ordering_key = 'zzz', sequence = 1";
    client.execute(key, &[]).await.unwrap();
    let blocked = "INSERT INTO deliveries
        (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id, sequence, ordering_key)
        SELECT $1::timestamptz, $1::timestamptz + interval '1 hour', $2, 1, $3, $4, 'blocked' || n, n, 'key' || n FROM generate_series(1, 4500) n";
    client.execute(blocked, &[&now, &now.date_naive(), &tenant.0, &webhook.id.0]).await.unwrap();
    let mut claimed = Vec::new();
    for _ in 0..4 {
        claimed.extend(claim(store, &webhook, 64, now).await);
    }
    assert_eq!(claimed, ["e0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_fall_due_together_drain_and_what_was_never_attempted_does_not() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let now = Utc::now();
    for (attempts, drains) in [(1, true), (0, false)] {
        let webhook =
            webhook_at(store, tenant, &format!("https://example.com/{attempts}"), GateSettings::default())
                .await;
        wait_for_gate(store, tenant, &webhook, 30, now).await;
        let client = database.client().await;
        let due = "UPDATE deliveries SET due_at = $1, attempts = $2 WHERE webhook_id = $3";
        client.execute(due, &[&now, &attempts, &webhook.id.0]).await.unwrap();
        let claimed = store.claim_due(now, 100, 16, lease(now)).await.unwrap();
        assert_eq!((claimed.deliveries.len(), claimed.set_waiting), (16, true));
        let health = store.health_of(webhook.tenant_id, &[webhook.id]).await.unwrap();
        assert_eq!(health.first().is_some_and(|(_, health)| health.is_draining), drains);
        let waiting = store.waiting_webhooks(None, 10).await.unwrap();
        assert!(waiting.iter().any(|waits| waits.id == webhook.id && waits.is_metered == drains));
        client.execute("DELETE FROM deliveries", &[]).await.unwrap();
        client.execute("DELETE FROM events", &[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_set_to_wait_until_something_else_is_due_or_has_to_begin_to_drain() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let now = Utc::now();
    let client = database.client().await;
    let paced = GateSettings { rate_limit: Some(1), ..GateSettings::default() };
    let plain = GateSettings::default();
    // In this order, and held by somebody who has gone silent.
    let mut webhooks = Vec::new();
    for (gate, attempts, count) in [(paced, 0, 36), (plain, 1, 36), (paced, 1, 20), (plain, 1, 1)] {
        let tenant = new_tenant(store).await;
        let webhook = webhook(store, tenant, gate).await;
        wait_for_gate(store, tenant, &webhook, count, now).await;
        let due = "UPDATE deliveries SET due_at = $2, leased_by = gen_random_uuid(), attempts = $3 WHERE webhook_id = $1";
        let at = now - TimeDelta::seconds(10) + TimeDelta::seconds(i64::try_from(webhooks.len()).unwrap());
        client.execute(due, &[&webhook.id.0, &at, &attempts]).await.unwrap();
        webhooks.push(webhook);
    }
    let drain =
        "INSERT INTO webhook_health (webhook_id, updated_at, consecutive_failures, times_opened, is_draining)
         VALUES ($1, $2, 0, 0, true)";
    client.execute(drain, &[&webhooks[1].id.0, &now]).await.unwrap();
    let waiting = "SELECT count(*) FROM deliveries WHERE due_at IS NULL AND leased_by IS NULL";
    for (set, more) in [(32, true), (32, true), (8, false), (0, false)] {
        let before = database.count(waiting).await;
        let due = store.set_waiting(now).await.unwrap();
        assert_eq!((due.set_waiting, due.more), (set > 0, more));
        assert_eq!(database.count(waiting).await - before, set);
    }
    let claimed = store.claim_due(now, 100, 16, lease(now)).await.unwrap();
    let of: Vec<_> = claimed.deliveries.iter().map(|delivery| delivery.webhook_id).collect();
    assert_eq!((of, claimed.set_waiting), (vec![webhooks[3].id], true));
    let begun = store.health_of(webhooks[2].tenant_id, &[webhooks[2].id]).await.unwrap();
    assert!(begun[0].1.is_draining);
    assert_eq!(database.count(waiting).await, 36 + 36 + 20);
}
