//! The dispatcher: takes events over from the broker, delivers them, writes down what happened, tries again.
//!
//! The path of an event is the order of the modules: [`hand_over`] → [`routing`] → [`feeding`] → [`engine`] (with
//! [`lanes`] and [`sender`]) → [`recorder`]; [`parked`] brings back what did not succeed at once.

mod clock;
pub mod config;
mod delivery;
mod engine;
mod exchanges;
mod feeding;
mod gates;
mod gathering;
mod hand_over;
mod lanes;
mod metrics;
mod parked;
mod recorder;
mod recovery;
mod relay;
mod routing;
mod spans;
mod sweep;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use broker::{Consumer, DeadLetters, DomainEvents, Intake};
use chrono::TimeDelta;
use prometheus_client::registry::Registry;
use sender::Sender;
use service::health::{Check, Readiness};
use service::shutdown::join_within;
use store::Store;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

pub use clock::SharedClock;
pub use config::Config;

use crate::engine::{Engine, EngineConfig};
use crate::feeding::Feeding;
use crate::hand_over::HandOver;
use crate::metrics::{Memory, Metrics};
use crate::parked::ParkedDeliveries;
use crate::recorder::{OpenBatches, Recorder};
use crate::recovery::Recoveries;
use crate::relay::Relay;
use crate::routing::Routing;

/// Notes that wait to be written down. When it is full, attempts wait with what they have to say.
const NOTE_QUEUE: usize = 4096;
/// How long the last results may take to be written down, even if the deadline has passed.
const RECORD_TIME: Duration = Duration::from_secs(2);
/// How long a readiness check waits for the database.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A running dispatcher.
pub struct Dispatcher {
    store: Store,
    engine: Arc<Engine>,
    consuming: Vec<watch::Receiver<bool>>,
    drain_timeout: Duration,
    /// No more work is taken on.
    stop: CancellationToken,
    /// The last acknowledgement is sent.
    done: CancellationToken,
    intake: Vec<(&'static str, JoinHandle<()>)>,
    recorder: JoinHandle<()>,
    leases: JoinHandle<()>,
    consumers: Vec<JoinHandle<()>>,
}

impl Dispatcher {
    /// Starts every task. Connects by itself, and again whenever a connection is lost. Its metrics are added to `registry`.
    pub fn start(config: Config, registry: &mut Registry) -> anyhow::Result<Self> {
        let metrics = Metrics::register(registry);
        config.broker.register_metrics(registry);
        config.store.register_metrics(registry);
        config.tracer.register_metrics(registry);
        let (stop, done) = (CancellationToken::new(), CancellationToken::new());
        let (notes, notes_received) = mpsc::channel(NOTE_QUEUE);
        let awaited = Arc::new(Notify::new());
        let open_batches = Arc::new(OpenBatches::default());
        let lease = config.delivery_timeout + config.lease;
        let engine = Engine::new(EngineConfig {
            dispatcher_id: Uuid::now_v7(),
            clock: Arc::clone(&config.clock),
            sender: Sender::new(
                config.url_policy,
                config.delivery_timeout,
                config.dns_servers,
                config.event_links,
            )?,
            schedule: config.retry_schedule,
            lease,
            webhook_concurrency: config.webhook_concurrency,
            max_in_flight: config.max_in_flight,
            disable_after: config.disable_after,
            metrics: metrics.clone(),
            tracer: config.tracer.clone(),
            notes,
            awaited: Arc::clone(&awaited),
        });
        registry.register_collector(Box::new(Memory(Arc::downgrade(&engine))));
        let routing = Arc::new(Routing::new(config.store.clone()));
        let waiting = Arc::new(Notify::new());
        let recorder = Recorder {
            store: config.store.clone(),
            dispatcher_id: engine.dispatcher_id,
            waiting: Arc::clone(&waiting),
            clock: config.clock,
            open_batches: Arc::clone(&open_batches),
            metrics: metrics.clone(),
            notes: notes_received,
            awaited,
        };
        let dead_letters = Arc::new(DeadLetters::new(config.broker.clone()));
        let relay = Relay {
            store: config.store.clone(),
            domain_events: DomainEvents::new(config.broker.clone()),
            dispatcher_id: engine.dispatcher_id,
            clock: Arc::clone(&engine.clock),
            lease,
            stop: stop.clone(),
        };
        let feeding = Arc::new(Feeding::new(Arc::clone(&engine), stop.clone()));
        let mut consuming = Vec::new();
        let mut consumers = Vec::new();
        let mut hand_over = |intake: Intake| {
            let (consumer, task) =
                Consumer::start(config.broker.clone(), intake, config.prefetch, stop.clone(), done.clone());
            consuming.push(consumer.readiness());
            consumers.push(task);
            HandOver {
                store: config.store.clone(),
                consumer,
                dead_letters: Arc::clone(&dead_letters),
                routing: Arc::clone(&routing),
                engine: Arc::clone(&engine),
                feeding: Arc::clone(&feeding),
                open_batches: Arc::clone(&open_batches),
                metrics: metrics.clone(),
                tracer: config.tracer.clone(),
                lease: config.lease,
                retention: TimeDelta::days(config.retention_days.into()),
                in_order: intake == Intake::InOrder,
                waiting: Arc::clone(&waiting),
                stop: stop.clone(),
            }
        };
        let (shared, in_order) = (hand_over(Intake::Shared), hand_over(Intake::InOrder));
        let recoveries = Recoveries {
            store: config.store.clone(),
            engine: Arc::clone(&engine),
            poll_interval: config.poll_interval,
            waiting: Arc::clone(&waiting),
            stop: stop.clone(),
        };
        let parked = ParkedDeliveries {
            store: config.store.clone(),
            routing,
            engine: Arc::clone(&engine),
            open_batches: Arc::clone(&open_batches),
            metrics: metrics.clone(),
            lease,
            batch_lease: config.lease,
            poll_interval: config.poll_interval,
            drain_rate: config.drain_rate,
            waiting,
            stop: stop.clone(),
        };
        let partitions = upkeep::maintain_partitions(
            config.store.clone(),
            Arc::clone(&engine),
            config.retention_days,
            stop.clone(),
        );
        let watch = upkeep::watch_database(
            config.store.clone(),
            Arc::clone(&engine.clock),
            metrics.clone(),
            stop.clone(),
        );
        let delivering = Delivering { engine: Arc::clone(&engine), stop: stop.clone() };
        let intake = vec![
            ("hand-over", delivering.spawn(shared.run())),
            ("hand-over in order", delivering.spawn(in_order.run())),
            ("due deliveries", delivering.spawn(parked.clone().run_due())),
            ("waiting deliveries", delivering.spawn(parked.clone().run_waiting())),
            ("take-over", delivering.spawn(parked.run_take_over())),
            ("domain events", tokio::spawn(relay.run())),
            ("recoveries", tokio::spawn(recoveries.run())),
            ("partitions", tokio::spawn(partitions)),
            ("metrics", tokio::spawn(watch)),
            (
                "health",
                tokio::spawn(upkeep::follow_health(config.store.clone(), Arc::clone(&engine), stop.clone())),
            ),
            (
                "audit",
                tokio::spawn(sweep::run(config.store.clone(), Arc::clone(&engine), metrics, stop.clone())),
            ),
            ("parking", tokio::spawn(upkeep::park_overdue(Arc::clone(&engine), stop.clone()))),
        ];
        let leases = upkeep::renew_leases(
            config.store.clone(),
            engine.dispatcher_id,
            Arc::clone(&engine.clock),
            open_batches,
            config.lease,
            done.clone(),
        );
        Ok(Self {
            store: config.store,
            engine,
            consuming,
            drain_timeout: config.drain_timeout,
            stop,
            done,
            intake,
            recorder: tokio::spawn(recorder.run()),
            leases: tokio::spawn(leases),
            consumers,
        })
    }

