//! The cases, in the order of the list of faults.

mod broker;
mod database;
mod dispatcher;
mod gateway;
mod operations;
mod surroundings;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::oracle::{Allowed, Findings};
use crate::world::{Lab, PATH, World, eventually};

/// Events a second over REST, and as many over AMQP where a case has both.
const RATE: u32 = 100;
/// How long a load runs before and after a fault.
const CALM: Duration = Duration::from_secs(2);
/// How long a fault lasts that ends by our doing.
const FAULT: Duration = Duration::from_secs(8);

/// One fault, and what must come of it.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// The number in the list of faults, with a letter where that names several.
    pub(crate) number: &'static str,
    pub(crate) name: &'static str,
    /// What is broken, and how it must end.
    pub(crate) sentence: &'static str,
    /// Whether `./scripts/test` runs it.
    pub(crate) quick: bool,
    pub(crate) run: fn(Arc<Lab>) -> LocalBoxFuture<'static, anyhow::Result<Outcome>>,
}

/// What came of a case that ended by itself.
pub(crate) enum Outcome {
    Ran(Findings),
    NotRun(String),
}

/// Every case, as `number name quick? function sentence`.
macro_rules! cases {
    ($($number:literal $name:literal $quick:ident $($function:ident)::+ $sentence:literal;)*) => {
        [$(Case {
            number: $number,
            name: $name,
            sentence: $sentence,
            quick: cases!(@ $quick),
            run: |lab| Box::pin($($function)::+(lab)),
        }),*]
    };
    (@ quick) => { true };
    (@ full) => { false };
}

fn all() -> Vec<Case> {
    cases! {
        "1" "gateway-killed-after-confirm" quick gateway::killed_after_confirm
            "gateway killed after the broker's confirm and before its reply; clients retry under the same id: one event each";
        "2" "gateway-killed-before-confirm" quick gateway::killed_before_confirm
            "gateway killed before the broker has the event; the retry is accepted: one event each";
        "3a" "ingest-exchange-deleted" quick broker::ingest_exchange_deleted
            "the gateway's exchange deleted under load: 503 with Retry-After, then restored";
        "3b" "queue-unbound" full broker::queue_unbound
            "the queue unbound from both exchanges under load: 503 with Retry-After, then restored";
        "3c" "events-exchange-deleted" full broker::events_exchange_deleted
            "the services' exchange deleted under load: restored, without a restart of anything";
        "4a" "confirm-never-comes" quick broker::confirm_never_comes
            "the broker swallows what the gateway sends: 503 within the publish timeout, no hang";
        "4b" "memory-alarm" full broker::memory_alarm
            "memory alarm: 503 at once, while dispatchers drain the queue";
        "5" "broker-refuses" full broker::queue_full
            "the queue is full and refuses: 503 with Retry-After, then all is accepted";
        "6a" "dispatcher-lost-before-hand-over" full dispatcher::killed_before_hand_over
            "a dispatcher's machine lost with events it could not hand over yet: delivered once";
        "6b" "dispatcher-lost-after-hand-over" full dispatcher::killed_after_hand_over
            "a dispatcher's machine lost after the hand-over's commit, before it knew of it: delivered once";
        "6c" "dispatcher-killed-during-requests" full dispatcher::killed_during_requests
            "dispatcher killed with requests under way: another makes them again";
        "6d" "dispatcher-lost-before-record" quick dispatcher::killed_before_record
            "a dispatcher's machine lost after the receiver's 2xx, before its record: these may repeat, once";
        "7" "dispatcher-killed-again-and-again" quick dispatcher::killed_again_and_again
            "dispatcher killed 25 times in a row under load: nothing lost, nothing dead-lettered";
        "8a" "broker-restarted" full broker::restarted
            "broker restarted under load: resumes by itself, no loss";
        "8b" "broker-killed" quick broker::killed
            "broker killed under load and started again: resumes by itself, no loss";
        "8c" "broker-closes-connections" full broker::connections_closed
            "the broker closes all connections, three times under load: resumes by itself, no loss";
        "8d" "queue-deleted" full broker::queue_deleted
            "the empty queue deleted under the consumer, which the broker cancels: declared again by itself, no loss";
        "9a" "broker-half-open" full broker::half_open
            "every open connection to the broker swallows what is sent: noticed by heartbeat or timeout, reconnected";
        "9b" "database-half-open" full database::half_open
            "every open connection to the database swallows what is sent: noticed by timeout, reconnected";
        "10a" "database-down" quick database::down
            "database killed and down for 30 s (10 min with --long): acceptance goes on, no attempt charged, caught up";
        "10b" "database-read-only" full database::read_only
            "database read-only for 8 s: acceptance goes on, no attempt charged, caught up";
        "10c" "database-pool-exhausted" full database::pool_exhausted
            "every table locked for 12 s, so that all connections are taken: acceptance goes on, caught up";
        "10d" "database-slow" full database::slow
            "each answer of the database takes 5 s, for 16 s: acceptance goes on, no attempt charged, caught up";
        "10e" "database-deadlocks" full database::deadlocks
            "deadlocks, and serialisation failures of two dispatchers: acceptance goes on, no attempt charged";
        "11a" "same-due-rows" full dispatcher::same_due_rows
            "three dispatchers and 2000 rows that fall due at once: each delivered once";
        "11b" "dispatcher-paused-past-lease" full dispatcher::paused_past_lease
            "one of two dispatchers stopped for longer than its leases and continued: at most one extra send of an event";
        "12" "clock-jumps" full surroundings::clock_jumps
            "one dispatcher's clock jumps an hour ahead, back, an hour behind, back: no storm of retries, signatures current";
        "13a" "stopped-under-load" full dispatcher::told_to_stop_under_load
            "SIGTERM to dispatcher and gateway under load with slow receivers: drained in time, the rest taken over";
        "13b" "stopped-while-reconnecting" quick dispatcher::told_to_stop_while_reconnecting
            "SIGTERM to dispatcher and gateway while broker and database are away: ended in time, nothing lost";
        "14" "backlog-drained" full webhooks::backlog_drained
            "receiver down until the breaker opens and a backlog waits, then up: drained at a capped rate";
        "15a" "receivers-hang" full webhooks::receivers_hang
            "all 20 receivers of one tenant hang: the p99 of another tenant's deliveries is unchanged";
        "15b" "many-fall-due" full webhooks::many_fall_due
            "100,000 deliveries of one tenant fall due at once: the p99 of another tenant's is unchanged";
        "16a" "webhook-deleted" full webhooks::deleted
            "webhook deleted while deliveries wait: cancelled, no further request";
        "16b" "webhook-switched-off" full webhooks::switched_off
            "webhook switched off while deliveries wait: cancelled and recorded, no further request";
        "16c" "webhook-paused" full webhooks::paused
            "webhook paused while events come, then resumed: kept, and drained at the rate asked for";
        "17" "rolling-update" full surroundings::rolling_update
            "previous and new version side by side on one schema and queue, the previous killed and stopped: no loss";
        "18" "encryption-keys" full surroundings::encryption_keys
            "encryption key rotated, then missing: old secrets readable, else deliveries wait and are never failed";
        "19" "name-server-down" full surroundings::name_server_down
            "the name server falls silent: no attempt charged, delivered when it is back";
        "20a" "partition-missing" full database::partition_missing
            "today's partitions are missing: the default partitions catch what comes, and a warning says so";
        "20b" "collector-away" quick operations::collector_away
            "an event is one trace from request to retry; then the trace collector is away: no effect on anything";
        "21" "ordered-under-kills" full webhooks::ordered
            "ordered deliveries, one of two dispatchers killed five times: each key's order is kept";
        "22" "cluster-leader-killed" full broker::cluster_leader_killed
            "the node that leads the queue of a three-node broker killed under load, and back later: goes on by itself";
        "23" "rolling-restart" full operations::rolling_restart
            "two gateways and two dispatchers restarted one after the other under load: no loss, no wrong answer, p99 within 1 s";
    }
    .to_vec()
}

