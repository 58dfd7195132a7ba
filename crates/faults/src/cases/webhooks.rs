//! Receivers that are down or hang, and webhooks that are deleted, switched off and paused while deliveries wait.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use domain::TenantId;
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{CALM, FAULT, Outcome, conclude, p99};
use crate::load::{Ledger, Load};
use crate::oracle::Allowed;
use crate::receiver::Mode;
use crate::world::{Lab, PATH, Setup, World};

/// How long a step of a case may take that is not judged by its time.
const STEP: Duration = Duration::from_secs(30);
/// Events a second whose latency is looked at.
const PROBE_RATE: u32 = 50;
/// How long a latency is looked at.
const MEASURED: Duration = Duration::from_secs(10);

pub(crate) async fn backlog_drained(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const BACKLOG: usize = 600;
    const DRAIN_RATE: u32 = 50;
    let mut world = World::create(&lab, "14", Setup::default()).await?;
    let webhook = world.webhooks[PATH].clone();
    let change = Some(json!({"drainRate": DRAIN_RATE}));
    let (status, envelope) = world.call(Method::PATCH, &format!("/api/webhooks/{webhook}"), change).await?;
    world.backdate(&webhook).await?;
    world.receiver.set(PATH, Mode::Answer(500));
    world.publisher.publish_all("backlog", BACKLOG).await?;
    world.wait_for_count("SELECT count(*) FROM webhook_health WHERE open_until IS NOT NULL", 1, STEP).await?;
    world.wait_for_count("SELECT count(*) FROM deliveries", i64::try_from(BACKLOG)?, STEP).await?;
    world.receiver.set(PATH, Mode::Answer(204));
    world.fault_ends();
    world.publisher.publish_all("later", 10).await?;
    world.wait_for_deliveries(BACKLOG + 10, Duration::from_secs(120)).await?;
    let busiest = busiest_second(&world, PATH, "backlog");
    conclude(world, Allowed::NOTHING, |_, findings| {
        findings.note(format!("at most {busiest} deliveries within a second, asked for {DRAIN_RATE}"));
        findings.expect(status == 200, format!("the API does not take drainRate: {status} {envelope}"));
        findings.expect(
            busiest <= DRAIN_RATE as usize * 3 / 2,
            format!("the backlog came at up to {busiest} deliveries a second, asked for {DRAIN_RATE}"),
        );
    })
    .await
}

/// The most deliveries to a path within any one second, of events with this label: new ones do not wait for a backlog.
fn busiest_second(world: &World, path: &str, label: &str) -> usize {
    let delivered = world.receiver.delivered(path).into_iter();
    let mut times: Vec<Instant> =
        delivered.filter(|(id, _)| id.starts_with(label)).map(|(_, at)| at).collect();
    times.sort_unstable();
    let within = |begin: &Instant| {
        times.iter().filter(|at| (*begin..*begin + Duration::from_secs(1)).contains(at)).count()
    };
    times.iter().map(within).max().unwrap_or_default()
}

pub(crate) async fn receivers_hang(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const WEBHOOKS: usize = 20;
    const EVENTS: usize = 100;
    let settings = vec![("POSTRIDER_DELIVERY_TIMEOUT_MS", "15000".to_owned())];
    let mut world = World::create(&lab, "15a", Setup { settings, ..Setup::default() }).await?;
    let hanging = TenantId(Uuid::now_v7());
    let path = |number: usize| format!("/hanging/{number}");
    for number in 0..WEBHOOKS {
        world.receiver.set(&path(number), Mode::Hang);
        world.add_webhook_of(hanging, &world.receiver.url(&path(number)), json!({})).await?;
    }
    let before = probe(&world, "before").await?;
    world.publisher_of(hanging, Ledger::default())?.publish_all("hang", EVENTS).await?;
    let during = probe(&world, "during").await?;
    for number in 0..WEBHOOKS {
        world.receiver.set(&path(number), Mode::Answer(204));
    }
    world.fault_ends();
    probe(&world, "after").await?;
    conclude(world, Allowed::NOTHING, |_, findings| expect_unhurt(findings, before, during)).await
}

