//! What a gateway can be told.

use std::net::SocketAddr;
use std::time::Duration;

use broker::{BrokerConfig, Topology};
use domain::{EventLinks, Invalid, RetrySchedule, UrlPolicy};
use sender::NameServers;
use service::secret_files::SecretFile;
use service::settings::{ConfigError, Setting, Settings};
use service::telemetry::LogFormat;
use service::values::{self, Count, Milliseconds, Perhaps, Text};
use store::{Keyring, Store};
use tokio::sync::watch;
use traces::{Endpoint, Ratio, Tracer};

use crate::http::client::{ForwardedHeader, Proxies, TrustedProxies};
use crate::http::cors::Origins;
use crate::schema::SchemaValidation;
use crate::token_keys::{JwksUrl, TokenKeyConfig};

const ENCRYPTION_KEYS: Setting = values::encryption_keys::<Keyring>();
const DNS_SERVERS: Setting = values::dns_servers::<NameServers>();
const OTLP_ENDPOINT: Setting = values::otlp_endpoint::<Endpoint>();
const TRACE_RATIO: Setting = values::trace_ratio::<Ratio>();
const HTTP_ADDRESS: Setting =
    Setting::optional::<SocketAddr>("http_address", "0.0.0.0:8080", "where the REST API is served");
const JWT_JWKS_URL: Setting = Setting::optional::<Perhaps<JwksUrl>>(
    "jwt_jwks_url",
    "",
    "where the keys of access tokens are served as a JSON Web Key Set: https, or http on this machine; read every 5 minutes, and for a key that is not known",
);
const TENANT_AUTO_CREATE: Setting = Setting::optional::<bool>(
    "tenant_auto_create",
    "true",
    "whether a verified token of an unknown tenant makes the tenant known",
);
const SCHEMA_VALIDATION: Setting = Setting::optional::<SchemaValidation>(
    "schema_validation",
    "off",
    "what is done about events published over REST whose data is not as their type's JSON Schema says: nothing (`off`), they are \
     accepted with `warnings` (`warn`), or refused (`reject`)",
);
const PUBLISH_TIMEOUT_MS: Setting = Setting::optional::<Milliseconds>(
    "publish_timeout_ms",
    "5000",
    "how long an event waits for the broker's confirm before 503, in milliseconds",
);
const CORS_ORIGINS: Setting = Setting::optional::<Origins>(
    "cors_origins",
    "",
    "origins whose web pages may call the API, like `https://app.example.com,http://localhost:3000`, or `*`; none: pages of no other origin",
);
const TRUSTED_PROXIES: Setting = Setting::optional::<TrustedProxies>(
    "trusted_proxies",
    "",
    "networks of the proxies before the gateway, like `10.0.0.0/8,fd00::/8`: what they say of where a request comes from is believed; none: nobody is",
);
const FORWARDED_HEADER: Setting = Setting::optional::<ForwardedHeader>(
    "forwarded_header",
    "X-Forwarded-For",
    "where trusted proxies say it: `X-Forwarded-For` or `Forwarded`",
);
const MAX_CONNECTIONS: Setting = Setting::optional::<Count<1, 1_000_000>>(
    "max_connections",
    "20000",
    "connections of clients that one gateway has open; further ones wait until some end",
);
const UNAUTHENTICATED_RATE: Setting = Setting::optional::<Count<0, 100_000>>(
    "unauthenticated_rate",
    "20",
    "requests a second that one address (of IPv6: one /64 network) may make without a valid token or key, five seconds' worth at once; 0: any number",
);
const DATABASE_CONNECTIONS: Setting = Setting::optional::<Count<1, 100>>(
    "gateway_database_connections",
    "8",
    "most connections a gateway opens to Postgres",
);

