//! What a case breaks: private servers, which cases share, and a database, queues, processes and a receiver of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{TimeDelta, Utc};
use domain::{Scopes, TenantId};
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use service::access_token::{Caller, mint};
use test_support::{
    JWT_AUDIENCE, JWT_ISSUER, JWT_SECRET, Proxy, TestDatabase, server_of, service_url, through,
};
use tokio::time::{Instant, sleep};
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::load::{AmqpPublisher, Ledger, RestPublisher};
use crate::process::Process;
use crate::receiver::{Receiver, SECRET};

/// How long a process may take to be ready.
const START_TIME: Duration = Duration::from_secs(30);
/// How long a case waits for a recovery: longer than it may take.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(75);
/// How often a state that nothing announces is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(25);
/// How long a lease holds: short, so that what a killed dispatcher held comes back soon.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// The deadline of an attempt.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a process may take to drain.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The path that a world's first webhook is delivered to.
pub(crate) const PATH: &str = "/hook";

/// What all cases share.
pub(crate) struct Lab {
    /// `scripts/services`.
    pub(crate) services: PathBuf,
    /// The directory of the private servers.
    pub(crate) servers: PathBuf,
    /// Where cases leave their logs.
    pub(crate) logs: PathBuf,
    /// Where the product's programs are.
    pub(crate) binaries: PathBuf,
    /// Where those of the previous version are, or why they are not there.
    pub(crate) previous: Result<PathBuf, String>,
    /// Superuser, database `postgres`.
    pub(crate) database_url: String,
    pub(crate) amqp_url: String,
    /// Whether faults last as long as in the list of faults.
    pub(crate) long: bool,
    /// Whether cases are to be short.
    pub(crate) quick: bool,
}

impl Lab {
    /// Runs `scripts/services` and gives what it prints.
    pub(crate) async fn services(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.services);
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(
            output.status.success(),
            "scripts/services {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `kill -9` for `postgres` or `rabbitmq`.
    pub(crate) async fn kill_server(&self, server: &str) -> anyhow::Result<()> {
        self.services(&["kill", self.servers()?, server]).await.map(|_| ())
    }

    /// Stops the server in order if it runs, and starts it.
    pub(crate) async fn restart_server(&self, server: &str) -> anyhow::Result<()> {
        self.services(&["restart", self.servers()?, server]).await.map(|_| ())
    }

    pub(crate) async fn rabbitmqctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut all = vec!["ctl", self.servers()?];
        all.extend(arguments);
        self.services(&all).await
    }

    fn servers(&self) -> anyhow::Result<&str> {
        self.servers.to_str().context("the directory of the servers is not UTF-8")
    }
}

/// What a case wants its world to be.
pub(crate) struct Setup {
    pub(crate) dispatchers: usize,
    /// Settings of the dispatchers, besides or instead of the usual ones.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Settings of gateway and dispatchers.
    pub(crate) shared_settings: Vec<(&'static str, String)>,
    /// Further fields of the first webhook.
    pub(crate) webhook: Value,
    /// Brokers that form one cluster, instead of the shared one.
    pub(crate) brokers: Vec<String>,
    /// Another host than 127.0.0.1 in the webhook's URL.
    pub(crate) receiver_host: Option<&'static str>,
    /// Where the programs are that the first processes run.
    pub(crate) binaries: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            dispatchers: 1,
            settings: Vec::new(),
            shared_settings: Vec::new(),
            webhook: json!({}),
            brokers: Vec::new(),
            receiver_host: None,
            binaries: None,
        }
    }
}

