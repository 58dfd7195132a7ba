//! What every scenario works with, and how a scenario is measured.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::arrivals::{Arrival, percentiles, without_repeats};
use crate::broker::Broker;
use crate::database::{Database, Volume};
use crate::floor::{self, Direct};
use crate::http;
use crate::load::{Published, Publisher, Sequence};
use crate::output::progress;
use crate::payload::{EVENT_TYPE, Template, data_field};
use crate::product::{Places, Product, Receiver, prepare};
use crate::receiver::address_of;
use crate::report::Measured;
use crate::usage::{ByProcess, Usage, difference};

/// How long the floor is measured.
const FLOOR_TIME: Duration = Duration::from_secs(3);
/// How long nothing may arrive before the rest counts as missing.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the product may take to come to rest.
const REST_TIMEOUT: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the audit may take: it looks at events two minutes after they came in, once a minute.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(600);
/// After the deadline of an attempt nothing hangs any more.
const UNTIL_NOTHING_HANGS: Duration = Duration::from_secs(16);

/// How large the large scenarios are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scale {
    /// A tenth of the numbers, and shorter phases.
    Small,
    /// The documented numbers.
    Full,
}

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    AtOnce,
    Never,
}

/// A tenant with webhooks.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) id: Uuid,
    pub(crate) token: String,
    pub(crate) webhooks: Vec<Uuid>,
    /// The numbers of its webhooks at the receiver.
    pub(crate) hooks: Vec<u32>,
}

/// A run.
pub(crate) struct Bench {
    pub(crate) product: Product,
    pub(crate) receiver: Receiver,
    pub(crate) database: Database,
    pub(crate) broker: Broker,
    pub(crate) usage: Usage,
    pub(crate) sequence: Sequence,
    pub(crate) scale: Scale,
    next_hook: u32,
}

/// What is read before and after.
struct Reading {
    cpu: ByProcess,
    volume: Volume,
}

impl Bench {
    pub(crate) async fn start(places: Places, scale: Scale) -> anyhow::Result<Self> {
        prepare(&places)?;
        let variable =
            |name: &str| std::env::var(name).with_context(|| format!("{name} is not set; use scripts/bench"));
        let database = Database::connect(&variable("POSTRIDER_DATABASE_URL")?).await?;
        let receiver = Receiver::start(&places).await?;
        let product = Product::start(places).await?;
        database.lift_limits().await?;
        let broker = Broker::connect(&variable("POSTRIDER_AMQP_URL")?).await?;
        let usage = Usage::start();
        usage.watch("load", vec![std::process::id()]);
        usage.watch("receiver", vec![receiver.id()]);
        usage.watch("gateway", vec![product.gateway_id()]);
        usage.watch("dispatcher", product.dispatcher_ids());
        for (name, variable) in
            [("postgres", "POSTRIDER_POSTGRES_PID"), ("rabbitmq", "POSTRIDER_RABBITMQ_PID")]
        {
            // Absent when they run in containers; they are not watched then.
            if let Ok(id) = std::env::var(variable) {
                usage.watch_server(name, id.parse().with_context(|| format!("{variable} is no process id"))?);
            }
        }
        Ok(Self {
            product,
            receiver,
            database,
            broker,
            usage,
            sequence: Sequence::default(),
            scale,
            next_hook: 0,
        })
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.product.stop().await
    }

    pub(crate) async fn set_dispatchers(&mut self, count: usize) -> anyhow::Result<Duration> {
        let took = self.product.set_dispatchers(count).await?;
        self.usage.watch("dispatcher", self.product.dispatcher_ids());
        Ok(took)
    }

    /// A new tenant, so that no scenario finds what another left.
    pub(crate) async fn tenant(&mut self, webhooks: usize, answer: Answer) -> anyhow::Result<Tenant> {
        self.tenant_named(Uuid::now_v7(), webhooks, answer).await
    }

    /// Like [`Bench::tenant`], on a plan that lets so many events through.
    pub(crate) async fn limited_tenant(
        &mut self,
        webhooks: usize,
        answer: Answer,
        events_per_minute: i32,
    ) -> anyhow::Result<Tenant> {
        let id = Uuid::now_v7();
        self.database.insert_limited(id, events_per_minute).await?;
        self.tenant_named(id, webhooks, answer).await
    }

    async fn tenant_named(&mut self, id: Uuid, webhooks: usize, answer: Answer) -> anyhow::Result<Tenant> {
        let token = self.product.token(id).await?;
        let mut tenant = Tenant { id, token, webhooks: Vec::new(), hooks: Vec::new() };
        for _ in 0..webhooks {
            let hook = self.next_hook();
            let url = self.hook_url(hook, answer);
            tenant.webhooks.push(self.product.create_webhook(&tenant.token, &url).await?);
            tenant.hooks.push(hook);
        }
        Ok(tenant)
    }

