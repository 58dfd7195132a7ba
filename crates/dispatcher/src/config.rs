//! What a dispatcher can be told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use broker::{BrokerConfig, Topology};
use domain::{Clock, EventLinks, Invalid, RetrySchedule, SystemClock, UrlPolicy};
use sender::NameServers;
use service::secret_files::SecretFile;
use service::settings::{ConfigError, Setting, Settings};
use service::telemetry::LogFormat;
use service::values::{self, Count, Milliseconds, Text};
use store::{Keyring, Store};
use traces::{Endpoint, Ratio, Tracer};

const ENCRYPTION_KEYS: Setting = values::encryption_keys::<Keyring>();
const DNS_SERVERS: Setting = values::dns_servers::<NameServers>();
const OTLP_ENDPOINT: Setting = values::otlp_endpoint::<Endpoint>();
const TRACE_RATIO: Setting = values::trace_ratio::<Ratio>();
const WEBHOOK_CONCURRENCY: Setting = Setting::optional::<Count<1, 1000>>(
    "webhook_concurrency",
    "64",
    "requests one dispatcher has under way at a time to a webhook without a concurrency cap of its own",
);
const MAX_IN_FLIGHT: Setting = Setting::optional::<Count<1, 100_000>>(
    "max_in_flight",
    "10000",
    "requests one dispatcher has under way in all, slow ones included",
);
const DRAIN_RATE: Setting = Setting::optional::<Count<1, 10_000>>(
    "drain_rate",
    "100",
    "deliveries a second of a backlog, after a pause or an outage, to a webhook that does not say otherwise",
);
const LEASE_MS: Setting = Setting::optional::<Milliseconds>(
    "lease_ms",
    "30000",
    "how long a dispatcher that went silent keeps what it has taken on, in milliseconds",
);
const PREFETCH: Setting = Setting::optional::<Count<1, 10_000>>(
    "prefetch",
    "256",
    "messages the broker sends a dispatcher ahead of their acknowledgement",
);
const DISABLE_AFTER_DAYS: Setting = Setting::optional::<Count<1, 365>>(
    "disable_after_days",
    "5",
    "days of nothing but failed attempts after which a webhook is switched off",
);
const DATABASE_CONNECTIONS: Setting = Setting::optional::<Count<2, 100>>(
    "dispatcher_database_connections",
    "8",
    "most connections a dispatcher opens to Postgres",
);

/// Every setting of the dispatcher.
pub const SETTINGS: &[Setting] = &[
    values::DATABASE_URL,
    values::AMQP_URL,
    values::AMQP_PREFIX,
    ENCRYPTION_KEYS,
    values::LOG,
    values::LOG_FORMAT,
    OTLP_ENDPOINT,
    TRACE_RATIO,
    values::RECEIVER_ALLOW_HTTP,
    values::RECEIVER_ALLOWED_NETWORKS,
    values::RECEIVER_DENIED_NETWORKS,
    values::RECEIVER_PORTS,
    values::DRAIN_TIMEOUT_MS,
    values::HEALTH_ADDRESS,
    DNS_SERVERS,
    values::PUBLIC_URL,
    values::RETRY_SCHEDULE,
    values::DELIVERY_TIMEOUT_MS,
    WEBHOOK_CONCURRENCY,
    MAX_IN_FLIGHT,
    DRAIN_RATE,
    LEASE_MS,
    PREFETCH,
    DISABLE_AFTER_DAYS,
    values::RETENTION_DAYS,
    DATABASE_CONNECTIONS,
];

/// Everything a dispatcher needs to run.
#[derive(Clone)]
pub struct Config {
    /// The database.
    pub store: Store,
    /// The broker.
    pub broker: BrokerConfig,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Which receivers are allowed.
    pub url_policy: UrlPolicy,
    /// The delays between attempts.
    pub retry_schedule: RetrySchedule,
    /// The deadline of an attempt.
    pub delivery_timeout: Duration,
    /// Requests under way to one webhook.
    pub webhook_concurrency: usize,
    /// Requests under way in all.
    pub max_in_flight: usize,
    /// Deliveries a second of a backlog.
    pub drain_rate: u32,
    /// Messages ahead of their acknowledgement.
    pub prefetch: u16,
    /// How often due and waiting deliveries are looked for.
    pub poll_interval: Duration,
    /// How long a dispatcher that went silent keeps what it has taken on; a delivery under way, its deadline longer.
    pub lease: Duration,
    /// How long every attempt may fail before a webhook is switched off.
    pub disable_after: Duration,
    /// Days that events and history are kept.
    pub retention_days: u32,
    /// Name servers that receivers are looked up with; none means the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// Where thin bodies link to.
    pub event_links: EventLinks,
    /// Which traces are kept.
    pub tracer: Tracer,
    /// How long a shutdown may take.
    pub drain_timeout: Duration,
}