/// One case's world. All that connects to a server does so through a proxy.
pub(crate) struct World {
    pub(crate) lab: Arc<Lab>,
    pub(crate) database_url: String,
    pub(crate) amqp_url: String,
    pub(crate) prefix: String,
    pub(crate) tenant: TenantId,
    pub(crate) gateway_database: Proxy,
    pub(crate) gateway_broker: Proxy,
    pub(crate) dispatcher_database: Proxy,
    pub(crate) dispatcher_broker: Proxy,
    /// What internal services, and the case itself, connect to.
    _services_broker: Proxy,
    pub(crate) gateway: Process,
    pub(crate) dispatchers: Vec<Process>,
    pub(crate) receiver: Receiver,
    pub(crate) ledger: Ledger,
    pub(crate) publisher: RestPublisher,
    /// The ids of the webhooks, by the path they are delivered to.
    pub(crate) webhooks: BTreeMap<String, String>,
    /// When the fault ended: when all that was broken was whole again.
    pub(crate) fault_ended: Option<Instant>,
    gateway_url: String,
    settings: Vec<(&'static str, String)>,
    shared_settings: Vec<(&'static str, String)>,
    logs: PathBuf,
    binaries: PathBuf,
    started: usize,
}

impl World {
    /// Makes one, with every process ready and one webhook that wants every event.
    pub(crate) async fn create(lab: &Arc<Lab>, name: &str, setup: Setup) -> anyhow::Result<Self> {
        // A template of the newest schema, unless the previous version is to make its own.
        let database_url = match setup.binaries {
            None => TestDatabase::create().await.url().to_owned(),
            Some(_) => TestDatabase::create_empty().await.url().to_owned(),
        };
        let brokers = if setup.brokers.is_empty() { vec![lab.amqp_url.clone()] } else { setup.brokers };
        let broker_addresses: Vec<SocketAddr> = brokers.iter().map(|url| server_of(url)).collect();
        let database_address = vec![server_of(&database_url)];
        let gateway_broker = Proxy::start(broker_addresses.clone()).await;
        let services_broker = Proxy::start(broker_addresses.clone()).await;
        let dispatcher_broker = Proxy::start(broker_addresses).await;
        let gateway_database = Proxy::start(database_address.clone()).await;
        let dispatcher_database = Proxy::start(database_address).await;
        let tenant = TenantId(Uuid::now_v7());
        let logs = lab.logs.join(name);
        std::fs::create_dir_all(&logs)?;
        let ledger = Ledger::default();
        let gateway_url = format!("http://{}", free_address()?);
        let publisher = RestPublisher::new(gateway_url.clone(), token(tenant)?, ledger.clone())?;
        let receiver = Receiver::start().await?;
        let binaries = setup.binaries.unwrap_or_else(|| lab.binaries.clone());
        let mut world = Self {
            lab: Arc::clone(lab),
            database_url,
            amqp_url: through(&brokers[0], services_broker.address()),
            prefix: format!("fault-{}", Uuid::now_v7().simple()),
            tenant,
            gateway: Process::none(),
            gateway_database,
            gateway_broker,
            dispatcher_database,
            dispatcher_broker,
            _services_broker: services_broker,
            dispatchers: Vec::new(),
            receiver,
            ledger,
            publisher,
            webhooks: BTreeMap::new(),
            fault_ended: None,
            gateway_url,
            settings: setup.settings,
            shared_settings: setup.shared_settings,
            logs,
            binaries,
            started: 0,
        };
        if world.binaries == lab.binaries {
            world.lift_limits().await?;
        } else {
            world.migrate().await?;
        }
        world.gateway = world.new_gateway()?;
        for _ in 0..setup.dispatchers {
            world.add_dispatcher()?;
        }
        world.wait_until_ready().await?;
        let url = match setup.receiver_host {
            None => world.receiver.url(PATH),
            Some(host) => format!("http://{host}:{}{PATH}", world.receiver.address.port()),
        };
        world.add_webhook(PATH, &url, setup.webhook).await?;
        Ok(world)
    }

    // --- processes -------------------------------------------------------------------------------------------------

    fn new_gateway(&self) -> anyhow::Result<Process> {
        self.gateway_at(&self.gateway_url.replace("http://", ""))
    }

    /// Starts another gateway, and says where it is.
    pub(crate) fn add_gateway(&self) -> anyhow::Result<(Process, SocketAddr)> {
        let address = free_address()?;
        Ok((self.gateway_at(&address.to_string())?, address))
    }

    /// Where the first gateway is.
    pub(crate) fn gateway_address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.gateway_url.replace("http://", "").parse()?)
    }

    fn gateway_at(&self, address: &str) -> anyhow::Result<Process> {
        let mut environment = self.environment("gateway", &self.gateway_database, &self.gateway_broker);
        environment.insert("POSTRIDER_HTTP_ADDRESS".into(), address.to_owned());
        environment.insert("POSTRIDER_HEALTH_ADDRESS".into(), "127.0.0.1:0".into());
        let program = self.binaries.join("api-gateway");
        Process::start("gateway", vec![program], environment, self.logs.join("gateway.log"))
    }

    /// Starts another dispatcher.
    pub(crate) fn add_dispatcher(&mut self) -> anyhow::Result<()> {
        let program = self.binaries.join("dispatcher");
        self.add_dispatcher_under(vec![program], &[])
    }

