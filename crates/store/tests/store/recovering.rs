//! Recoveries: nothing is left out and nothing is made twice, whoever makes the steps and whoever is stopped between them.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Event, GateSettings, Subscription, TenantId, TenantStatus, Webhook, WebhookId};
use postrider_store::{
    AttemptRecord, Batch, DeliveryKey, Lease, Recovery, RecoveryError, RecoveryEstimate, RecoveryKind,
    RecoveryPlan, RecoveryState, Store, Trigger, WebhookChange,
};
use test_support::TestDatabase;
use uuid::Uuid;

use crate::{delivered, event, lease, new_tenant, webhook_at};

struct World {
    database: TestDatabase,
    tenant: TenantId,
    webhook: Webhook,
    /// When everything happened.
    at: DateTime<Utc>,
}

impl World {
    async fn create() -> Self {
        Self::with(GateSettings::default()).await
    }

    async fn with(gate: GateSettings) -> Self {
        let database = TestDatabase::create().await;
        let tenant = new_tenant(&database.store).await;
        let webhook = webhook_at(&database.store, tenant, "https://example.com/", gate).await;
        let at = Utc::now() - TimeDelta::minutes(1);
        Self { database, tenant, webhook, at }
    }

    fn store(&self) -> &Store {
        &self.database.store
    }

    /// Hands events over, and closes their batch as if their deliveries were settled.
    async fn hand_over(&self, events: &[Event], at: DateTime<Utc>) -> Vec<DeliveryKey> {
        let given: Vec<&Event> = events.iter().collect();
        let lease = lease(at);
        let handed = self.store().hand_over(&given, at, lease, false).await.unwrap();
        let batch = Batch { settled: vec![handed.batch], ..Batch::default() };
        self.store().record(&batch, lease.holder).await.unwrap();
        let key = |event: &Event| DeliveryKey {
            webhook_id: self.webhook.id,
            event_id: event.id.clone(),
            event_day: handed.day,
        };
        events.iter().map(key).collect()
    }

    async fn hand_over_some(&self, prefix: &str, count: usize) -> Vec<DeliveryKey> {
        let events: Vec<Event> =
            (0..count).map(|number| event(self.tenant, &format!("{prefix}{number:04}"))).collect();
        self.hand_over(&events, self.at).await
    }

    fn attempt(&self, key: &DeliveryKey, seconds: i64, error: Option<&'static str>) -> AttemptRecord {
        AttemptRecord {
            status_code: error.is_none().then_some(200),
            error,
            ..delivered(key.clone(), self.tenant, self.at + TimeDelta::seconds(seconds))
        }
    }

    async fn record(&self, attempts: Vec<AttemptRecord>) {
        let batch = Batch { attempts, ..Batch::default() };
        self.store().record(&batch, Uuid::nil()).await.unwrap();
    }

    fn plan(&self, kind: RecoveryKind, rate: u32) -> RecoveryPlan {
        RecoveryPlan {
            webhook_id: self.webhook.id,
            tenant_id: self.tenant,
            kind,
            from: self.at - TimeDelta::minutes(1),
            to: self.at + TimeDelta::minutes(1),
            event_type: None,
            rate,
        }
    }

    async fn begin(&self, kind: RecoveryKind, rate: u32) -> Recovery {
        let plan = self.plan(kind, rate);
        let estimate = self.store().estimate_recovery(&plan, &self.webhook).await.unwrap();
        self.store().begin_recovery(&plan, estimate, self.at).await.unwrap()
    }

    async fn look(&self, recovery: &Recovery) -> Recovery {
        self.store().recovery(self.tenant, self.webhook.id, recovery.id).await.unwrap().unwrap()
    }

    /// Makes steps, a second after another, until there is none to be made. Says how many.
    async fn run(&self, mut now: DateTime<Utc>) -> usize {
        for step in 0..100 {
            let lease = lease(now);
            let Some(recovery) = self.store().claim_recovery(now, lease).await.unwrap() else { return step };
            self.store().advance_recovery(&recovery, lease.holder, now).await.unwrap();
            now += TimeDelta::seconds(1);
        }
        panic!("a recovery comes to no end");
    }