/// What `main` needs besides [`Config`].
pub struct ProcessConfig {
    /// What is logged.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Where spans are sent, if anywhere, and of which part of new traces.
    pub traces: (Endpoint, Ratio),
    /// Where health is served.
    pub health_address: SocketAddr,
    /// The dispatcher itself.
    pub dispatcher: Config,
    /// Secrets that are in files, and taken on when they change.
    pub secret_files: Vec<SecretFile>,
}

impl Config {
    /// Defaults as documented, for the given database and broker.
    pub fn new(store: Store, broker: BrokerConfig) -> Self {
        Self {
            store,
            broker,
            clock: Arc::new(SystemClock),
            url_policy: UrlPolicy::default(),
            retry_schedule: RetrySchedule::default(),
            delivery_timeout: Duration::from_secs(15),
            webhook_concurrency: 64,
            max_in_flight: 10_000,
            drain_rate: 100,
            prefetch: 256,
            poll_interval: Duration::from_millis(200),
            lease: Duration::from_secs(30),
            disable_after: Duration::from_secs(5 * 86_400),
            retention_days: 30,
            dns_servers: Vec::new(),
            event_links: EventLinks::default(),
            tracer: Tracer::off(),
            drain_timeout: Duration::from_secs(25),
        }
    }
}

impl ProcessConfig {
    /// Reads the environment.
    pub fn load() -> Result<Self, ConfigError> {
        let settings = Settings::load(SETTINGS)?;
        let url: Text = settings.get(&values::DATABASE_URL)?;
        let connections: Count<2, 100> = settings.get(&DATABASE_CONNECTIONS)?;
        let store = Store::new(&url.0, connections.0 as usize)
            .map_err(|error| ConfigError::new(&values::DATABASE_URL, error))?
            .with_keys(settings.get(&ENCRYPTION_KEYS)?);
        let url: Text = settings.get(&values::AMQP_URL)?;
        let prefix: Text = settings.get(&values::AMQP_PREFIX)?;
        let broker = BrokerConfig::new(&url.0, Topology::new(prefix.0), "postrider dispatcher")
            .map_err(|error| ConfigError::new(&values::AMQP_URL, error))?;
        let schedule: RetrySchedule = settings.get(&values::RETRY_SCHEDULE)?;
        let retention_days = settings.get::<Count<1, 3650>>(&values::RETENTION_DAYS)?.0;
        let course: Duration = schedule.delays().iter().sum();
        if course.mul_f64(1.1) > Duration::from_secs(u64::from(retention_days) * 86_400) {
            let problem =
                format!("is shorter than a delivery may take by {}", values::RETRY_SCHEDULE.variable());
            return Err(ConfigError::new(&values::RETENTION_DAYS, problem));
        }
        let secret_files = secret_files(&settings, &store, &broker);
        let dispatcher = Config {
            url_policy: values::url_policy(&settings)?,
            retry_schedule: schedule,
            delivery_timeout: settings.get::<Milliseconds>(&values::DELIVERY_TIMEOUT_MS)?.0,
            webhook_concurrency: settings.get::<Count<1, 1000>>(&WEBHOOK_CONCURRENCY)?.0 as usize,
            max_in_flight: settings.get::<Count<1, 100_000>>(&MAX_IN_FLIGHT)?.0 as usize,
            drain_rate: settings.get::<Count<1, 10_000>>(&DRAIN_RATE)?.0,
            lease: settings.get::<Milliseconds>(&LEASE_MS)?.0,
            prefetch: u16::try_from(settings.get::<Count<1, 10_000>>(&PREFETCH)?.0).unwrap_or(u16::MAX),
            disable_after: Duration::from_secs(
                u64::from(settings.get::<Count<1, 365>>(&DISABLE_AFTER_DAYS)?.0) * 86_400,
            ),
            retention_days,
            dns_servers: settings.get::<NameServers>(&DNS_SERVERS)?.0,
            event_links: settings.get(&values::PUBLIC_URL)?,
            drain_timeout: settings.get::<Milliseconds>(&values::DRAIN_TIMEOUT_MS)?.0,
            ..Config::new(store, broker)
        };
        Ok(Self {
            log: settings.get::<Text>(&values::LOG)?.0,
            log_format: settings.get(&values::LOG_FORMAT)?,
            traces: (settings.get(&OTLP_ENDPOINT)?, settings.get(&TRACE_RATIO)?),
            health_address: settings.get(&values::HEALTH_ADDRESS)?,
            dispatcher,
            secret_files,
        })
    }
}

fn secret_files(settings: &Settings, store: &Store, broker: &BrokerConfig) -> Vec<SecretFile> {
    let (database, keys, broker) = (store.clone(), store.clone(), broker.clone());
    let said = |problem: Invalid| problem.to_string();
    let files = [
        settings.secret_file(&values::DATABASE_URL, move |url| database.replace_url(url).map_err(said)),
        settings.secret_file(&values::AMQP_URL, move |url| broker.replace_url(url).map_err(said)),
        settings.secret_file(&ENCRYPTION_KEYS, move |text| {
            keys.replace_keys(text.parse().map_err(said)?);
            Ok(())
        }),
    ];
    files.into_iter().flatten().collect()
}