pub(crate) async fn many_fall_due(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const DUE: usize = 100_000;
    let mut world = World::create(&lab, "15b", Setup::default()).await?;
    let other = TenantId(Uuid::now_v7());
    let webhook = world.add_webhook_of(other, &world.receiver.url("/bulk"), json!({})).await?;
    let before = probe(&world, "before").await?;
    world.insert_due(other, &webhook, "due", DUE).await?;
    let during = probe(&world, "during").await?;
    let left = world.count("SELECT count(*) FROM deliveries").await?;
    // At the usual drain rate the rest would take a quarter of an hour.
    let faster = Some(json!({"drainRate": 2_000}));
    let path = format!("/api/webhooks/{webhook}");
    let (status, envelope) = world.call_as(other, Method::PATCH, &path, faster).await?;
    ensure!(status == 200, "the drain rate was not raised: {status} {envelope}");
    world.backdate(&webhook).await?;
    world.fault_ends();
    probe(&world, "after").await?;
    let allowed = Allowed { settle_time: Duration::from_secs(360), ..Allowed::NOTHING };
    conclude(world, allowed, |_, findings| {
        findings.expect(left > 0, "all was delivered before the latency was measured");
        expect_unhurt(findings, before, during);
    })
    .await
}

/// Publishes for a while, and gives the p99.
async fn probe(world: &World, label: &str) -> anyhow::Result<Duration> {
    let load = Load::rest(&world.publisher, label, PROBE_RATE);
    sleep(MEASURED).await;
    load.end().await?;
    p99(world, label, STEP).await
}

/// Other tenants may be a little slower where two cores do everything, and no more.
fn expect_unhurt(findings: &mut crate::oracle::Findings, before: Duration, during: Duration) {
    const SLACK: Duration = Duration::from_millis(250);
    findings.note(format!("others' p99 {} ms before, {} ms during", before.as_millis(), during.as_millis()));
    findings
        .expect(during <= before + SLACK, format!("others' p99 rose by more than {} ms", SLACK.as_millis()));
}

/// Events that wait for the second webhook.
const WAITING: usize = 10;
/// The path of the second webhook.
const OTHER: &str = "/other";

/// A world whose second webhook has deliveries that wait: each failed once, and is tried again much later.
async fn waiting(lab: &Arc<Lab>, name: &str) -> anyhow::Result<(World, String)> {
    let settings = vec![("POSTRIDER_RETRY_SCHEDULE", "10m".to_owned())];
    let world = World::create(lab, name, Setup { settings, ..Setup::default() }).await?;
    world.receiver.set(OTHER, Mode::Answer(500));
    let webhook = world.add_webhook_of(world.tenant, &world.receiver.url(OTHER), json!({})).await?;
    world.publisher.publish_all("waits", WAITING).await?;
    world.wait_for_count("SELECT count(*) FROM deliveries", i64::try_from(WAITING)?, STEP).await?;
    world.receiver.set(OTHER, Mode::Answer(204));
    Ok((world, webhook))
}

pub(crate) async fn deleted(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let (mut world, webhook) = waiting(&lab, "16a").await?;
    let (status, envelope) = world.call(Method::DELETE, &format!("/api/webhooks/{webhook}"), None).await?;
    ensure!(status == 200, "the webhook was not deleted: {status} {envelope}");
    world.sql("UPDATE deliveries SET due_at = now()").await?; // their time has come
    world.fault_ends();
    world.publisher.publish_all("later", 10).await?;
    sleep(CALM).await;
    conclude(world, Allowed::NOTHING, |world, findings| {
        let late = world.receiver.requests_to(OTHER) - WAITING;
        findings.expect(late == 0, format!("{late} requests were made after the webhook was deleted"));
    })
    .await
}

pub(crate) async fn switched_off(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    let (mut world, webhook) = waiting(&lab, "16b").await?;
    let change = Some(json!({"isActive": false}));
    let (status, envelope) = world.call(Method::PATCH, &format!("/api/webhooks/{webhook}"), change).await?;
    ensure!(status == 200, "the webhook was not switched off: {status} {envelope}");
    world.sql("UPDATE deliveries SET due_at = now()").await?;
    world.fault_ends();
    world.publisher.publish_all("later", 10).await?;
    let cancelled = format!(
        "SELECT count(DISTINCT event_id) FROM delivery_attempts WHERE webhook_id = '{webhook}' AND error = 'cancelled'"
    );
    let recorded = world.wait_for_count(&cancelled, i64::try_from(WAITING)?, STEP).await;
    conclude(world, Allowed::NOTHING, |world, findings| {
        let late = world.receiver.requests_to(OTHER) - WAITING;
        findings.expect(late == 0, format!("{late} requests were made after the webhook was switched off"));
        findings.expect(recorded.is_ok(), "the history does not show each as cancelled");
    })
    .await
}

