//! The REST API: parses requests, asks the store, publishes to the broker, answers in the contract's envelopes.

mod api_keys;
mod auth;
mod body;
mod catalogue;
pub mod config;
mod cursor;
mod envelope;
mod error;
mod etag;
mod hints;
mod http;
mod idempotency;
mod intake;
mod metrics;
mod openapi;
mod request_log;
mod request_origin;
mod routes;
mod schema;
mod settled;
mod spans;
mod state;
mod tenants;
mod test_runs;
mod token_keys;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use broker::{Intake, Publishers};
use prometheus_client::registry::Registry;
use sender::Sender;
use service::health::{self, Check, Readiness};
use service::shutdown::join_within;
use store::Store;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use config::{ClientLimits, Config};
pub use error::Code;
pub use http::client::{ForwardedHeader, Proxies, TrustedProxies};
pub use http::cors::Origins;
pub use schema::SchemaValidation;
pub use token_keys::{JwksUrl, TokenKeyConfig};

use crate::api_keys::ApiKeys;
use crate::catalogue::Catalogue;
use crate::http::deprecation;
use crate::http::middleware::Middleware;
use crate::http::queries::ProtectedRoutes;
use crate::http::strangers::Strangers;
use crate::intake::{Intakes, Orders};
use crate::metrics::Metrics;
use crate::settled::Settled;
use crate::state::State;
use crate::tenants::Tenants;
use crate::test_runs::TestRuns;
use crate::token_keys::TokenKeys;

/// How long a readiness check waits for the database.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A running gateway.
pub struct Gateway {
    address: SocketAddr,
    readiness: Readiness,
    publishers: Publishers,
    handle: ServerHandle,
    server: JoinHandle<()>,
    /// What writes down what tenants use and when API keys were used, and what reads the keys of tokens.
    background: [JoinHandle<()>; 3],
    stop_background: CancellationToken,
    drain_timeout: Duration,
}

