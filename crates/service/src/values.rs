//! Types of settings, and the settings that several binaries share.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use domain::{AddressPolicy, EventLinks, Invalid, IpNet, PortPolicy, RetrySchedule, UrlPolicy};

use crate::settings::{ConfigError, Setting, Settings};

/// Text that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl FromStr for Text {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.trim().is_empty() {
            return Err(Invalid::new("must not be empty"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A whole number of milliseconds, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(pub Duration);

impl FromStr for Milliseconds {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            Ok(milliseconds @ 1..=86_400_000) => Ok(Self(Duration::from_millis(milliseconds))),
            _ => Err(Invalid::new("must be milliseconds: a whole number from 1 to 86400000")),
        }
    }
}

/// A whole number within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> FromStr for Count<MIN, MAX> {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse::<u32>() {
            Ok(count) if (MIN..=MAX).contains(&count) => Ok(Self(count)),
            _ => Err(Invalid::new(format!("must be a whole number from {MIN} to {MAX}"))),
        }
    }
}

/// A value, or nothing: an empty text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Perhaps<T>(pub Option<T>);

impl<T: FromStr> FromStr for Perhaps<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|value| Self(Some(value))) }
    }
}

/// Networks in CIDR notation, separated by commas.
#[derive(Debug, Clone, Default)]
pub struct Networks(pub Vec<IpNet>);

