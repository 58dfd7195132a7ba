//! Databases that are away, refuse, hang and are slow. Acceptance goes on, no attempt is charged, and all is caught up.

use std::sync::Arc;
use std::time::Duration;

use test_support::Direction;
use tokio::time::{Instant, sleep};

use super::{CALM, FAULT, Outcome, RATE, conclude, recover};
use crate::load::Load;
use crate::oracle::Allowed;
use crate::world::{Lab, Setup, World};

/// How long the database is down.
const DOWN: Duration = Duration::from_secs(30);
/// How long it is down in `--long`, as the list of faults has it.
const LONG_DOWN: Duration = Duration::from_secs(600);
/// How long it is down in `--quick`.
const QUICK_DOWN: Duration = Duration::from_secs(4);
/// How long tables are locked: longer than a process waits for a connection of its pool.
const LOCKED: Duration = Duration::from_secs(12);
/// How often sessions are made to meet a deadlock.
const DEADLOCKS: usize = 8;

pub(crate) async fn half_open(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "9b", Setup::default()).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    for proxy in [&world.gateway_database, &world.dispatcher_database] {
        proxy.black_hole_existing();
    }
    world.fault_ends(); // new connections work from here on: what must be noticed is that the old ones do not
    recover(&world, load).await?;
    // A delivery whose record met the dead connection comes back when its lease runs out.
    conclude(world, Allowed::NOTHING, |_, _| ()).await
}

pub(crate) async fn down(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let time = if lab.long {
        LONG_DOWN
    } else if lab.quick {
        QUICK_DOWN
    } else {
        DOWN
    };
    let mut world = World::create(&lab, "10a", Setup::default()).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    let began = Instant::now();
    let before = world.ledger.accepted_count();
    lab.kill_server("postgres").await?;
    sleep(time).await;
    let meanwhile = world.ledger.accepted_count() - before;
    let due = began.elapsed().as_secs_f64() * f64::from(RATE);
    lab.restart_server("postgres").await?;
    world.fault_ends();
    recover(&world, load).await?;
    judge_acceptance(world, Some((meanwhile, due))).await
}

pub(crate) async fn read_only(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "10b", Setup::default()).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    set_for_sessions(&world, "SET default_transaction_read_only = on").await?;
    sleep(FAULT).await;
    set_for_sessions(&world, "RESET default_transaction_read_only").await?;
    world.fault_ends();
    recover(&world, load).await?;
    judge_acceptance(world, None).await
}

pub(crate) async fn pool_exhausted(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    // Leases that hold, as they do by default: it is the pool that is looked at.
    let settings = vec![("POSTRIDER_LEASE_MS", "30000".to_owned())];
    let mut world = World::create(&lab, "10c", Setup { settings, ..Setup::default() }).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    let mut locker = world.client().await?;
    let transaction = locker.transaction().await?;
    let lock = "LOCK TABLE events, deliveries, delivery_attempts, open_batches, webhooks, tenants IN ACCESS EXCLUSIVE MODE";
    transaction.batch_execute(lock).await?;
    sleep(LOCKED).await;
    transaction.rollback().await?;
    world.fault_ends();
    recover(&world, load).await?;
    judge_acceptance(world, None).await
}

pub(crate) async fn slow(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let settings = vec![("POSTRIDER_LEASE_MS", "30000".to_owned())];
    let mut world = World::create(&lab, "10d", Setup { settings, ..Setup::default() }).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    for proxy in [&world.gateway_database, &world.dispatcher_database] {
        proxy.delay(Direction::ToClient, Duration::from_secs(5));
    }
    sleep(FAULT * 2).await;
    for proxy in [&world.gateway_database, &world.dispatcher_database] {
        proxy.pass();
    }
    world.fault_ends();
    recover(&world, load).await?;
    judge_acceptance(world, None).await
}

