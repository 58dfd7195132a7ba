//! Counts what became of every accepted event. Knows nothing of how the product works but its tables' names.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::receiver::Arrival;
use crate::world::{PATH, World, eventually};

/// How long accepted events may take to be delivered after the load has ended.
const CATCH_UP_TIME: Duration = Duration::from_secs(60);
/// How long rows are waited for when events are missing already.
const HOPELESS_SETTLE_TIME: Duration = Duration::from_secs(5);
/// How long a repeat is waited for that must not come.
const GRACE: Duration = Duration::from_millis(500);
/// Within this after the end of a fault, events must be delivered again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// The most memory that a process may use, in MiB.
const MAX_MEMORY_MIB: u64 = 512;
/// How far a `webhook-timestamp` may be from the true time, in seconds. Receivers accept five minutes.
const MAX_CLOCK_ERROR_SECONDS: i64 = 60;
/// Most ids that a problem names.
const MAX_NAMED: usize = 3;

/// What a case allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// Deliveries beyond the first, of all events.
    pub(crate) duplicates: usize,
    /// Deliveries beyond the first, of one event.
    pub(crate) repeats: usize,
    /// How long rows may take to show that everything has ended.
    pub(crate) settle_time: Duration,
    /// Deliveries that may stay scheduled.
    pub(crate) scheduled: i64,
}

impl Allowed {
    /// Every event is delivered once.
    pub(crate) const NOTHING: Self =
        Self { duplicates: 0, repeats: 1, settle_time: Duration::from_secs(45), scheduled: 0 };

    /// So many of them, no event more than once.
    pub(crate) fn duplicates(duplicates: usize) -> Self {
        Self { duplicates, ..Self::NOTHING }
    }
}

/// What a case came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub(crate) accepted: usize,
    pub(crate) delivered: usize,
    pub(crate) duplicates: usize,
    /// From the end of the fault to the first delivery of an event accepted after it.
    pub(crate) recovery: Option<Duration>,
    /// From the end of the fault to the last first delivery of an event accepted before it.
    pub(crate) caught_up: Option<Duration>,
    pub(crate) problems: Vec<String>,
    /// Figures of this case alone.
    pub(crate) notes: Vec<String>,
}