pub(crate) async fn paused(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const DRAIN_RATE: u32 = 20;
    const EVENTS: usize = 60;
    let mut world = World::create(&lab, "16c", Setup::default()).await?;
    let url = world.receiver.url(OTHER);
    world.add_webhook(OTHER, &url, json!({})).await?;
    let webhook = world.webhooks[OTHER].clone();
    let (status, _) = world.call(Method::POST, &format!("/api/webhooks/{webhook}/pause"), None).await?;
    if status == 404 || status == 405 {
        return Ok(Outcome::NotRun("the API cannot pause a webhook".to_owned()));
    }
    ensure!(status == 200, "the webhook was not paused: {status}");
    world.backdate(&webhook).await?;
    sleep(CALM).await; // dispatchers may take a moment to know
    world.publisher.publish_all("paused", EVENTS).await?;
    sleep(FAULT).await;
    let early = world.receiver.requests_to(OTHER);
    let body = Some(json!({"drainRate": DRAIN_RATE}));
    let (status, envelope) =
        world.call(Method::POST, &format!("/api/webhooks/{webhook}/resume"), body).await?;
    ensure!(status == 200, "the webhook was not resumed: {status} {envelope}");
    world.backdate(&webhook).await?;
    world.fault_ends();
    world.publisher.publish_all("later", 10).await?;
    conclude(world, Allowed::NOTHING, |world, findings| {
        let busiest = busiest_second(world, OTHER, "paused");
        findings.note(format!("drained at up to {busiest} a second, asked for {DRAIN_RATE}"));
        findings.expect(early == 0, format!("{early} requests were made while the webhook was paused"));
        findings.expect(
            busiest <= DRAIN_RATE as usize * 3 / 2,
            format!("the backlog came at up to {busiest} deliveries a second"),
        );
    })
    .await
}

pub(crate) async fn ordered(lab: Arc<Lab>) -> anyhow::Result<Outcome> {
    const KEYS: usize = 5;
    const KILLS: usize = 5;
    let webhook = json!({"ordered": true});
    let mut world = World::create(&lab, "21", Setup { dispatchers: 2, webhook, ..Setup::default() }).await?;
    world.receiver.set(PATH, Mode::Slow(Duration::from_millis(20)));
    let (stop, ended) = tokio::sync::watch::channel(false);
    let mut publishers = tokio::task::JoinSet::new();
    for key in 0..KEYS {
        let (publisher, ended) = (world.publisher.clone(), ended.clone());
        publishers.spawn(async move {
            let mut number = 0;
            while !*ended.borrow() {
                let extra = format!(r#","orderingKey":"key-{key}""#);
                let deadline = Instant::now() + STEP;
                publisher.publish(&format!("o{key}-{number}"), &extra, deadline).await;
                number += 1;
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    for _ in 0..KILLS {
        sleep(CALM).await;
        world.dispatcher().kill()?;
        sleep(Duration::from_millis(500)).await;
        world.dispatcher().start_again()?;
    }
    world.fault_ends();
    world.await_recovery().await;
    sleep(CALM).await;
    stop.send_replace(true);
    publishers.join_all().await;
    let allowed = Allowed { repeats: KILLS, ..Allowed::duplicates(KILLS * KEYS) };
    conclude(world, allowed, |world, findings| {
        for key in 0..KEYS {
            let late = out_of_order(world, key);
            findings.expect(late == 0, format!("{late} events of key {key} came after a later one"));
        }
    })
    .await
}

/// Events of a key that were first delivered after one that was accepted later.
fn out_of_order(world: &World, key: usize) -> usize {
    let number = |id: &str| id.strip_prefix(&format!("o{key}-"))?.parse::<usize>().ok();
    let delivered = world.receiver.delivered(PATH);
    let mut arrivals: Vec<(Instant, usize)> =
        delivered.iter().filter_map(|(id, at)| Some((*at, number(id)?))).collect();
    arrivals.sort_unstable();
    let mut highest = 0;
    let is_late = |number: usize| {
        let late = number < highest;
        highest = highest.max(number);
        late
    };
    arrivals.into_iter().map(|(_, number)| number).map(is_late).filter(|late| *late).count()
}