    pub(crate) fn next_hook(&mut self) -> u32 {
        self.next_hook += 1;
        self.next_hook
    }

    pub(crate) fn hook_url(&self, hook: u32, answer: Answer) -> String {
        let path = match answer {
            Answer::AtOnce => "at-once",
            Answer::Never => "never",
        };
        format!("http://{}/{path}/{hook}", address_of(hook, self.receiver.port))
    }

    /// Publishes one event of 1 KB per request as this tenant.
    pub(crate) fn publisher(&self, tenant: &Tenant) -> anyhow::Result<Publisher> {
        let address = self.product.gateway_address;
        let headers = format!("authorization: Bearer {}\r\n", tenant.token);
        let body = format!("{{\"type\":\"{EVENT_TYPE}\",{}}}", data_field());
        let request = Template::new(http::request("POST", address, "/api/events", &headers, &body))?;
        Ok(Publisher { address, request, success: 202 })
    }

    /// Publishes as this tenant, so many events in each request.
    pub(crate) fn batch_publisher(&self, tenant: &Tenant, events: usize) -> anyhow::Result<Publisher> {
        let address = self.product.gateway_address;
        let headers = format!("authorization: Bearer {}\r\n", tenant.token);
        let event = format!("{{\"type\":\"{EVENT_TYPE}\",{}}}", data_field());
        let body = format!("{{\"events\":[{}]}}", vec![event; events].join(","));
        let request = Template::new(http::request("POST", address, "/api/events/batch", &headers, &body))?;
        Ok(Publisher { address, request, success: 202 })
    }

    /// The floor: signed requests of the same size straight to the receiver.
    pub(crate) async fn floor(&mut self) -> anyhow::Result<Measured> {
        let hook = self.next_hook();
        let body = format!("{{\"id\":\"bench\",\"type\":\"{EVENT_TYPE}\",{}}}", data_field());
        let direct = Direct {
            address: address_of(hook, self.receiver.port),
            path: format!("/at-once/{hook}"),
            body: Template::new(body.into_bytes())?,
        };
        let publishing = floor::requests(direct, Arc::clone(&self.sequence), FLOOR_TIME);
        Ok(self.measure("floor", 1, publishing).await?.0)
    }

    /// Like [`Bench::measure`], and says what part of the floor it comes to, which is measured just before: a ratio is of one
    /// moment of the machine's.
    pub(crate) async fn measure_by_floor(
        &mut self,
        name: &str,
        copies: usize,
        publishing: impl Future<Output = anyhow::Result<Published>>,
    ) -> anyhow::Result<Measured> {
        let floor = self.floor().await?;
        let (mut measured, _) = self.measure(name, copies, publishing).await?;
        measured.set_floor(floor.events_per_second);
        Ok(measured)
    }

    /// Publishes, waits until each event has arrived `copies` times, and takes the account of all that happened meanwhile.
    pub(crate) async fn measure(
        &mut self,
        name: &str,
        copies: usize,
        publishing: impl Future<Output = anyhow::Result<Published>>,
    ) -> anyhow::Result<(Measured, Vec<Arrival>)> {
        self.measure_some(name, copies, publishing, |_| true).await
    }

    /// Like [`Bench::measure`], when other deliveries than the wanted ones arrive too.
    pub(crate) async fn measure_some(
        &mut self,
        name: &str,
        copies: usize,
        publishing: impl Future<Output = anyhow::Result<Published>>,
        is_wanted: impl Fn(&Arrival) -> bool,
    ) -> anyhow::Result<(Measured, Vec<Arrival>)> {
        self.receiver.take().await?;
        self.usage.reset_peak();
        let before = self.read().await?;
        let published = publishing.await?;
        let expected = published.accepted.len() * copies;
        let mut arrivals = self.wait_for_arrivals(expected, &is_wanted).await?;
        arrivals.retain(&is_wanted);
        let after = self.read().await?;
        let mut measured = account(name, &published, &arrivals, expected)?;
        measured.set_usage(
            &difference(&after.cpu, &before.cpu),
            after.volume.stored - before.volume.stored,
            after.volume.logged - before.volume.logged,
            self.usage.peak_megabytes(),
        );
        Ok((measured, arrivals))
    }