impl Gateway {
    /// Binds the address and starts serving. Its metrics are added to `registry`. Must be called within a Tokio runtime.
    pub fn start(config: Config, registry: &mut Registry) -> anyhow::Result<Self> {
        let metrics = Metrics::register(registry);
        config.broker.register_metrics(registry);
        config.store.register_metrics(registry);
        let token_keys =
            Arc::new(TokenKeys::new(config.token_keys, &config.jwt_issuer, &config.jwt_audience)?);
        config.tracer.register_metrics(registry);
        let stop_background = CancellationToken::new();
        let clients = config.clients;
        // As many workers as would be anyway, but for a cap that gives each less than one connection.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = usize::try_from(clients.max_connections).unwrap_or(usize::MAX);
        let workers = cores.min(most).max(1);
        let publishers = workers * Intake::ALL.len();
        let publishers = Publishers::new(config.broker.clone(), config.publish_timeout, publishers);
        tokio::spawn(broker::watch_queues(config.broker.clone(), stop_background.clone()));
        let topology = config.broker.topology().clone();
        let orders = Orders::default();
        tokio::spawn(orders.clone().follow(config.store.clone(), stop_background.clone()));
        let tenants = Arc::new(Tenants::new(config.store.clone(), config.tenant_auto_create));
        let counting = tokio::spawn({
            let (tenants, stop) = (Arc::clone(&tenants), stop_background.clone());
            async move { tenants.follow(stop).await }
        });
        let api_keys = Arc::new(ApiKeys::new(config.store.clone()));
        let noting_use = tokio::spawn({
            let (api_keys, stop) = (Arc::clone(&api_keys), stop_background.clone());
            async move { api_keys.follow(stop).await }
        });
        let reading_keys = tokio::spawn({
            let (token_keys, stop) = (Arc::clone(&token_keys), stop_background.clone());
            async move { token_keys.follow(stop).await }
        });
        let readiness = readiness(config.store.clone(), publishers.clone(), Arc::clone(&token_keys));
        let state = web::Data::new(State {
            token_keys,
            api_keys,
            tenants,
            catalogue: Catalogue::new(config.store.clone()),
            settled: Settled::new(config.store.clone()),
            store: config.store,
            sender: Sender::new(
                config.url_policy.clone(),
                config.delivery_timeout,
                config.dns_servers,
                config.event_links,
            )?,
            url_policy: config.url_policy,
            test_runs: TestRuns::default(),
            retry_schedule: config.retry_schedule,
            schema_validation: config.schema_validation,
            retention: config.retention,
        });
        // Each HTTP worker has its own, on its thread.
        let intakes = {
            let (metrics, tracer) = (metrics.clone(), config.tracer.clone());
            let publishers = publishers.clone();
            move || {
                Intakes::start(&publishers, orders.clone(), metrics.clone(), tracer.clone(), topology.clone())
            }
        };
        let middleware = Arc::new(Middleware {
            tracer: config.tracer,
            origins: config.cors_origins,
            proxies: config.proxies,
            metrics,
            strangers: Strangers::new(clients.strangers_per_second),
            routes: ProtectedRoutes::of(&openapi::document()),
            deprecated: deprecation::routes(),
        });
        let served_readiness = readiness.clone();
        let server = HttpServer::new(move || {
            let middleware = Arc::clone(&middleware);
            App::new()
                .app_data(state.clone())
                .app_data(web::Data::new(intakes()))
                .app_data(web::Data::new(clients))
                .wrap(from_fn(move |request, next| Arc::clone(&middleware).answer(request, next)))
                .configure(health::routes(served_readiness.clone()))
                .configure(openapi::routes)
                .configure(crate::routes::all)
                .default_service(web::route().to(crate::routes::not_found))
        })
        .workers(workers)
        .max_connections(most / workers)
        .client_request_timeout(clients.header_timeout)
        .keep_alive(clients.keep_alive)
        .shutdown_timeout(config.drain_timeout.as_secs().max(1))
        .disable_signals()
        .bind(config.http_address)?;
        let address = server.addrs().first().copied().unwrap_or(config.http_address);
        let server = server.run();
        let handle = server.handle();
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the HTTP server failed");
            }
        });
        let drain_timeout = config.drain_timeout;
        let background = [counting, noting_use, reading_keys];
        Ok(Self {
            address,
            readiness,
            publishers,
            handle,
            server,
            background,
            stop_background,
            drain_timeout,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether events can be published.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Lets publishers that have nothing to do say goodbye, for a second at most. Then stops accepting, answers what is under
    /// way, and ends. Says whether all ended in time.
    pub async fn shut_down(self) -> bool {
        self.publishers.close().await;
        self.handle.stop(true).await;
        let served = join_within("HTTP server", self.server, self.drain_timeout).await;
        self.stop_background.cancel();
        let mut in_time = served;
        for task in self.background {
            in_time &= join_within("background task", task, Duration::from_secs(5)).await;
        }
        in_time
    }
}

/// Ready means: events can be published. The database is reported, but its absence does not take the gateway out of
/// service: events are accepted without it.
///
/// While the keys of access tokens were never read from their URL, that is reported too. A gateway that has no key from
/// elsewhere is out of service until then: others may have them.
fn readiness(store: Store, publishers: Publishers, token_keys: Arc<TokenKeys>) -> Readiness {
    Readiness::new(move || {
        let (store, publishers, token_keys) = (store.clone(), publishers.clone(), Arc::clone(&token_keys));
        async move {
            let database = matches!(timeout(PING_TIMEOUT, store.ping()).await, Ok(Ok(())));
            let mut checks = vec![
                Check::required("broker", publishers.are_ready()),
                Check::informative("database", database),
            ];
            if token_keys.has_url() {
                let (name, ok) = ("token keys", !token_keys.lacks_url());
                checks.push(Check { name, ok, required: token_keys.has_none() });
            }
            checks
        }
    })
}
