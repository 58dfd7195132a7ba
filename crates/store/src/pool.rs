use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool::managed::QueueMode;
use deadpool_postgres::{
    Connect, Hook, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts,
};
use domain::Invalid;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};

use crate::connecting::Target;
use crate::hand_over::LastRepeat;
use crate::metrics::{Connecting, Metrics};
use crate::{Keyring, Origin, StoreError};

/// How long to wait for a free connection, and for a new one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// No statement of Postrider's takes nearly as long; one that does has met a fault and must not hang.
const STATEMENT_TIMEOUT_MS: u32 = 20_000;
/// A server that says nothing for longer than any statement takes does not answer any more.
const PATIENCE: Duration = Duration::from_secs(25);
/// A migration may take however long it takes.
const FOR_EVER: Duration = Duration::from_secs(30 * 86_400);
/// No transaction of Postrider's waits for anything but the database. One that does belongs to a process whose machine is
/// gone; the database must not keep its locks until TCP notices, which takes two hours.
const IDLE_IN_TRANSACTION_TIMEOUT_MS: u32 = 10_000;
/// Tables of unfinished work are empty at one moment and hold a million rows at the next: what the planner knows of them is
/// wrong as a rule, and planning anew each time costs more than most statements. So each statement is planned once, for the
/// indexes it was written for. A table without a fitting index is read whole all the same; the price the planner then sees is
/// no reason to compile anything.
const PLANNING: &str =
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off -c jit=off";
/// A peer that vanished without a word is noticed after about this long.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// A pool of connections to the database. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: Pool,
    target: Arc<RwLock<Target>>,
    pub(crate) metrics: Metrics,
    keys: Arc<RwLock<Keyring>>,
    pub(crate) last_repeat: Arc<LastRepeat>,
    /// On whose behalf it changes things; none: on Postrider's own.
    pub(crate) origin: Option<Arc<Origin>>,
}

impl Store {
    /// Prepares a pool of at most `connections`. Connects to nothing yet, so it succeeds while the database is down.
    pub fn new(url: &str, connections: usize) -> Result<Self, Invalid> {
        let target = prepared(url)?;
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let config = target.config.clone();
        let target = Arc::new(RwLock::new(target));
        let manager = Manager::from_connect(config, Connector(Arc::clone(&target)), manager_config);
        let metrics = Metrics::default();
        let opened = metrics.connections.clone();
        let count_opened = Hook::sync_fn(move |_, _| {
            opened.of(Connecting::Connected).inc();
            Ok(())
        });
        let pool = Pool::builder(manager)
            .post_create(count_opened)
            .max_size(connections)
            // The one used last has what it needs in the caches of the processor, and in its own.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(CONNECTION_TIMEOUT),
                create: Some(CONNECTION_TIMEOUT),
                recycle: Some(CONNECTION_TIMEOUT),
            })
            .build()
            .map_err(|error| Invalid::new(format!("the database pool cannot be made: {error}")))?;
        Ok(Self { pool, target, metrics, keys: Arc::default(), last_repeat: Arc::default(), origin: None })
    }

    /// The same store, with the keys of the secrets in it. Without them none can be read or written.
    #[must_use]
    pub fn with_keys(self, keys: Keyring) -> Self {
        Self { keys: Arc::new(RwLock::new(keys)), ..self }
    }

    /// From now on secrets are read and written with these keys, by all clones of this store.
    pub fn replace_keys(&self, keys: Keyring) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// From now on connections are opened to this URL, by all clones of this store. Those that are open stay.
    pub fn replace_url(&self, url: &str) -> Result<(), Invalid> {
        let target = prepared(url)?;
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = target;
        Ok(())
    }

    /// Asks the database for an answer, to know whether it gives any.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.connection().await?.simple_query("-- ping\nSELECT 1").await?;
        Ok(())
    }

    /// What time it is for the database, which all processes share.
    pub async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached("-- time\nSELECT clock_timestamp()").await?;
        Ok(client.query_one(&statement, &[]).await?.get(0))
    }

    /// A connection of its own that waits for as long as a statement takes.
    pub(crate) async fn patient_connection(&self) -> Result<Client, StoreError> {
        let target = Connector(Arc::clone(&self.target)).target();
        Ok(target.connect(FOR_EVER).await?.0)
    }

    pub(crate) fn keys(&self) -> Keyring {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn connection(&self) -> Result<Object, StoreError> {
        let count_failed = |_: &_| _ = self.metrics.connections.of(Connecting::Failed).inc();
        Ok(self.pool.get().await.inspect_err(count_failed)?)
    }
}

/// Connects to wherever the database is now.
struct Connector(Arc<RwLock<Target>>);

impl Connector {
    fn target(&self) -> Target {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Connect for Connector {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let target = self.target();
        Box::pin(async move { target.connect(PATIENCE).await })
    }
}

fn prepared(url: &str) -> Result<Target, Invalid> {
    let mut target: Target = url.parse()?;
    let config = &mut target.config;
    if config.get_application_name().is_none() {
        config.application_name("postrider");
    }
    if config.get_options().is_none() {
        config.options(format!(
            "-c statement_timeout={STATEMENT_TIMEOUT_MS} \
             -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} -c timezone=UTC {PLANNING}"
        ));
    }
    config.connect_timeout(CONNECTION_TIMEOUT).tcp_user_timeout(TCP_USER_TIMEOUT);
    config
        .keepalives_idle(TCP_USER_TIMEOUT)
        .keepalives_retries(2)
        .keepalives_interval(Duration::from_secs(3));
    Ok(target)
}
