//! The HTTP client of deliveries: HTTP/1.1 over connections that are kept, names through the guard, certificates as the
//! platform trusts them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::connection::Connector;
use crate::resolver::GuardedResolver;

/// How long an unused connection to a receiver is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many unused connections to one receiver are kept: many webhooks can share one, and a connection that is closed for
/// want of a place is opened again a moment later.
const MAX_IDLE_PER_HOST: usize = 256;

/// Makes requests. It follows no redirects, knows no proxies, cookies, compression or HTTP/2: what a webhook sender must not
/// do is not there.
pub(crate) type Client = legacy::Client<Connector, Full<Bytes>>;

/// Fails where the platform's certificates cannot be read.
pub(crate) fn build(resolver: GuardedResolver) -> Result<Client, rustls::Error> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    let https =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
        .build(Connector(https)))
}