pub(crate) async fn deadlocks(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    // Leases that hold, as they do by default: locked out for longer than its lease, a dispatcher may repeat.
    let settings = vec![("POSTRIDER_LEASE_MS", "30000".to_owned())];
    let mut world =
        World::create(&lab, "10e", Setup { dispatchers: 2, settings, ..Setup::default() }).await?;
    set_for_sessions(&world, "SET default_transaction_isolation = 'serializable'").await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    sleep(CALM).await;
    let client = world.client().await?;
    for _ in 0..DEADLOCKS {
        // In the order opposite to that of the product's statements. Whoever has waited longer is the victim.
        let _ = client
            .batch_execute(
                "BEGIN; LOCK TABLE deliveries IN EXCLUSIVE MODE; SELECT pg_sleep(0.3);
                 LOCK TABLE delivery_attempts IN EXCLUSIVE MODE; SELECT pg_sleep(0.1); ROLLBACK",
            )
            .await;
        client.batch_execute("ROLLBACK").await?;
        sleep(Duration::from_millis(200)).await;
    }
    set_for_sessions(&world, "RESET default_transaction_isolation").await?;
    world.fault_ends();
    recover(&world, load).await?;
    let met = format!("SELECT deadlocks FROM pg_stat_database WHERE datname = '{}'", world.database_name());
    let met = world.count(&met).await?;
    let failed = world.failed_attempts().await?;
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.note(format!("{met} deadlocks"));
        findings.expect(met > 0, "there was no deadlock: the case proves nothing");
        findings.expect(failed == 0, format!("{failed} failed attempts were charged"));
    })
    .await
}

/// Changes a setting for new sessions of the world's database, and ends the old ones, as a failover does.
async fn set_for_sessions(world: &World, setting: &str) -> anyhow::Result<()> {
    let name = world.database_name();
    world.admin(&format!("ALTER DATABASE {name} {setting}")).await?;
    world
        .admin(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        .await
}

/// Judges, and expects that the database's absence stopped no publisher and cost no attempt. With `accepted`: so many
/// events were accepted while it was away, of so many that were due.
async fn judge_acceptance(world: World, accepted: Option<(usize, f64)>) -> anyhow::Result<Outcome> {
    let answers = world.ledger.answers();
    let failed = world.failed_attempts().await?;
    let memory = world.dispatchers[0].peak_memory_mib();
    conclude(world, Allowed::NOTHING, |_, findings| {
        let not_accepted = answers.unavailable + answers.wrong + answers.broken;
        findings.note(format!("at most {memory} MiB in the dispatcher"));
        findings.expect(not_accepted == 0, format!("{not_accepted} publishes were not accepted"));
        findings.expect(failed == 0, format!("{failed} failed attempts were charged"));
        if let Some((meanwhile, due)) = accepted {
            findings.note(format!("{meanwhile} events accepted while it was down"));
            let enough = f64::from(u32::try_from(meanwhile).unwrap_or(u32::MAX)) >= due * 0.8;
            findings.expect(enough, format!("only {meanwhile} of {due:.0} events were accepted meanwhile"));
        }
    })
    .await
}

pub(crate) async fn partition_missing(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let mut world = World::create(&lab, "20a", Setup::default()).await?;
    let today = chrono::Utc::now().format("%Y%m%d");
    world.sql(&format!("DROP TABLE events_{today}; DROP TABLE delivery_attempts_{today}")).await?;
    world.publisher.publish_all("default", 50).await?;
    world.wait_for_deliveries(50, Duration::from_secs(20)).await?;
    let caught = world.count("SELECT count(*) FROM events_default").await?;
    // Partitions are looked at every hour, and at every start.
    world.dispatcher().terminate(crate::world::DRAIN_TIMEOUT * 2).await?;
    world.dispatcher().start_again()?;
    world.fault_ends();
    world.publisher.publish_all("later", 50).await?;
    let left = async || (world.count("SELECT count(*) FROM events_default").await.ok()? == 0).then_some(());
    let moved = crate::world::eventually("an empty default partition", Duration::from_secs(20), left).await;
    conclude(world, Allowed::NOTHING, |world, findings| {
        findings.expect(caught == 50, format!("the default partition caught {caught} of 50 events"));
        findings.expect(
            moved.is_ok(),
            "the partition was not made, or its rows are still in the default partition",
        );
        let warned = world.dispatchers[0]
            .logged()
            .lines()
            .any(|line| line.contains("WARN") && line.contains("partition"));
        findings.expect(warned, "no warning says that a partition was missing: nobody is alerted");
    })
    .await
}