/// Every setting of the gateway.
pub const SETTINGS: &[Setting] = &[
    values::DATABASE_URL,
    values::AMQP_URL,
    values::AMQP_PREFIX,
    values::JWT_SECRET,
    values::JWT_JWKS_FILE,
    JWT_JWKS_URL,
    values::JWT_ISSUER,
    values::JWT_AUDIENCE,
    ENCRYPTION_KEYS,
    values::LOG,
    values::LOG_FORMAT,
    OTLP_ENDPOINT,
    TRACE_RATIO,
    values::RECEIVER_ALLOW_HTTP,
    values::RECEIVER_ALLOWED_NETWORKS,
    values::RECEIVER_DENIED_NETWORKS,
    values::RECEIVER_PORTS,
    values::PUBLIC_URL,
    values::RETRY_SCHEDULE,
    values::RETENTION_DAYS,
    values::DRAIN_TIMEOUT_MS,
    values::DELIVERY_TIMEOUT_MS,
    DNS_SERVERS,
    HTTP_ADDRESS,
    values::HEALTH_ADDRESS,
    TENANT_AUTO_CREATE,
    SCHEMA_VALIDATION,
    PUBLISH_TIMEOUT_MS,
    CORS_ORIGINS,
    TRUSTED_PROXIES,
    FORWARDED_HEADER,
    MAX_CONNECTIONS,
    UNAUTHENTICATED_RATE,
    DATABASE_CONNECTIONS,
];

/// What clients may do before it is known who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// How long a client may take to send its request line and headers.
    pub header_timeout: Duration,
    /// How long it may take to send its request body.
    pub body_timeout: Duration,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// Connections open at a time.
    pub max_connections: u32,
    /// Requests of one address without a valid token or key; 0: any number.
    pub strangers_per_second: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(75),
            max_connections: 20_000,
            strangers_per_second: 20,
        }
    }
}

/// Everything a gateway needs to run.
pub struct Config {
    /// Where it listens; port 0 takes any that is free.
    pub http_address: SocketAddr,
    /// The database.
    pub store: Store,
    /// The broker.
    pub broker: BrokerConfig,
    /// How long an event waits for the broker's confirm.
    pub publish_timeout: Duration,
    /// Where the keys of access tokens come from.
    pub token_keys: TokenKeyConfig,
    /// Who issues access tokens.
    pub jwt_issuer: String,
    /// Whom access tokens are for.
    pub jwt_audience: String,
    /// Whether a verified token makes its tenant known.
    pub tenant_auto_create: bool,
    /// Which receivers are allowed.
    pub url_policy: UrlPolicy,
    /// The deadline of a test.
    pub delivery_timeout: Duration,
    /// Name servers that receivers are looked up with; none: the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// The delays between attempts of webhooks without a schedule of their own.
    pub retry_schedule: RetrySchedule,
    /// What is done about data that is not as its type's schema says.
    pub schema_validation: SchemaValidation,
    /// How long events are kept.
    pub retention: Duration,
    /// Where thin bodies link to.
    pub event_links: EventLinks,
    /// Whose web pages may call the API.
    pub cors_origins: Origins,
    /// The proxies before it.
    pub proxies: Proxies,
    /// Which traces are kept.
    pub tracer: Tracer,
    /// What clients may do before it is known who they are.
    pub clients: ClientLimits,
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
    /// Where health and metrics are served, apart from the API.
    pub health_address: SocketAddr,
    /// The gateway itself.
    pub gateway: Config,
    /// Secrets that are in files, and taken on when they change.
    pub secret_files: Vec<SecretFile>,
}

