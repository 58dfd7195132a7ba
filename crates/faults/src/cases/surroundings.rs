//! What else a dispatcher depends on: the clock, other versions of itself, encryption keys, name servers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::TenantId;
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use super::{CALM, FAULT, Outcome, RATE, both, conclude, recover};
use crate::load::{Ledger, Load};
use crate::name_server::NameServer;
use crate::oracle::Allowed;
use crate::receiver::Mode;
use crate::world::{DRAIN_TIMEOUT, Lab, Setup, World};

/// How long a step of a case may take that is not judged by its time.
const STEP: Duration = Duration::from_secs(30);

pub(crate) async fn clock_jumps(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const FAILING: usize = 10;
    let Some(library) = faketime_library() else {
        return Ok(Outcome::NotRun("libfaketime is not installed".to_owned()));
    };
    let settings = vec![("POSTRIDER_RETRY_SCHEDULE", "10m".to_owned())];
    let mut world = World::create(&lab, "12", Setup { settings, ..Setup::default() }).await?;
    let clock = lab.logs.join("12").join("clock");
    std::fs::write(&clock, "+0\n")?;
    let preload = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    let program = world.lab.binaries.join("dispatcher");
    world.add_dispatcher_under(vec![program], &preload)?;
    world.wait_until_ready().await?;
    // Another tenant's deliveries, which failed once and are to be tried again in ten minutes of true time.
    let other = TenantId(Uuid::now_v7());
    world.receiver.set("/failing", Mode::Answer(500));
    world.add_webhook_of(other, &world.receiver.url("/failing"), json!({})).await?;
    world.publisher_of(other, Ledger::default())?.publish_all("fails", FAILING).await?;
    world.wait_for_count("SELECT count(*) FROM deliveries", i64::try_from(FAILING)?, STEP).await?;
    let load = Load::rest(&world.publisher, "r", RATE);
    for offset in ["+3600", "+0", "-3600", "+0"] {
        sleep(CALM).await;
        std::fs::write(&clock, format!("{offset}\n"))?;
        sleep(FAULT / 2).await;
    }
    world.fault_ends();
    recover(&world, load).await?;
    // The ten that were never meant to be tried again within this case.
    let allowed = Allowed { scheduled: i64::try_from(FAILING)?, ..Allowed::NOTHING };
    conclude(world, allowed, |world, findings| {
        let early = world.receiver.requests_to("/failing") - FAILING;
        findings.expect(early == 0, format!("{early} retries were made that were due in ten minutes"));
    })
    .await
}

fn faketime_library() -> Option<PathBuf> {
    let triples = std::fs::read_dir("/usr/lib").ok()?;
    let library = |triple: PathBuf| triple.join("faketime/libfaketimeMT.so.1");
    triples.filter_map(Result::ok).map(|triple| library(triple.path())).find(|library| library.exists())
}

pub(crate) async fn rolling_update(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let previous = match &lab.previous {
        Ok(previous) => previous.clone(),
        Err(reason) => return Ok(Outcome::NotRun(reason.clone())),
    };
    let setup = Setup { dispatchers: 2, binaries: Some(previous), ..Setup::default() };
    let mut world = World::create(&lab, "17", setup).await?;
    let load = both(&world);
    sleep(CALM).await;
    world.use_binaries(&lab.binaries);
    world.migrate().await?;
    sleep(CALM).await;
    world.add_dispatcher()?;
    world.replace_gateway().await?;
    world.wait_until_ready().await?;
    sleep(CALM * 2).await; // side by side
    world.dispatchers[0].kill()?;
    sleep(CALM).await;
    let (status, _) = world.dispatchers[1].terminate(DRAIN_TIMEOUT * 2).await?;
    world.fault_ends();
    recover(&world, load).await?;
    conclude(world, Allowed::duplicates(64), |_, findings| {
        findings.expect(status.success(), format!("the previous version's dispatcher ended with {status}"));
    })
    .await
}

