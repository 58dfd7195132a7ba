use std::time::Duration;

use chrono::{TimeDelta, Utc};
use domain::{Event, TenantId};
use postrider_store::{EventCursor, EventFilter, EventPage, Store};
use test_support::TestDatabase;

use crate::{event, lease, new_tenant};

const PATIENCE: Duration = Duration::from_secs(10);

/// The next page, up to what is settled now.
async fn page(
    store: &Store,
    tenant: TenantId,
    after: Option<EventCursor>,
    filter: &EventFilter,
    limit: i64,
) -> EventPage {
    let settled = store.settled_batch(PATIENCE).await.unwrap().unwrap();
    store.events_after(tenant, after, settled, filter, limit).await.unwrap()
}

fn ids(page: &EventPage) -> Vec<&str> {
    page.events.iter().map(|stored| stored.event.id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_committed_late_is_not_passed_by() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let (tenant, now) = (new_tenant(store).await, Utc::now());
    let slow = database.client().await;
    slow.batch_execute(&format!(
        "BEGIN;
         WITH batch AS (
             INSERT INTO open_batches (day, leased_by, leased_until) VALUES (now(), gen_random_uuid(), now()) RETURNING id
         )
         INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
         SELECT id, now(), now(), '{}', '{tenant}', 'slow', 'message.sent', '' FROM batch",
        now.date_naive()
    ))
    .await
    .unwrap();
    store.hand_over(&[&event(tenant, "quick")], now, lease(now), false).await.unwrap();
    assert_eq!(store.settled_batch(Duration::from_millis(100)).await.unwrap(), None, "one is under way");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.settled_batch(PATIENCE).await.unwrap() }
    });
    slow.batch_execute("COMMIT").await.unwrap();
    let settled = waiting.await.unwrap().unwrap();
    let found = store.events_after(tenant, None, settled, &EventFilter::default(), 10).await.unwrap();
    assert_eq!(ids(&found), ["slow", "quick"], "in the order of their batches");
    assert!(!found.has_more);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_each_event_once_in_accepted_order_over_days() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let (tenant, other) = (new_tenant(store).await, new_tenant(store).await);
    let now = Utc::now();
    let mut expected = Vec::new();
    for (round, at) in [now - TimeDelta::days(1), now, now].into_iter().enumerate() {
        let events: Vec<Event> = (0..7).map(|n| event(tenant, &format!("{round}-{}", 9 - n))).collect();
        expected.extend(events.iter().map(|event| event.id.to_string()));
        let all: Vec<&Event> = events.iter().collect();
        store.hand_over(&all, at, lease(now), false).await.unwrap();
        store.hand_over(&[&event(other, &format!("other-{round}"))], at, lease(now), false).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = page(store, tenant, after, &EventFilter::default(), 4).await;
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        after = page.next;
        if !page.has_more {
            break;
        }
        assert_eq!(page.events.len(), 4);
    }
    assert_eq!(seen, expected);
    let end = page(store, tenant, after, &EventFilter::default(), 4).await;
    assert_eq!((end.events.len(), end.next, end.has_more), (0, after, false), "the cursor is kept");
    store.hand_over(&[&event(tenant, "new")], now, lease(now), false).await.unwrap();
    assert_eq!(ids(&page(store, tenant, after, &EventFilter::default(), 4).await), ["new"]);
    assert_eq!(page(store, other, None, &EventFilter::default(), 100).await.events.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_pass_over_what_is_not_wanted_and_go_on_behind_it() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let (tenant, now) = (new_tenant(store).await, Utc::now());
    let mut events: Vec<Event> = (0..20).map(|n| event(tenant, &format!("e{n:02}"))).collect();
    events[3].session_id = Some("s1".parse().unwrap());
    events[15].session_id = Some("s1".parse().unwrap());
    events[15].event_type = "message.received".parse().unwrap();
    let all: Vec<&Event> = events.iter().collect();
    store.hand_over(&all, now, lease(now), false).await.unwrap();
    store
        .hand_over(&[&event(tenant, "later")], now + TimeDelta::seconds(5), lease(now), false)
        .await
        .unwrap();
    let of_session = EventFilter { session_id: Some("s1".parse().unwrap()), ..EventFilter::default() };
    let first = page(store, tenant, None, &of_session, 1).await;
    assert_eq!((ids(&first), first.has_more), (vec!["e03"], true));
    let second = page(store, tenant, first.next, &of_session, 1).await;
    assert_eq!((ids(&second), second.has_more), (vec!["e15"], false));
    let end = page(store, tenant, second.next, &EventFilter::default(), 10).await;
    assert!(end.events.is_empty(), "what was looked at and not wanted lies behind: {end:?}");
    let received =
        EventFilter { event_type: Some("message.received".parse().unwrap()), ..EventFilter::default() };
    assert_eq!(ids(&page(store, tenant, None, &received, 10).await), ["e15"]);
    let moment = Some(now + TimeDelta::seconds(1));
    let late = EventFilter { from: moment, ..EventFilter::default() };
    assert_eq!(ids(&page(store, tenant, None, &late, 10).await), ["later"]);
    let early = EventFilter { to: moment, ..EventFilter::default() };
    assert_eq!(page(store, tenant, None, &early, 100).await.events.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_events_is_shorter() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let (tenant, now) = (new_tenant(store).await, Utc::now());
    let large: Vec<Event> = (0..6)
        .map(|n| Event { body: vec![b'x'; 1_500_000].into(), ..event(tenant, &format!("e{n}")) })
        .collect();
    let all: Vec<&Event> = large.iter().collect();
    store.hand_over(&all, now, lease(now), false).await.unwrap();
    let first = page(store, tenant, None, &EventFilter::default(), 100).await;
    assert_eq!((ids(&first), first.has_more), (vec!["e0", "e1", "e2"], true));
    let second = page(store, tenant, first.next, &EventFilter::default(), 100).await;
    assert_eq!((ids(&second), second.has_more), (vec!["e3", "e4", "e5"], false));
}