impl Findings {
    /// Notes a problem unless it holds.
    pub(crate) fn expect(&mut self, holds: bool, problem: impl Into<String>) {
        if !holds {
            self.problems.push(problem.into());
        }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl World {
    /// Waits until every accepted event has ended, and judges. Not before publishers have ended.
    pub(crate) async fn judge(&mut self, allowed: Allowed) -> anyhow::Result<Findings> {
        let mut findings = Findings { accepted: self.ledger.accepted_count(), ..Findings::default() };
        findings.expect(findings.accepted > 0, "no event was accepted: the case proves nothing");
        self.await_deliveries(&mut findings).await;
        self.await_rows(allowed, &mut findings).await;
        sleep(GRACE).await;
        self.count_arrivals(allowed, &mut findings);
        self.time_recovery(&mut findings);
        self.look_at_rows(&mut findings).await?;
        self.audit(&mut findings).await?;
        self.look_at_queues(&mut findings).await?;
        self.look_at_processes(&mut findings);
        Ok(findings)
    }

    async fn await_deliveries(&self, findings: &mut Findings) {
        let accepted = self.ledger.accepted();
        for path in self.webhooks.keys() {
            let all = async || {
                let delivered = self.receiver.delivered(path);
                accepted.keys().all(|id| delivered.contains_key(id)).then_some(())
            };
            if eventually("deliveries", CATCH_UP_TIME, all).await.is_err() {
                let delivered = self.receiver.delivered(path);
                let missing: Vec<&str> =
                    accepted.keys().filter(|id| !delivered.contains_key(*id)).map(String::as_str).collect();
                findings.problems.push(format!(
                    "{} accepted events were not delivered to {path} within {} s, {}",
                    missing.len(),
                    CATCH_UP_TIME.as_secs(),
                    named(&missing)
                ));
            }
        }
    }

    /// Until nothing is under way, and nothing scheduled but what may be.
    async fn await_rows(&self, allowed: Allowed, findings: &mut Findings) {
        const LEFT: &str = "SELECT (SELECT count(*) FROM open_batches) + (SELECT count(*) FROM deliveries)";
        let settled = async || self.count(LEFT).await.ok().filter(|left| *left <= allowed.scheduled);
        let limit = if findings.problems.is_empty() { allowed.settle_time } else { HOPELESS_SETTLE_TIME };
        if eventually("rows", limit, settled).await.is_err() {
            let left = self.count(LEFT).await.unwrap_or(-1);
            let problem =
                format!("{left} batches and deliveries are unfinished, {} may be", allowed.scheduled);
            findings.problems.push(problem);
        }
    }

    fn count_arrivals(&self, allowed: Allowed, findings: &mut Findings) {
        let arrivals = self.receiver.arrivals();
        let mut delivered: HashMap<(&str, &str), usize> = HashMap::new();
        let mut bodies: HashMap<&str, &[u8]> = HashMap::new();
        let (mut unsigned, mut stale, mut changed, mut unknown) = (0, 0, 0, 0);
        for Arrival { path, id, body, delivered_at, is_signed, clock_error_seconds, .. } in &arrivals {
            if !self.webhooks.contains_key(path) {
                continue; // of another tenant, which the case counts itself
            }
            if delivered_at.is_some() {
                *delivered.entry((path, id)).or_default() += 1;
            }
            unsigned += usize::from(!is_signed);
            stale += usize::from(clock_error_seconds.abs() > MAX_CLOCK_ERROR_SECONDS);
            changed += usize::from(bodies.insert(id, body).is_some_and(|before| before != body));
            unknown += usize::from(!self.ledger.knows(id));
        }
        let accepted = self.ledger.accepted();
        findings.delivered = delivered.keys().filter(|(_, id)| accepted.contains_key(*id)).count();
        findings.duplicates = delivered.values().map(|times| times - 1).sum();
        findings.expect(
            findings.duplicates <= allowed.duplicates,
            format!("{} duplicates, at most {} are allowed", findings.duplicates, allowed.duplicates),
        );
        let most = delivered.values().map(|times| times - 1).max().unwrap_or_default();
        findings.expect(
            most <= allowed.repeats,
            format!("an event was delivered {most} times too often, at most {} are allowed", allowed.repeats),
        );
        findings.expect(unsigned == 0, format!("{unsigned} requests have a wrong signature"));
        findings.expect(
            stale == 0,
            format!(
                "{stale} requests have a webhook-timestamp more than {MAX_CLOCK_ERROR_SECONDS} s from the true time"
            ),
        );
        findings.expect(changed == 0, format!("{changed} repeats have another body"));
        findings.expect(unknown == 0, format!("{unknown} requests have an id that nobody published"));
    }

    fn time_recovery(&self, findings: &mut Findings) {
        let Some(ended) = self.fault_ended else {
            return findings.problems.push("the case does not say when its fault ended".to_owned());
        };
        let accepted = self.ledger.accepted();
        let deliveries: Vec<(Instant, Instant)> = self
            .webhooks
            .keys()
            .flat_map(|path| self.receiver.delivered(path))
            .filter_map(|(id, at)| accepted.get(&id).map(|accepted| (*accepted, at)))
            .collect();
        let since = |at: Instant| at.saturating_duration_since(ended);
        let after = deliveries.iter().filter(|(accepted, _)| *accepted >= ended);
        let before = deliveries.iter().filter(|(accepted, _)| *accepted < ended);
        findings.recovery = after.map(|(_, at)| since(*at)).min();
        findings.caught_up = before.map(|(_, at)| since(*at)).max();
        match findings.recovery {
            None => findings.problems.push("no event accepted after the fault was delivered".to_owned()),
            Some(time) => findings.expect(
                time <= RECOVERY_LIMIT,
                format!("it took {} s to recover, the limit is {}", time.as_secs(), RECOVERY_LIMIT.as_secs()),
            ),
        }
    }

    /// The database's word on each accepted event: it is stored once, and the history of each webhook has it delivered.
    async fn look_at_rows(&self, findings: &mut Findings) -> anyhow::Result<()> {
        const STORED: &str =
            "SELECT g.id, (SELECT count(*) FROM events e WHERE e.tenant_id = $2 AND e.id = g.id)
            FROM unnest($1::text[]) AS g (id)";
        const ENDED: &str = "SELECT g.id,
                EXISTS (SELECT FROM delivery_attempts a
                    WHERE a.webhook_id = $2 AND a.event_id = g.id AND a.error IS NULL)
            FROM unnest($1::text[]) AS g (id)";
        let client = self.client().await?;
        let ids: Vec<String> = self.ledger.accepted().into_keys().collect();
        let rows = client.query(STORED, &[&ids, &self.tenant.0]).await?;
        let wrong: Vec<&str> =
            rows.iter().filter(|row| row.get::<_, i64>(1) != 1).map(|row| row.get(0)).collect();
        findings.expect(
            wrong.is_empty(),
            format!("{} events are not stored just once, {}", wrong.len(), named(&wrong)),
        );
        for (path, webhook) in &self.webhooks {
            let webhook: uuid::Uuid = webhook.parse()?;
            let rows = client.query(ENDED, &[&ids, &webhook]).await?;
            let lost: Vec<&str> =
                rows.iter().filter(|row| !row.get::<_, bool>(1)).map(|row| row.get(0)).collect();
            findings.expect(
                lost.is_empty(),
                format!(
                    "{} events were not delivered to {path}, says the history, {}",
                    lost.len(),
                    named(&lost)
                ),
            );
        }
        Ok(())
    }

    /// The product's word: `postrider audit`.
    async fn audit(&self, findings: &mut Findings) -> anyhow::Result<()> {
        let day = chrono::TimeDelta::days(1);
        let time = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let (from, to) = (time(chrono::Utc::now() - day), time(chrono::Utc::now() + day));
        let (succeeded, text) = self.run_command(&["audit", "--from", &from, "--to", &to]).await?;
        findings.expect(succeeded, format!("postrider audit: {}", text.trim()));
        let counted = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_suffix(name));
            line.and_then(|count| count.trim().parse::<usize>().ok()).unwrap_or_default()
        };
        findings.expect(
            counted("  events") >= findings.accepted,
            format!("postrider audit looked at {} of {} events", counted("  events"), findings.accepted),
        );
        Ok(())
    }