pub(crate) async fn encryption_keys(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const KEYS: &str = "POSTRIDER_ENCRYPTION_KEYS";
    const OLD: &str = "old:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    const NEW: &str = "new:YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=";
    if !is_setting(KEYS) {
        return Ok(Outcome::NotRun(format!("there is no setting {KEYS}: secrets are not encrypted yet")));
    }
    let shared_settings = vec![(KEYS, OLD.to_owned())];
    let mut world = World::create(&lab, "18", Setup { shared_settings, ..Setup::default() }).await?;
    world.publisher.publish_all("first", 20).await?;
    world.wait_for_deliveries(20, STEP).await?;
    let rotated = format!("{NEW},{OLD}");
    restart_with(&mut world, KEYS, &rotated).await?;
    world.publisher.publish_all("rotated", 20).await?;
    let readable = world.wait_for_deliveries(40, STEP).await;
    // The webhook's secret is still under the old key, which is now missing.
    restart_with(&mut world, KEYS, NEW).await?;
    world.publisher.publish_all("missing", 20).await?;
    sleep(FAULT).await;
    let (failed, delivered) = (world.failed_attempts().await?, world.delivered_count());
    let logged = world.dispatcher().logged();
    let alerted =
        logged.lines().any(|line| (line.contains("WARN") || line.contains("ERROR")) && line.contains("key"));
    restart_with(&mut world, KEYS, &rotated).await?;
    world.fault_ends();
    world.publisher.publish_all("later", 10).await?;
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.expect(readable.is_ok(), "a secret under the old key could not be read after the rotation");
        findings.expect(failed == 0, format!("{failed} attempts were charged for a missing key"));
        findings.expect(delivered == 40, format!("{delivered} deliveries where 40 could be signed"));
        findings.expect(alerted, "nothing in the log says that a key is missing");
    })
    .await
}

async fn restart_with(world: &mut World, name: &str, value: &str) -> anyhow::Result<()> {
    world.dispatcher().terminate(DRAIN_TIMEOUT * 2).await?;
    world.gateway.terminate(DRAIN_TIMEOUT * 2).await?;
    for process in [&mut world.dispatchers[0], &mut world.gateway] {
        process.set(name, value);
        process.start_again()?;
    }
    world.wait_until_ready().await
}

pub(crate) async fn name_server_down(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const SERVERS: &str = "POSTRIDER_DNS_SERVERS";
    if !is_setting(SERVERS) {
        return Ok(Outcome::NotRun(format!(
            "there is no setting {SERVERS}: dispatchers ask the system's name servers"
        )));
    }
    let server = NameServer::start().await?;
    let settings = vec![(SERVERS, server.address().to_string())];
    let setup = Setup { settings, receiver_host: Some("receiver.test"), ..Setup::default() };
    let mut world = World::create(&lab, "19", setup).await?;
    // Or the connections that are open would need no name.
    world.receiver.close_connections();
    world.publisher.publish_all("before", 20).await?;
    world.wait_for_deliveries(20, STEP).await?;
    server.answer(false);
    sleep(CALM).await;
    world.publisher.publish_all("during", 50).await?;
    sleep(FAULT * 2).await;
    let failed = world.failed_attempts().await?;
    let charged = world.count("SELECT count(*) FROM deliveries WHERE attempts > 0").await?;
    server.answer(true);
    world.fault_ends();
    world.publisher.publish_all("later", 10).await?;
    let asked = server.questions();
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.note(format!("the name server was asked {asked} times"));
        findings.expect(asked > 0, "the name server was never asked: the case proves nothing");
        findings.expect(failed == 0, format!("{failed} failed attempts are in the history"));
        findings.expect(charged == 0, format!("{charged} deliveries were charged an attempt"));
    })
    .await
}

/// Whether the product has a setting: a test keeps the README's table and the programs in step.
fn is_setting(name: &str) -> bool {
    let readme = include_str!("../../../../README.md");
    readme.lines().any(|line| line.starts_with(&format!("| `{name}`")))
}
