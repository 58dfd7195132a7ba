//! The HTTP client of deliveries: HTTP/1.1 over connections that are kept, names through the guard, certificates as the
//! platform trusts them. It follows no redirects, knows no proxies, cookies, compression or HTTP/2: what a webhook sender must
//! not do is not there.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderValue, InvalidHeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Request, response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tower_service::Service as _;

use crate::connection::Connection;
use crate::idle::IdleConnections;
use crate::resolver::GuardedResolver;
use crate::stream::Stream;

/// Where requests of a webhook go.
#[derive(Debug)]
pub(crate) struct Destination {
    /// Where to connect to.
    base: Uri,
    /// Scheme, host and port. Those that share it share connections.
    origin: Arc<str>,
    /// What is asked for there.
    pub(crate) path: Uri,
    pub(crate) host: HeaderValue,
}

impl Destination {
    /// `None` for a URL that requests cannot have.
    pub(crate) fn of(url: &url::Url) -> Option<Self> {
        let whole: Uri = url.as_str().parse().ok()?;
        let authority = match whole.port() {
            Some(port) => format!("{}:{port}", whole.host()?),
            None => whole.host()?.to_owned(),
        };
        let path = whole.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let origin = format!("{}://{authority}", whole.scheme_str()?);
        Some(Self {
            base: origin.parse().ok()?,
            origin: origin.into(),
            path: path.into(),
            host: authority.try_into().ok()?,
        })
    }
}

/// Makes requests. Connections are kept and shared by all.
pub(crate) struct Client {
    connector: HttpsConnector<HttpConnector<GuardedResolver>>,
    idle: IdleConnections,
}

/// Why there is no answer.
pub(crate) enum RequestError {
    /// There was no connection.
    Connect(Box<dyn Error + Send + Sync>),
    /// There was one.
    Http(hyper::Error),
    /// It cannot be made.
    Impossible(InvalidHeaderValue),
}

/// An answer whose head has come.
pub(crate) struct Answer<'a> {
    pub(crate) head: response::Parts,
    body: Incoming,
    connection: Box<Connection>,
    origin: &'a Arc<str>,
    idle: &'a IdleConnections,
}

impl Client {
    /// Fails where the platform's certificates cannot be read.
    pub(crate) fn new(resolver: GuardedResolver) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self { connector, idle: IdleConnections::default() })
    }

    /// Makes a request over a connection that is kept, or a new one. One that was closed before any of the request was sent is
    /// not the receiver's fault: there is another try. The request is made anew for that rather than kept.
    pub(crate) async fn request<'a>(
        &'a self,
        destination: &'a Destination,
        make: impl Fn() -> Result<Request<Full<Bytes>>, InvalidHeaderValue>,
    ) -> Result<Answer<'a>, RequestError> {
        let Destination { origin, .. } = destination;
        loop {
            let (mut connection, is_new) = match self.idle.take(origin) {
                Some(kept) => (kept, false),
                // Behind a pointer: what connecting needs would be part of every request.
                None => (Box::pin(self.connect(destination)).await?, true),
            };
            let sent = {
                let request = make().map_err(RequestError::Impossible)?;
                connection.send(request)
            };
            match sent.await {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    return Ok(Answer { head, body, connection, origin, idle: &self.idle });
                }
                Err(failed) if !is_new && failed.message().is_some() => {}
                Err(failed) => return Err(RequestError::Http(failed.into_error())),
            }
        }
    }

    async fn connect(&self, destination: &Destination) -> Result<Box<Connection>, RequestError> {
        let stream = self.connector.clone().call(destination.base.clone()).await;
        let stream = Stream::from(stream.map_err(RequestError::Connect)?);
        Connection::open(stream).await.map(Box::new).map_err(RequestError::Http)
    }
}

impl Answer<'_> {
    /// The next part of the body.
    pub(crate) async fn next_chunk(&mut self) -> Option<hyper::Result<Bytes>> {
        self.connection.next_chunk(&mut self.body).await
    }

    /// After the body's end: the connection is there for the next request.
    pub(crate) fn finish(self) {
        self.idle.put(self.origin, self.connection);
    }
}