    /// Starts another dispatcher by a command that may begin with another program, with further environment.
    pub(crate) fn add_dispatcher_under(
        &mut self,
        command: Vec<PathBuf>,
        extra: &[(&str, String)],
    ) -> anyhow::Result<()> {
        self.started += 1;
        let mut environment =
            self.environment("dispatcher", &self.dispatcher_database, &self.dispatcher_broker);
        let own = self
            .settings
            .iter()
            .map(|(name, value)| (*name, value))
            .chain(extra.iter().map(|(name, value)| (*name, value)));
        environment.extend(own.map(|(name, value)| (name.to_owned(), value.clone())));
        environment.insert("POSTRIDER_HEALTH_ADDRESS".into(), free_address()?.to_string());
        let name = format!("dispatcher-{}", self.started);
        let log = self.logs.join(format!("{name}.log"));
        self.dispatchers.push(Process::start(&name, command, environment, log)?);
        Ok(())
    }

    /// From now on processes are those of another version.
    pub(crate) fn use_binaries(&mut self, binaries: &Path) {
        binaries.clone_into(&mut self.binaries);
    }

    /// Starts a gateway of the version in use, in the place of the one that ran.
    pub(crate) async fn replace_gateway(&mut self) -> anyhow::Result<()> {
        self.gateway.terminate(DRAIN_TIMEOUT * 2).await?;
        self.gateway = self.new_gateway()?;
        Ok(())
    }