    async fn look_at_queues(&self, findings: &mut Findings) -> anyhow::Result<()> {
        for queue in ["dispatch", "dead"] {
            let waiting = self.waiting_in(queue).await?;
            findings.expect(waiting == 0, format!("{waiting} messages are left in the queue {queue}"));
        }
        Ok(())
    }

    fn look_at_processes(&mut self, findings: &mut Findings) {
        for process in self.dispatchers.iter_mut().chain([&mut self.gateway]) {
            if let Some(status) = process.ended_by_itself() {
                findings.problems.push(format!("{} ended by itself: {status}", process.name));
            }
            let memory = process.peak_memory_mib();
            findings
                .expect(memory <= MAX_MEMORY_MIB, format!("{} used {memory} MiB of memory", process.name));
            let panicked = process.logged().lines().filter(|line| line.contains("panicked at")).count();
            findings.expect(panicked == 0, format!("{} panicked {panicked} times", process.name));
        }
    }

    /// Attempts in the history that failed, whatever for.
    pub(crate) async fn failed_attempts(&self) -> anyhow::Result<i64> {
        self.count("SELECT count(*) FROM delivery_attempts WHERE error IS NOT NULL").await
    }

    /// Deliveries to the first webhook so far.
    pub(crate) fn delivered_count(&self) -> usize {
        self.receiver.delivered(PATH).len()
    }

    /// Waits until so many events were delivered to the first webhook.
    pub(crate) async fn wait_for_deliveries(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        eventually(&format!("{count} deliveries"), limit, async || {
            (self.delivered_count() >= count).then_some(())
        })
        .await
    }
}

fn named(ids: &[&str]) -> String {
    format!("such as {}", ids[..ids.len().min(MAX_NAMED)].join(", "))
}