    /// Ready means: messages come from the broker, and the database answers.
    pub fn readiness(&self) -> Readiness {
        let (store, consuming) = (self.store.clone(), self.consuming.clone());
        Readiness::new(move || {
            let store = store.clone();
            let is_consuming = consuming.iter().all(|consuming| *consuming.borrow());
            async move {
                let database = matches!(timeout(PING_TIMEOUT, store.ping()).await, Ok(Ok(())));
                vec![Check::required("database", database), Check::required("broker", is_consuming)]
            }
        })
    }

    /// Takes on nothing more, lets what is under way end within the deadline, writes it down, and gives the rest up to
    /// the other dispatchers. Says whether all ended in time.
    pub async fn shut_down(self) -> bool {
        let deadline = Instant::now() + self.drain_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let dispatcher_id = self.engine.dispatcher_id;
        let clock = Arc::clone(&self.engine.clock);
        self.stop.cancel();
        let mut in_time = true;
        for (name, task) in self.intake {
            in_time &= join_within(name, task, left()).await;
        }
        self.engine.park_all().await;
        while self.engine.under_way() > 0 && !left().is_zero() {
            tokio::select! {
                () = self.engine.room.notified() => {}
                () = sleep(left().min(Duration::from_millis(100))) => {}
            }
        }
        let unfinished = self.engine.under_way();
        if unfinished > 0 {
            warn!(unfinished, "requests are still under way; other dispatchers make them again");
            self.engine.abandon_requests();
            in_time = false;
        }
        // The recorder ends when nobody holds the engine any more, after it has written the last result down.
        drop(self.engine);
        in_time &= join_within("recorder", self.recorder, left().max(RECORD_TIME)).await;
        let now = clock.now();
        let released = async {
            let batches = self.store.expire_batches(dispatcher_id, now).await?;
            let deliveries = self.store.release_deliveries(dispatcher_id, now).await?;
            Ok::<_, store::StoreError>((batches, deliveries))
        };
        match timeout(PING_TIMEOUT, released).await {
            Ok(Ok((batches, deliveries))) => info!(batches, deliveries, "what was not finished is released"),
            Ok(Err(error)) => warn!(%error, "what was not finished comes back when its leases run out"),
            Err(_) => warn!("what was not finished comes back when its leases run out"),
        }
        self.done.cancel();
        join_within("leases", self.leases, Duration::from_secs(2)).await;
        for consumer in self.consumers {
            join_within("consumer", consumer, Duration::from_secs(6)).await;
        }
        in_time
    }
}

/// Starts what delivers, once it is known which receivers are to be left in peace.
struct Delivering {
    engine: Arc<Engine>,
    stop: CancellationToken,
}

impl Delivering {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let (engine, stop) = (Arc::clone(&self.engine), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = engine.health_known.wait() => {}
                () = stop.cancelled() => {}
            }
            work.await;
        })
    }
}