impl ProcessConfig {
    /// Reads the environment.
    pub fn load() -> Result<Self, ConfigError> {
        let settings = Settings::load(SETTINGS)?;
        let url: Text = settings.get(&values::DATABASE_URL)?;
        let connections: Count<1, 100> = settings.get(&DATABASE_CONNECTIONS)?;
        let store = Store::new(&url.0, connections.0 as usize)
            .map_err(|error| ConfigError::new(&values::DATABASE_URL, error))?
            .with_keys(settings.get(&ENCRYPTION_KEYS)?);
        let url: Text = settings.get(&values::AMQP_URL)?;
        let prefix: Text = settings.get(&values::AMQP_PREFIX)?;
        let broker = BrokerConfig::new(&url.0, Topology::new(prefix.0), "postrider gateway")
            .map_err(|error| ConfigError::new(&values::AMQP_URL, error))?
            .only_publishing();
        let token_keys = token_keys(&settings)?;
        let secret_files = secret_files(&settings, &store, &broker, &token_keys);
        let gateway = Config {
            http_address: settings.get(&HTTP_ADDRESS)?,
            store,
            broker,
            publish_timeout: settings.get::<Milliseconds>(&PUBLISH_TIMEOUT_MS)?.0,
            token_keys,
            jwt_issuer: settings.get::<Text>(&values::JWT_ISSUER)?.0,
            jwt_audience: settings.get::<Text>(&values::JWT_AUDIENCE)?.0,
            tenant_auto_create: settings.get(&TENANT_AUTO_CREATE)?,
            url_policy: values::url_policy(&settings)?,
            delivery_timeout: settings.get::<Milliseconds>(&values::DELIVERY_TIMEOUT_MS)?.0,
            dns_servers: settings.get::<NameServers>(&DNS_SERVERS)?.0,
            retry_schedule: settings.get(&values::RETRY_SCHEDULE)?,
            schema_validation: settings.get(&SCHEMA_VALIDATION)?,
            retention: values::retention(&settings)?,
            event_links: settings.get(&values::PUBLIC_URL)?,
            clients: ClientLimits {
                max_connections: settings.get::<Count<1, 1_000_000>>(&MAX_CONNECTIONS)?.0,
                strangers_per_second: settings.get::<Count<0, 100_000>>(&UNAUTHENTICATED_RATE)?.0,
                ..ClientLimits::default()
            },
            cors_origins: settings.get(&CORS_ORIGINS)?,
            proxies: Proxies {
                trusted: settings.get(&TRUSTED_PROXIES)?,
                header: settings.get(&FORWARDED_HEADER)?,
            },
            tracer: Tracer::off(),
            drain_timeout: settings.get::<Milliseconds>(&values::DRAIN_TIMEOUT_MS)?.0,
        };
        Ok(Self {
            log: settings.get::<Text>(&values::LOG)?.0,
            log_format: settings.get(&values::LOG_FORMAT)?,
            traces: (settings.get(&OTLP_ENDPOINT)?, settings.get(&TRACE_RATIO)?),
            health_address: settings.get(&values::HEALTH_ADDRESS)?,
            gateway,
            secret_files,
        })
    }
}

fn token_keys(settings: &Settings) -> Result<TokenKeyConfig, ConfigError> {
    let file: String = settings.get(&values::JWT_JWKS_FILE)?;
    let keys = TokenKeyConfig {
        secret: watch::Sender::new(settings.get::<Perhaps<_>>(&values::JWT_SECRET)?.0),
        file: (!file.is_empty()).then(|| file.into()),
        url: settings.get::<Perhaps<_>>(&JWT_JWKS_URL)?.0,
    };
    if keys.is_empty() {
        let also = [values::JWT_JWKS_FILE.variable(), JWT_JWKS_URL.variable()].join(" and ");
        let problem =
            format!("is not set, nor are {also}; one of them must say what access tokens are verified with");
        return Err(ConfigError::new(&values::JWT_SECRET, problem));
    }
    Ok(keys)
}

fn secret_files(
    settings: &Settings,
    store: &Store,
    broker: &BrokerConfig,
    token_keys: &TokenKeyConfig,
) -> Vec<SecretFile> {
    let token_secret = token_keys.secret.clone();
    let (database, keys, broker) = (store.clone(), store.clone(), broker.clone());
    let said = |problem: Invalid| problem.to_string();
    let files = [
        settings.secret_file(&values::DATABASE_URL, move |url| database.replace_url(url).map_err(said)),
        settings.secret_file(&values::AMQP_URL, move |url| broker.replace_url(url).map_err(said)),
        settings.secret_file(&ENCRYPTION_KEYS, move |text| {
            keys.replace_keys(text.parse().map_err(said)?);
            Ok(())
        }),
        // Never to nothing: a file that lost its content must not turn every token away.
        settings.secret_file(&values::JWT_SECRET, move |text| {
            token_secret.send_replace(Some(text.parse().map_err(said)?));
            Ok(())
        }),
    ];
    files.into_iter().flatten().collect()
}