impl FromStr for Networks {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let networks = text
            .split(',')
            .map(str::trim)
            .filter(|network| !network.is_empty())
            .map(|network| {
                network.parse().map_err(|_| {
                    Invalid::new(format!("{network:?} is not a network like 10.0.0.0/8 or fd00::/8"))
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self(networks))
    }
}

/// The shared secret that access tokens are signed with: at least 32 bytes. Never printed.
#[derive(Clone)]
pub struct JwtSecret(String);

impl JwtSecret {
    /// The bytes of the key.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FromStr for JwtSecret {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() < 32 {
            return Err(Invalid::new("must be at least 32 bytes long"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(redacted)")
    }
}

/// Where Postgres is.
pub const DATABASE_URL: Setting =
    Setting::required::<Text>("database_url", "Postgres: `postgres://user:password@host:port/database`")
        .secret();
/// Where RabbitMQ is.
pub const AMQP_URL: Setting =
    Setting::required::<Text>("amqp_url", "RabbitMQ: `amqp://user:password@host:port/%2f`").secret();
/// How exchanges and queues are called.
pub const AMQP_PREFIX: Setting = Setting::optional::<Text>(
    "amqp_prefix",
    "postrider",
    "what the names of exchanges and queues begin with",
);
/// Where operators look.
pub const HEALTH_ADDRESS: Setting = Setting::optional::<SocketAddr>(
    "health_address",
    "0.0.0.0:8081",
    "where `/health/live`, `/health/ready` and `/metrics` are served",
);
/// What is logged.
pub const LOG: Setting = Setting::optional::<Text>(
    "log",
    "info",
    "what is logged: a level, or directives such as `info,dispatcher=debug`",
);
/// How it is logged.
pub const LOG_FORMAT: Setting =
    Setting::optional::<crate::telemetry::LogFormat>("log_format", "json", "`json` or `text`");
/// Whether receivers may be reached without TLS.
pub const RECEIVER_ALLOW_HTTP: Setting = Setting::optional::<bool>(
    "receiver_allow_http",
    "false",
    "whether receivers may use `http://`; payloads then travel in clear text",
);
/// Which special networks receivers may be in.
pub const RECEIVER_ALLOWED_NETWORKS: Setting = Setting::optional::<Networks>(
    "receiver_allowed_networks",
    "",
    "networks that are not public but may be delivered to, like `10.1.0.0/16,fd00::/8`",
);
/// Which public networks receivers may not be in.
pub const RECEIVER_DENIED_NETWORKS: Setting = Setting::optional::<Networks>(
    "receiver_denied_networks",
    "",
    "networks that must not be delivered to although they are public or allowed, like your own `198.51.100.0/24`",
);
/// Which ports receivers may be on.
pub const RECEIVER_PORTS: Setting = Setting::optional::<PortPolicy>(
    "receiver_ports",
    "",
    "the only ports that receivers may use, like `443,8443`; none: all but those of other protocols, which browsers refuse too",
);
/// The delays between attempts.
pub const RETRY_SCHEDULE: Setting = Setting::optional::<RetrySchedule>(
    "retry_schedule",
    "5s,5m,30m,2h,5h,10h,14h,20h,24h",
    "the delays between attempts (s, m, h, d), each moved by up to 10 % either way, unless a webhook has its own; the gateway shows them",
);
/// How long things are kept.
pub const RETENTION_DAYS: Setting =
    Setting::optional::<Count<1, 3650>>("retention_days", "30", "days that events and history are kept");
/// How long a shutdown may take.
pub const DRAIN_TIMEOUT_MS: Setting = Setting::optional::<Milliseconds>(
    "drain_timeout_ms",
    "25000",
    "how long work under way may take after SIGTERM, in milliseconds",
);
/// The key of access tokens.
pub const JWT_SECRET: Setting = Setting::optional::<Perhaps<JwtSecret>>(
    "jwt_secret",
    "",
    "the HS256 secret of access tokens, at least 32 bytes; a gateway needs it, or one of the key sets",
)
.secret();
/// A file with the keys of access tokens.
pub const JWT_JWKS_FILE: Setting = Setting::optional::<String>(
    "jwt_jwks_file",
    "",
    "a file with the keys of access tokens, a JSON Web Key Set; it is read again when it changes",
);
/// Who issues access tokens.
pub const JWT_ISSUER: Setting =
    Setting::required::<Text>("jwt_issuer", "the `iss` that access tokens must have");
/// Whom access tokens are for.
pub const JWT_AUDIENCE: Setting =
    Setting::required::<Text>("jwt_audience", "the `aud` that access tokens must have");

/// What secrets are encrypted with. `T` is the store's keyring, which this crate does not know.
pub const fn encryption_keys<T: FromStr<Err: fmt::Display>>() -> Setting {
    let help = "the keys of webhook secrets, as `id:base64`, separated by commas; the first one encrypts. `postrider keys generate` makes one";
    Setting::required::<T>("encryption_keys", help).secret()
}

/// Where the API is for those outside.
pub const PUBLIC_URL: Setting = Setting::optional::<EventLinks>(
    "public_url",
    "",
    "where receivers reach the REST API, like `https://api.example.com`: thin bodies link to their event there; none: the links are relative",
);
/// How long an attempt may take.
pub const DELIVERY_TIMEOUT_MS: Setting = Setting::optional::<Milliseconds>(
    "delivery_timeout_ms",
    "15000",
    "the deadline of an attempt, from connecting to the end of the answer, in milliseconds",
);

/// Whom receivers are looked up with. `T` is the sender's list of name servers, which this crate does not know.
pub const fn dns_servers<T: FromStr<Err: fmt::Display>>() -> Setting {
    let help = "name servers that receivers are looked up with, like `10.0.0.53:53,[fd00::53]:53`; none: the system's";
    Setting::optional::<T>("dns_servers", "", help)
}

/// Where traces go. `T` is the tracer's own type, which this crate does not know.
pub const fn otlp_endpoint<T: FromStr<Err: fmt::Display>>() -> Setting {
    let help = "where spans are sent: an OpenTelemetry collector that takes OTLP over HTTP, like `http://collector:4318`; none: there is no tracing";
    Setting::optional::<T>("otlp_endpoint", "", help)
}

/// Which new traces are kept.
pub const fn trace_ratio<T: FromStr<Err: fmt::Display>>() -> Setting {
    let help = "the part of new traces that is kept, from 0 to 1; of a trace that a caller began, the caller decides";
    Setting::optional::<T>("trace_ratio", "0.1", help)
}

/// Reads how long events are kept.
pub fn retention(settings: &Settings) -> Result<Duration, ConfigError> {
    Ok(Duration::from_secs(u64::from(settings.get::<Count<1, 3650>>(&RETENTION_DAYS)?.0) * 86_400))
}

/// Reads which receivers are allowed.
pub fn url_policy(settings: &Settings) -> Result<UrlPolicy, ConfigError> {
    Ok(UrlPolicy {
        allow_http: settings.get(&RECEIVER_ALLOW_HTTP)?,
        ports: settings.get(&RECEIVER_PORTS)?,
        addresses: AddressPolicy::allowing(settings.get::<Networks>(&RECEIVER_ALLOWED_NETWORKS)?.0)
            .denying(settings.get::<Networks>(&RECEIVER_DENIED_NETWORKS)?.0),
    })
}