    /// The events that have an unfinished delivery.
    async fn scheduled(&self) -> Vec<String> {
        let asked = "SELECT event_id FROM deliveries WHERE webhook_id = $1 AND is_resend AND due_at IS NULL ORDER BY 1";
        let rows = self.database.client().await.query(asked, &[&self.webhook.id.0]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

fn exactly(deliveries: u64) -> RecoveryEstimate {
    RecoveryEstimate { deliveries, is_exact: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_failed_is_recovered_unless_it_has_succeeded_since_or_is_not_finished() {
    let world = World::create().await;
    let keys = world.hand_over_some("e", 10).await;
    let resent = |attempt| AttemptRecord { trigger: Some(Trigger::Resend), ..attempt };
    let retrying = |attempt| AttemptRecord { next_attempt_at: Some(world.at), ..attempt };
    let test = AttemptRecord { trigger: Some(Trigger::Test), ..world.attempt(&keys[9], 9, Some("dns")) };
    world
        .record(vec![
            world.attempt(&keys[0], 0, Some("status")),
            retrying(world.attempt(&keys[1], 0, Some("status"))),
            AttemptRecord { attempt: 2, ..world.attempt(&keys[1], 1, Some("status")) },
            world.attempt(&keys[2], 0, None),
            world.attempt(&keys[3], 0, Some("timeout")),
            resent(world.attempt(&keys[3], 1, None)),
            world.attempt(&keys[4], 0, Some("timeout")),
            resent(world.attempt(&keys[4], 1, Some("timeout"))),
            world.attempt(&keys[5], 0, Some("cancelled")),
            world.attempt(&keys[6], 0, Some("status")),
            retrying(world.attempt(&keys[7], 0, Some("status"))),
            world.attempt(&keys[8], 0, None),
            resent(world.attempt(&keys[8], 1, Some("gone"))),
            test,
        ])
        .await;
    let unfinished =
        "INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT now(), NULL, $1, 0, $2, $3, 'e0006'";
    let client = world.database.client().await;
    client.execute(unfinished, &[&keys[6].event_day, &world.tenant.0, &world.webhook.id.0]).await.unwrap();

    let recovery = world.begin(RecoveryKind::Failed, 1_000).await;
    assert_eq!(recovery.estimate, exactly(4));
    world.run(world.at).await;
    assert_eq!(world.scheduled().await, ["e0000", "e0001", "e0004", "e0008"]);
    let done = world.look(&recovery).await;
    assert_eq!((&done.state, done.scheduled), (&RecoveryState::Done, 4));
    assert_eq!(done.skipped, 3, "e3 succeeded later, e4 failed later, e6 is not finished");
    assert!(done.ended_at.is_some());

    let again = world.begin(RecoveryKind::Failed, 1_000).await;
    assert_eq!(again.estimate, exactly(0), "none is finished");
    world.run(world.at).await;
    assert_eq!((world.scheduled().await.len(), world.look(&again).await.scheduled), (4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_made_is_recovered_as_far_as_the_webhook_wants_it() {
    let world = World::create().await;
    let keys = world.hand_over_some("e", 8).await;
    let other = Event { event_type: "session.connected".parse().unwrap(), ..event(world.tenant, "unwanted") };
    let stranger = event(new_tenant(world.store()).await, "stranger");
    let received = Event {
        event_type: "message.received".parse().unwrap(),
        body: Bytes::from_static(br#"{"data":{"amount":2}}"#),
        ..event(world.tenant, "received")
    };
    world.hand_over(&[other, stranger, received], world.at).await;
    world.hand_over(&[event(world.tenant, "too-old")], world.at - TimeDelta::minutes(2)).await;
    world
        .record(vec![
            world.attempt(&keys[0], 0, None),
            world.attempt(&keys[1], 0, Some("status")),
            world.attempt(&keys[2], 0, Some("cancelled")), // it was switched off
            AttemptRecord { trigger: Some(Trigger::Cancel), ..world.attempt(&keys[3], 0, Some("cancelled")) },
            AttemptRecord { trigger: Some(Trigger::First), ..world.attempt(&keys[4], 3_600, None) },
            AttemptRecord { attempt: 3, ..world.attempt(&keys[5], 7_200, None) },
        ])
        .await;
    let open = event(world.tenant, "open");
    world.store().hand_over(&[&open], world.at, lease(world.at), false).await.unwrap();

    let recovery = world.begin(RecoveryKind::Missing, 1_000).await;
    assert_eq!(recovery.estimate, exactly(4));
    world.run(world.at).await;
    assert_eq!(world.scheduled().await, ["e0002", "e0006", "e0007", "received"]);
    let plan = RecoveryPlan {
        event_type: Some("message.received".parse().unwrap()),
        ..world.plan(RecoveryKind::Missing, 1)
    };
    world.database.client().await.execute("DELETE FROM deliveries", &[]).await.unwrap();
    assert_eq!(world.store().estimate_recovery(&plan, &world.webhook).await.unwrap(), exactly(1));
    for (filter, expected) in [(r#"{"amount": 1}"#, 0), (r#"{"amount": 2}"#, 1)] {
        let choosy = Webhook { filter: Some(filter.parse().unwrap()), ..world.webhook.clone() };
        assert_eq!(world.store().estimate_recovery(&plan, &choosy).await.unwrap(), exactly(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_goes_on_where_a_dispatcher_went_silent_and_what_it_does_late_counts_for_nothing() {
    for kind in [RecoveryKind::Failed, RecoveryKind::Missing] {
        let world = World::create().await;
        let keys = world.hand_over_some("e", 25).await;
        if kind == RecoveryKind::Failed {
            world.record(keys.iter().map(|key| world.attempt(key, 0, Some("status"))).collect()).await;
        }
        let recovery = world.begin(kind, 10).await;
        let (store, mut now) = (world.store(), world.at);
        let first = lease(now);
        let claimed = store.claim_recovery(now, first).await.unwrap().unwrap();
        assert!(store.claim_recovery(now, lease(now)).await.unwrap().is_none(), "one at a time is at it");
        store.advance_recovery(&claimed, first.holder, now).await.unwrap();
        assert_eq!(world.look(&recovery).await.scheduled, 10);
        assert!(store.claim_recovery(now, lease(now)).await.unwrap().is_none(), "its rate is 10 a second");

        now += TimeDelta::seconds(1);
        let silent = Lease { until: now + TimeDelta::seconds(30), ..first };
        let abandoned = store.claim_recovery(now, silent).await.unwrap().unwrap();
        now += TimeDelta::seconds(29);
        assert!(store.claim_recovery(now, lease(now)).await.unwrap().is_none(), "still leased");
        now += TimeDelta::seconds(2);
        let second = lease(now);
        let taken = store.claim_recovery(now, second).await.unwrap().unwrap();
        store.advance_recovery(&abandoned, silent.holder, now).await.unwrap();
        assert_eq!(world.look(&recovery).await.scheduled, 10, "it is not its any more");
        store.advance_recovery(&taken, second.holder, now).await.unwrap();
        store.advance_recovery(&taken, second.holder, now).await.unwrap();
        assert_eq!(world.look(&recovery).await.scheduled, 20, "the same step counts once");
        world.run(now + TimeDelta::seconds(1)).await;
        let done = world.look(&recovery).await;
        assert_eq!((&done.state, done.scheduled, done.skipped), (&RecoveryState::Done, 25, 0));
        assert_eq!(world.scheduled().await.len(), 25);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_and_many_hand_overs_are_gone_through_step_by_step() {
    let world = World::create().await;
    let plant = "INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT n / 7, $2, $2, $3, CASE WHEN n % 100 = 0 THEN $1::uuid ELSE $4::uuid END, 'many-' || n, 'message.sent', '{}'
        FROM generate_series(1, 20000) n";
    let client = world.database.client().await;
    let stranger = new_tenant(world.store()).await;
    let day = world.at.date_naive();
    client.execute(plant, &[&world.tenant.0, &world.at, &day, &stranger.0]).await.unwrap();
    let recovery = world.begin(RecoveryKind::Missing, 50).await;
    assert_eq!(recovery.estimate, exactly(200));
    assert!(world.run(world.at).await > 4, "no step reads everything");
    let done = world.look(&recovery).await;
    assert_eq!((&done.state, done.scheduled, done.skipped), (&RecoveryState::Done, 200, 0));

    let plant = "INSERT INTO delivery_attempts
            (started_at, duration_ms, attempt, event_day, status_code, tenant_id, webhook_id, event_id, event_type, error)
        SELECT $2::timestamptz + make_interval(secs => n / 1000.0), 1, 1, $3, 200, $1, $4, 'many-' || n, 'message.sent',
            CASE WHEN n % 100 = 0 THEN 'status' END
        FROM generate_series(1, 20000) n";
    client.execute("DELETE FROM deliveries", &[]).await.unwrap();
    client.execute(plant, &[&world.tenant.0, &world.at, &day, &world.webhook.id.0]).await.unwrap();
    let recovery = world.begin(RecoveryKind::Failed, 1_000).await;
    assert_eq!(recovery.estimate, exactly(200));
    assert!(world.run(world.at).await >= 4, "no step reads everything");
    assert_eq!(world.look(&recovery).await.scheduled, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_waits_while_much_of_its_webhook_is_unfinished() {
    let world = World::create().await;
    world.hand_over_some("e", 3).await;
    let recovery = world.begin(RecoveryKind::Missing, 1_000).await;
    let backlog = "INSERT INTO deliveries (accepted_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT now(), CURRENT_DATE, 0, $1, $2, 'waiting-' || n FROM generate_series(1, 5000) n";
    let client = world.database.client().await;
    client.execute(backlog, &[&world.tenant.0, &world.webhook.id.0]).await.unwrap();
    let lease = lease(world.at);
    let claimed = world.store().claim_recovery(world.at, lease).await.unwrap().unwrap();
    world.store().advance_recovery(&claimed, lease.holder, world.at).await.unwrap();
    let waiting = world.look(&recovery).await;
    assert_eq!((&waiting.state, waiting.scheduled), (&RecoveryState::Running, 0));
    client.execute("DELETE FROM deliveries", &[]).await.unwrap();
    assert_eq!(world.run(world.at).await, 0, "it is looked at again in a second");
    world.run(world.at + TimeDelta::seconds(1)).await;
    assert_eq!(world.look(&recovery).await.scheduled, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_ends_with_a_reason_where_it_cannot_go_on() {
    let world = World::create().await;
    let ends = async |reason: &str| {
        let recovery = world.begin(RecoveryKind::Missing, 10).await;
        (recovery, RecoveryState::Failed(reason.to_owned()))
    };
    world.hand_over_some("e", 1).await;
    let (recovery, expected) = ends("subscription_inactive").await;
    let tenant = world.store().tenants(&[world.tenant], world.at.date_naive()).await.unwrap().remove(0);
    let put = async |status| {
        let Subscription { plan, trial_ends_at, .. } = tenant.subscription.clone();
        world.store().put_tenant(world.tenant, &plan, status, trial_ends_at).await.unwrap();
    };
    put(TenantStatus::Suspended).await;
    world.run(world.at).await;
    assert_eq!(world.look(&recovery).await.state, expected);
    put(TenantStatus::Active).await;

    let (recovery, expected) = ends("webhook_disabled").await;
    let change = |is_active| WebhookChange { is_active: Some(is_active), ..WebhookChange::default() };
    let store = world.store();
    store.change_webhook(world.tenant, world.webhook.id, &change(false), world.at).await.unwrap();
    world.run(world.at).await;
    assert_eq!(world.look(&recovery).await.state, expected);
    store.change_webhook(world.tenant, world.webhook.id, &change(true), world.at).await.unwrap();

    let (recovery, expected) = ends("webhook_deleted").await;
    store.delete_webhook(world.tenant, world.webhook.id, &domain::Expected::Any, world.at).await.unwrap();
    world.run(world.at).await;
    assert_eq!(world.look(&recovery).await.state, expected);
    assert!(world.scheduled().await.is_empty());
    let later = world.at + TimeDelta::days(1);
    assert_eq!(store.forget_recoveries(later).await.unwrap(), 3, "with the events they were about");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_recovery_of_a_webhook_and_five_of_a_tenant_run_at_a_time_and_are_listed_newest_first() {
    let world = World::create().await;
    let store = world.store();
    let begin = async |webhook: WebhookId| {
        let plan = RecoveryPlan { webhook_id: webhook, ..world.plan(RecoveryKind::Failed, 10) };
        store.begin_recovery(&plan, RecoveryEstimate::default(), world.at).await
    };
    let first = begin(world.webhook.id).await.unwrap();
    assert!(matches!(begin(world.webhook.id).await, Err(RecoveryError::OneIsRunning)));
    for _ in 0..4 {
        begin(WebhookId::generate()).await.unwrap();
    }
    assert!(matches!(begin(WebhookId::generate()).await, Err(RecoveryError::TooMany)));
    let cancel =
        async || store.cancel_recovery(world.tenant, world.webhook.id, first.id, world.at).await.unwrap();
    assert!(cancel().await);
    assert!(!cancel().await, "once");
    assert_eq!(world.look(&first).await.state, RecoveryState::Cancelled);
    let second = begin(world.webhook.id).await.unwrap();
    let listed = store.recoveries(world.tenant, world.webhook.id, None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|recovery| recovery.id).collect::<Vec<_>>(), [second.id, first.id]);
    let rest = store.recoveries(world.tenant, world.webhook.id, Some(second.id), 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    let stranger = TenantId(Uuid::now_v7());
    assert!(store.recovery(stranger, world.webhook.id, first.id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn recovered_deliveries_to_a_webhook_with_order_have_their_place_in_it() {
    let world = World::with(GateSettings { is_ordered: true, ..GateSettings::default() }).await;
    let events =
        ["b", "a"].map(|id| Event { session_id: Some("s".parse().unwrap()), ..event(world.tenant, id) });
    world.hand_over(&events, world.at).await;
    world.begin(RecoveryKind::Missing, 10).await;
    world.run(world.at).await;
    let asked = "SELECT event_id FROM deliveries WHERE ordering_key = 's' ORDER BY sequence";
    let rows = world.database.client().await.query(asked, &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["b", "a"]);
}
