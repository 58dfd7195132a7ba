//! Kills real dispatcher processes and counts.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use store::Pace;
use test_support::{ENCRYPTION_KEYS, Receiver, eventually};

use crate::helpers::World;

/// A dispatcher process that is killed when the test ends.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(world: &World) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
            .env("POSTRIDER_DATABASE_URL", world.database.url_of("dispatcher"))
            .env("POSTRIDER_ENCRYPTION_KEYS", ENCRYPTION_KEYS)
            .env("POSTRIDER_AMQP_URL", world.broker.url_of("dispatcher"))
            .env("POSTRIDER_AMQP_PREFIX", world.broker.prefix())
            .env("POSTRIDER_HEALTH_ADDRESS", "127.0.0.1:0")
            .env("POSTRIDER_RECEIVER_ALLOW_HTTP", "true")
            .env("POSTRIDER_RECEIVER_ALLOWED_NETWORKS", "127.0.0.0/8")
            .env("POSTRIDER_LEASE_MS", "2000")
            .env("POSTRIDER_DELIVERY_TIMEOUT_MS", "2000")
            .env("POSTRIDER_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_killed_again_and_again_under_load_loses_nothing() {
    const EVENTS: usize = 1500;
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    let mut process = Process::start(&world);
    world.broker.wait_until_declared().await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut published = 0;
    for _ in 0..5 {
        for _ in 0..EVENTS / 5 {
            world.publish(&format!("e{published}")).await;
            published += 1;
        }
        // Killed in the middle of delivering what was just published.
        *seen.entry(receiver.next().await.id().to_owned()).or_default() += 1;
        process.kill();
        process = Process::start(&world);
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while seen.len() < EVENTS {
        assert!(std::time::Instant::now() < deadline, "{} of {EVENTS} arrived", seen.len());
        *seen.entry(receiver.next().await.id().to_owned()).or_default() += 1;
    }
    world.wait_until_settled().await;
    while let Some(late) = receiver.try_next() {
        *seen.entry(late.id().to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), EVENTS, "every accepted event arrived");
    let delivered = "SELECT count(DISTINCT event_id) FROM delivery_attempts WHERE error IS NULL";
    let recorded = eventually("the history", async || {
        let recorded = world.database.count(delivered).await;
        (recorded >= EVENTS as i64).then_some(recorded)
    })
    .await;
    assert_eq!(recorded, EVENTS as i64, "and the history shows each");
    assert_eq!(world.broker.ready_messages().await, 0);
    let now = chrono::Utc::now();
    let report =
        world.database.store.audit(now - chrono::TimeDelta::hours(1), now, Pace::Full).await.unwrap();
    assert_eq!((report.events, report.lost), (EVENTS as u64, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_killed_during_requests_leaves_them_to_another() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.hang();
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let mut process = Process::start(&world);
    world.broker.wait_until_declared().await;
    for number in 0..20 {
        world.publish(&format!("e{number}")).await;
    }
    for _ in 0..20 {
        receiver.next().await;
    }
    process.kill();
    receiver.release();
    let _second = Process::start(&world);
    let mut ids = std::collections::BTreeSet::new();
    while ids.len() < 20 {
        ids.insert(receiver.next().await.id().to_owned());
    }
    let history = world.wait_for_history(webhook, 20).await;
    assert!(history.iter().all(|attempt| attempt.error.is_none()));
    world.wait_until_settled().await;
}