    /// Takes arrivals until so many of the wanted ones are there, or none comes any more.
    pub(crate) async fn wait_for_arrivals(
        &mut self,
        expected: usize,
        is_wanted: impl Fn(&Arrival) -> bool,
    ) -> anyhow::Result<Vec<Arrival>> {
        let mut arrivals = Vec::new();
        let mut wanted = 0;
        let mut last = Instant::now();
        loop {
            let new = self.receiver.take().await?;
            let new_wanted = new.iter().filter(|arrival| is_wanted(arrival)).count();
            arrivals.extend(new);
            if new_wanted > 0 {
                wanted += new_wanted;
                last = Instant::now();
            }
            if wanted >= expected || last.elapsed() > PATIENCE {
                return Ok(arrivals);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until nothing is under way: no message in the queue, no open batch, no unfinished delivery.
    pub(crate) async fn rest(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut said = began;
        loop {
            let (queued, unfinished) =
                (self.broker.ready_messages().await?, self.database.unfinished().await?);
            if queued == 0 && unfinished == 0 {
                self.receiver.take().await?;
                return Ok(());
            }
            ensure!(
                began.elapsed() < REST_TIMEOUT,
                "after {REST_TIMEOUT:?} there are still {queued} messages in the queue and {unfinished} deliveries and batches"
            );
            if said.elapsed() > Duration::from_secs(5) {
                progress(&format!("waiting for {queued} messages, {unfinished} deliveries and batches"));
                said = Instant::now();
            }
            sleep(POLL_INTERVAL * 5).await;
        }
    }

    /// Has Postgres write all that waits to be written.
    pub(crate) async fn checkpoint(&self) -> anyhow::Result<()> {
        Database::connect(&variable("POSTRIDER_TEST_DATABASE_URL")?).await?.checkpoint().await
    }

    /// Waits until the dispatchers' audit has looked at all events that there are.
    pub(crate) async fn until_audited(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut said = began;
        while !self.database.is_audited(began.elapsed()).await? {
            ensure!(began.elapsed() < AUDIT_TIMEOUT, "after {AUDIT_TIMEOUT:?} the audit is not through");
            if said.elapsed() > Duration::from_secs(30) {
                progress("waiting for the audit, which is two to three minutes behind");
                said = Instant::now();
            }
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// Takes tenants out of the way of what comes next. `answer` is how their receivers answer.
    pub(crate) async fn put_away(&mut self, tenants: &[Tenant], answer: Answer) -> anyhow::Result<()> {
        for tenant in tenants {
            for webhook in &tenant.webhooks {
                self.product.delete_webhook(&tenant.token, *webhook).await?;
            }
        }
        self.forget_deliveries(tenants).await?;
        if answer == Answer::Never {
            sleep(UNTIL_NOTHING_HANGS).await;
        }
        // What was under way in the meantime may have left something again.
        self.forget_deliveries(tenants).await?;
        self.rest().await
    }

    async fn forget_deliveries(&self, tenants: &[Tenant]) -> anyhow::Result<()> {
        for tenant in tenants {
            self.database.forget_deliveries(tenant.id).await?;
        }
        Ok(())
    }

    async fn read(&self) -> anyhow::Result<Reading> {
        Ok(Reading { cpu: self.usage.cpu_milliseconds(), volume: self.database.volume().await? })
    }

    /// A connection of its own, as a service that publishes has.
    pub(crate) async fn broker_for_publishing(&self) -> anyhow::Result<Broker> {
        Broker::connect(&variable("POSTRIDER_AMQP_URL")?).await
    }

    /// The numbers that events get from now on.
    pub(crate) fn take_sequence(&self, count: u32) -> u32 {
        self.sequence.fetch_add(count, Ordering::Relaxed)
    }
}

pub(crate) fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set; use scripts/bench"))
}

fn account(
    name: &str,
    published: &Published,
    arrivals: &[Arrival],
    expected: usize,
) -> anyhow::Result<Measured> {
    let (first, repeats) = without_repeats(arrivals);
    let last = first.iter().map(|arrival| arrival.arrived_at).max().unwrap_or(published.ended);
    let seconds = last.max(published.ended).saturating_sub(published.began) as f64 / 1e6;
    let latency = percentiles(first.iter().map(Arrival::latency_micros))?;
    Ok(Measured {
        scenario: name.to_owned(),
        events: published.accepted.len(),
        deliveries: first.len(),
        seconds,
        events_per_second: published.accepted.len() as f64 / seconds,
        deliveries_per_second: first.len() as f64 / seconds,
        accepted_per_second: published.accepted.len() as f64 / published.seconds(),
        p50_ms: latency.p50,
        p99_ms: latency.p99,
        p999_ms: latency.p999,
        refused: published.refused,
        repeats,
        missing: expected.saturating_sub(first.len()),
        ..Measured::default()
    })
}