    fn environment(&self, service: &str, database: &Proxy, broker: &Proxy) -> BTreeMap<String, String> {
        // The previous version may know of no roles; an update goes on from the owner to them.
        let database_url = if self.binaries == self.lab.binaries {
            service_url(&self.database_url, service)
        } else {
            self.database_url.clone()
        };
        let mut environment: BTreeMap<String, String> = [
            ("POSTRIDER_DATABASE_URL", through(&database_url, database.address())),
            ("POSTRIDER_AMQP_URL", through(&self.amqp_url, broker.address())),
            ("POSTRIDER_AMQP_PREFIX", self.prefix.clone()),
            ("POSTRIDER_JWT_SECRET", JWT_SECRET.to_owned()),
            ("POSTRIDER_ENCRYPTION_KEYS", test_support::ENCRYPTION_KEYS.to_owned()),
            ("POSTRIDER_JWT_ISSUER", JWT_ISSUER.to_owned()),
            ("POSTRIDER_JWT_AUDIENCE", JWT_AUDIENCE.to_owned()),
            ("POSTRIDER_LOG_FORMAT", "text".to_owned()),
            ("POSTRIDER_RECEIVER_ALLOW_HTTP", "true".to_owned()),
            ("POSTRIDER_RECEIVER_ALLOWED_NETWORKS", "127.0.0.0/8".to_owned()),
            ("POSTRIDER_LEASE_MS", LEASE.as_millis().to_string()),
            ("POSTRIDER_DELIVERY_TIMEOUT_MS", DELIVERY_TIMEOUT.as_millis().to_string()),
            ("POSTRIDER_DRAIN_TIMEOUT_MS", DRAIN_TIMEOUT.as_millis().to_string()),
            ("POSTRIDER_RETRY_SCHEDULE", "1s,1s,2s,2s,5s,5s,5s,5s,5s,5s".to_owned()),
            ("TZ", "UTC".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        environment
            .extend(self.shared_settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        environment
    }

    /// Waits until every process that runs is ready.
    pub(crate) async fn wait_until_ready(&self) -> anyhow::Result<()> {
        self.wait_until_ready_within(START_TIME).await
    }

    pub(crate) async fn wait_until_ready_within(&self, limit: Duration) -> anyhow::Result<()> {
        let dispatchers = self.dispatchers.iter().filter(|dispatcher| dispatcher.runs());
        let urls = dispatchers.filter_map(|dispatcher| dispatcher.setting("POSTRIDER_HEALTH_ADDRESS"));
        let urls: Vec<String> =
            urls.map(|address| format!("http://{address}")).chain([self.gateway_url.clone()]).collect();
        for url in urls {
            wait_until_answers(&url, limit).await?;
        }
        Ok(())
    }

    /// The first dispatcher.
    pub(crate) fn dispatcher(&mut self) -> &mut Process {
        &mut self.dispatchers[0]
    }

    /// Waits until an event that was accepted after the end of the fault is delivered. The oracle says what it means if
    /// none is.
    pub(crate) async fn await_recovery(&self) {
        let Some(ended) = self.fault_ended else { return };
        let recovered = async || {
            let accepted = self.ledger.accepted();
            let delivered = self.receiver.delivered(PATH);
            delivered.keys().any(|id| accepted.get(id).is_some_and(|at| *at >= ended)).then_some(())
        };
        let _ = eventually("recovery", RECOVERY_PATIENCE, recovered).await;
    }

    /// Says that all which was broken is whole again.
    pub(crate) fn fault_ends(&mut self) {
        self.fault_ended = Some(Instant::now());
    }

    /// Brings the schema to the version in use.
    pub(crate) async fn migrate(&self) -> anyhow::Result<()> {
        let (succeeded, text) = self.run_command(&["migrate"]).await?;
        ensure!(succeeded, "postrider migrate failed: {text}");
        self.lift_limits().await
    }

    /// No plan holds the load back. A schema of the previous version may have no such limits.
    async fn lift_limits(&self) -> anyhow::Result<()> {
        self.sql(
            "DO $$ BEGIN
                UPDATE plans SET events_per_minute = NULL, requests_per_minute = NULL;
            EXCEPTION WHEN undefined_column THEN NULL;
            END $$",
        )
        .await
    }

    /// Runs the command line, on the database itself, and gives what it prints and whether it succeeded.
    pub(crate) async fn run_command(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let mut command = Command::new(self.binaries.join("postrider"));
        command
            .args(arguments)
            .env_clear()
            .env("POSTRIDER_DATABASE_URL", &self.database_url)
            .env("NO_COLOR", "1");
        command.envs(self.shared_settings.iter().map(|(name, value)| (*name, value)));
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }

    // --- the API ---------------------------------------------------------------------------------------------------

    /// Calls the API; gives the status and the envelope.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(u16, Value)> {
        self.call_as(self.tenant, method, path, body).await
    }

    pub(crate) async fn call_as(
        &self,
        tenant: TenantId,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(u16, Value)> {
        let client = Client::builder().timeout(Duration::from_secs(20)).no_proxy().build()?;
        let mut request =
            client.request(method, format!("{}{path}", self.gateway_url)).bearer_auth(token(tenant)?);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_str(&response.text().await?).unwrap_or_default()))
    }

    /// Creates a webhook of the world's tenant that wants every event.
    pub(crate) async fn add_webhook(&mut self, path: &str, url: &str, extra: Value) -> anyhow::Result<()> {
        let id = self.add_webhook_of(self.tenant, url, extra).await?;
        self.webhooks.insert(path.to_owned(), id);
        Ok(())
    }

    pub(crate) async fn add_webhook_of(
        &self,
        tenant: TenantId,
        url: &str,
        extra: Value,
    ) -> anyhow::Result<String> {
        let mut body = json!({"url": url, "events": ["*"], "secret": SECRET});
        for (name, value) in extra.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let (status, envelope) = self.call_as(tenant, Method::POST, "/api/webhooks", Some(body)).await?;
        ensure!(status == 201, "the webhook was not created: {status} {envelope}");
        let id = envelope["data"]["id"].as_str().context("no id")?.to_owned();
        self.backdate(&id).await?;
        Ok(id)
    }

    /// Lets a webhook be older: the audit does not judge events of the seconds after a webhook was changed, in which
    /// clocks may differ.
    pub(crate) async fn backdate(&self, webhook: &str) -> anyhow::Result<()> {
        let earlier = "now() - interval '2 hours'";
        self.sql(&format!(
            "UPDATE webhooks SET created_at = {earlier}, updated_at = {earlier} WHERE id = '{webhook}'"
        ))
        .await
    }

    /// Puts deliveries that are due into the tables, as if their first attempts had been long ago.
    pub(crate) async fn insert_due(
        &self,
        tenant: TenantId,
        webhook: &str,
        label: &str,
        count: usize,
    ) -> anyhow::Result<()> {
        self.sql(&format!(
            r#"INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, session_id, body)
            SELECT 0, now(), now(), (now() AT TIME ZONE 'UTC')::date, '{tenant}', '{label}-' || n, 'message.sent', NULL,
                convert_to('{{"id":"{label}-' || n || '"}}', 'UTF8')
            FROM generate_series(0, {count} - 1) n;
            INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
            SELECT now(), now(), (now() AT TIME ZONE 'UTC')::date, 1, '{tenant}', '{webhook}', '{label}-' || n
            FROM generate_series(0, {count} - 1) n"#
        ))
        .await
    }

    /// A publisher of the world's tenant that goes another way to the gateways.
    pub(crate) fn publisher_at(&self, url: &str) -> anyhow::Result<RestPublisher> {
        RestPublisher::new(url.to_owned(), token(self.tenant)?, self.ledger.clone())
    }

    /// A publisher for another tenant, with a ledger of its own.
    pub(crate) fn publisher_of(&self, tenant: TenantId, ledger: Ledger) -> anyhow::Result<RestPublisher> {
        RestPublisher::new(self.gateway_url.clone(), token(tenant)?, ledger)
    }

    // --- the database ----------------------------------------------------------------------------------------------

    /// A connection of the harness' own, past the proxies.
    pub(crate) async fn client(&self) -> anyhow::Result<tokio_postgres::Client> {
        connect(&self.database_url).await
    }

    /// Runs statements.
    pub(crate) async fn sql(&self, statements: &str) -> anyhow::Result<()> {
        Ok(self.client().await?.batch_execute(statements).await?)
    }

    /// Runs statements as superuser from another database.
    pub(crate) async fn admin(&self, statements: &str) -> anyhow::Result<()> {
        Ok(connect(&self.lab.database_url).await?.batch_execute(statements).await?)
    }

    /// The name of the world's database.
    pub(crate) fn database_name(&self) -> &str {
        self.database_url.rsplit('/').next().unwrap_or_default()
    }

    /// The one number that a query gives.
    pub(crate) async fn count(&self, query: &str) -> anyhow::Result<i64> {
        Ok(self.client().await?.query_one(query, &[]).await?.get(0))
    }

    /// Waits until a query gives at least so much.
    pub(crate) async fn wait_for_count(
        &self,
        query: &str,
        at_least: i64,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let what = format!("{query} gives {at_least}");
        eventually(&what, limit, async || self.count(query).await.ok().filter(|count| *count >= at_least))
            .await?;
        Ok(())
    }

    /// Waits until so many requests have come in all.
    pub(crate) async fn wait_for_requests(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        let come = async || (self.receiver.requests() >= count).then_some(());
        eventually(&format!("{count} requests"), limit, come).await
    }

    // --- the broker ------------------------------------------------------------------------------------------------

    /// A bare connection and channel, past the proxies.
    pub(crate) async fn channel(&self) -> anyhow::Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.amqp_url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    /// Messages that wait in one of the world's queues, `dispatch` or `dead`.
    pub(crate) async fn waiting_in(&self, queue: &str) -> anyhow::Result<u32> {
        let (_connection, channel) = self.channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = format!("{}.{queue}", self.prefix);
        Ok(channel.queue_declare(queue.into(), options, FieldTable::default()).await?.message_count())
    }

    /// What internal services publish with.
    pub(crate) fn amqp_publisher(&self) -> AmqpPublisher {
        AmqpPublisher {
            url: self.amqp_url.clone(),
            exchange: format!("{}.events", self.prefix),
            tenant: self.tenant.to_string(),
            ledger: self.ledger.clone(),
        }
    }

    /// Ends every process and removes what the world has on the servers.
    pub(crate) async fn take_down(mut self) {
        self.dispatchers.clear();
        let _ = self.gateway.kill();
        let _ = self.admin(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database_name())).await;
        if let Ok((_connection, channel)) = self.channel().await {
            for queue in ["dispatch", "dead"] {
                let queue = format!("{}.{queue}", self.prefix);
                let _ = channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
            }
            for exchange in ["events", "ingest", "dead"] {
                let exchange = format!("{}.{exchange}", self.prefix);
                let _ = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await;
            }
        }
    }
}

/// Waits until the process there is ready.
pub(crate) async fn wait_until_answers(url: &str, limit: Duration) -> anyhow::Result<()> {
    let client = Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
    eventually(&format!("{url} is ready"), limit, async || {
        let answer = client.get(format!("{url}/health/ready")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await
}

/// Looks again and again until `look` gives something.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("not seen within {} s: {what}", limit.as_secs());
        }
        sleep(LOOK_PAUSE).await;
    }
}

pub(crate) async fn connect(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let mut config: tokio_postgres::Config = url.parse()?;
    // What a case asks must not hang on what the case has locked.
    config.options("-c statement_timeout=30s");
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A token of a tenant's, valid for the whole run and whatever a clock says.
fn token(tenant: TenantId) -> anyhow::Result<String> {
    let scopes = Scopes::from_claim("webhooks:read webhooks:write events:publish");
    let caller = Caller { subject: "faults".to_owned(), tenant_id: tenant, scopes };
    let secret = JWT_SECRET.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let now = Utc::now();
    let issued_at = now - TimeDelta::hours(2);
    Ok(mint(&secret, JWT_ISSUER, JWT_AUDIENCE, &caller, issued_at, now + TimeDelta::hours(24)))
}

/// An address that nothing listens on at the moment.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