/// Those that are asked for.
pub(crate) fn chosen(asked: &[String], quick: bool) -> Vec<Case> {
    let matches = |case: &Case, asked: &str| {
        let digits = case.number.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        let by_number = asked == case.number || asked == digits;
        by_number || !asked.starts_with(|first: char| first.is_ascii_digit()) && case.name.contains(asked)
    };
    let wanted = |case: &Case| asked.is_empty() || asked.iter().any(|asked| matches(case, asked));
    all().into_iter().filter(|case| (case.quick || !quick) && wanted(case)).collect()
}

/// Publishers over REST and over AMQP.
fn both(world: &World) -> Load {
    Load::rest(&world.publisher, "r", RATE).with_amqp(world.amqp_publisher(), "a", RATE)
}

/// After the end of a fault: waits for the recovery, and ends the load a little later.
async fn recover(world: &World, load: Load) -> anyhow::Result<()> {
    world.await_recovery().await;
    sleep(CALM).await;
    load.end().await
}

/// The 99th percentile of the time from acceptance to delivery, of events whose ids begin with `label`.
async fn p99(world: &World, label: &str, limit: Duration) -> anyhow::Result<Duration> {
    let accepted = world.ledger.accepted();
    let ours: Vec<(&String, &Instant)> = accepted.iter().filter(|(id, _)| id.starts_with(label)).collect();
    let all = async || {
        let delivered = world.receiver.delivered(PATH);
        ours.iter().map(|(id, at)| Some(delivered.get(*id)?.saturating_duration_since(**at))).collect()
    };
    let mut times: Vec<Duration> = eventually("deliveries to be timed", limit, all).await?;
    times.sort_unstable();
    Ok(times.get(times.len() * 99 / 100).copied().unwrap_or_default())
}

/// The usual end of a case: judged, with what the case itself has to say, and taken down.
async fn conclude(
    mut world: World,
    allowed: Allowed,
    say: impl FnOnce(&World, &mut Findings),
) -> anyhow::Result<Outcome> {
    let mut findings = world.judge(allowed).await?;
    say(&world, &mut findings);
    if findings.problems.is_empty() {
        world.take_down().await;
    } else {
        findings.note(format!("its database {} is kept until the next run", world.database_name()));
    }
    Ok(Outcome::Ran(findings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(asked: &[&str], quick: bool) -> Vec<&'static str> {
        let asked: Vec<String> = asked.iter().map(|asked| (*asked).to_owned()).collect();
        chosen(&asked, quick).iter().map(|case| case.number).collect()
    }

    #[test]
    fn cases_are_chosen_by_number_and_by_name() {
        assert_eq!(numbers(&["8b", "1"], false), ["1", "8b"]);
        assert_eq!(numbers(&["4"], false), ["4a", "4b"]);
        assert_eq!(numbers(&["half-open"], false), ["9a", "9b"]);
        assert!(numbers(&["0"], false).is_empty() && numbers(&["nothing"], false).is_empty());
        assert!(!numbers(&[], true).is_empty() && numbers(&[], true).len() < numbers(&[], false).len());
    }

    #[test]
    fn every_fault_of_the_list_has_a_case() {
        for number in 1..=23 {
            assert!(!numbers(&[&number.to_string()], false).is_empty(), "{number}");
        }
    }
}
