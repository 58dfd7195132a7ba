//! Follows a URL as far as the beginning of a delivery, and says what was met on the way.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::WebhookUrl;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::attempt::Sender;
use crate::certificate::Certificate;
use crate::resolver::ResolveError;
use crate::witness::Witness;

/// The longest a dry run takes.
const MAX_TIME: Duration = Duration::from_secs(10);

/// What a URL leads to. A step that was not reached, because the one before it failed, is `None`.
#[derive(Debug, Clone)]
pub struct DryRun {
    /// Whether the URL is one that this installation delivers to, as far as its text says.
    pub policy: Step<()>,
    /// Where its host is.
    pub addresses: Option<Step<Vec<FoundAddress>>>,
    /// The connection.
    pub connection: Option<Step<Connected>>,
    /// The TLS handshake; `None` for `http` too.
    pub tls: Option<TlsHandshake>,
}

/// A step that went well, or what is wrong, for people.
pub type Step<T> = Result<T, String>;

/// An address that a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundAddress {
    /// One that is connected to.
    Allowed(IpAddr),
    /// One that is not; it may be of the operator's own network, so it is not told.
    Refused {
        /// Its kind.
        is_ipv6: bool,
    },
}

/// A connection that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// To where.
    pub address: IpAddr,
    /// How long it took.
    pub duration: Duration,
}

/// How the TLS handshake went.
#[derive(Debug, Clone)]
pub struct TlsHandshake {
    /// The protocol that both sides agreed on, or why they did not.
    pub version: Step<&'static str>,
    /// What the receiver showed, whether or not it is trusted.
    pub certificate: Option<Certificate>,
}

impl DryRun {
    /// One that ended with the text of the URL.
    pub fn of_text(policy: Step<()>) -> Self {
        Self { policy, addresses: None, connection: None, tls: None }
    }

    /// Whether a delivery would come as far as its request.
    pub fn is_reachable(&self) -> bool {
        matches!(self.connection, Some(Ok(_))) && self.tls.as_ref().is_none_or(|tls| tls.version.is_ok())
    }
}

impl Sender {
    /// Follows a URL under the rules of every delivery, without a request.
    pub async fn dry_run(&self, url: &WebhookUrl) -> DryRun {
        let deadline = Instant::now() + MAX_TIME;
        let policy = url.check(self.policy()).map_err(|problem| problem.to_string());
        let mut run = DryRun::of_text(policy);
        if run.policy.is_err() {
            return run;
        }
        let addresses = match timeout_at(deadline, self.find(url)).await {
            Ok(addresses) => addresses,
            Err(_) => Err(late()),
        };
        let allowed = addresses.as_ref().ok().and_then(|found| all_allowed(found));
        run.addresses = Some(addresses);
        let Some(allowed) = allowed else { return run };
        let (connection, stream) = connect(&allowed, url.port(), deadline).await;
        run.connection = Some(connection);
        if let (Some(stream), "https", Some(host)) = (stream, url.url().scheme(), url.url().host()) {
            let name = match host {
                url::Host::Domain(name) => rustls::pki_types::ServerName::try_from(name.to_owned()).ok(),
                url::Host::Ipv4(address) => Some(IpAddr::from(address).into()),
                url::Host::Ipv6(address) => Some(IpAddr::from(address).into()),
            };
            run.tls = Some(match (name, Witness::of_platform()) {
                (Some(name), Ok(witness)) => shake_hands(stream, name, witness, deadline).await,
                (None, _) => TlsHandshake::failed("the host is no name that a certificate can have"),
                (_, Err(reason)) => TlsHandshake::failed(reason),
            });
        }
        run
    }

    /// Every address of the host, judged.
    async fn find(&self, url: &WebhookUrl) -> Step<Vec<FoundAddress>> {
        let addresses = match (url.literal_address(), url.url().host_str()) {
            (Some(address), _) => vec![address],
            (None, Some(name)) => self.resolver().look_up(name).await.map_err(|error| match error {
                ResolveError::NoNameServer => "no name server answers; deliveries would wait".to_owned(),
                theirs @ (ResolveError::Unresolvable | ResolveError::Refused(_)) => theirs.to_string(),
            })?,
            (None, None) => Vec::new(),
        };
        let judge = |address: IpAddr| match self.policy().addresses.check(address) {
            Ok(()) => FoundAddress::Allowed(address),
            Err(_) => FoundAddress::Refused { is_ipv6: address.is_ipv6() },
        };
        Ok(addresses.into_iter().map(judge).collect())
    }
}

/// The addresses, if each of them is allowed, as a delivery demands.
fn all_allowed(found: &[FoundAddress]) -> Option<Vec<IpAddr>> {
    let allowed = |found: &FoundAddress| match found {
        FoundAddress::Allowed(address) => Some(*address),
        FoundAddress::Refused { .. } => None,
    };
    found.iter().map(allowed).collect()
}

/// Tries one address after the other, each for its share of the time.
async fn connect(addresses: &[IpAddr], port: u16, deadline: Instant) -> (Step<Connected>, Option<TcpStream>) {
    let mut problem = "there is no address".to_owned();
    for (tried, address) in addresses.iter().enumerate() {
        let began = Instant::now();
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = began + deadline.saturating_duration_since(began) / left;
        match timeout_at(share, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => {
                let connected = Connected { address: *address, duration: began.elapsed() };
                return (Ok(connected), Some(stream));
            }
            Ok(Err(error)) => problem = error.kind().to_string(),
            Err(_) => problem = late(),
        }
    }
    (Err(problem), None)
}

async fn shake_hands(
    stream: TcpStream,
    name: rustls::pki_types::ServerName<'static>,
    witness: Witness,
    deadline: Instant,
) -> TlsHandshake {
    let seen = witness.seen();
    let connector = match witness.into_connector() {
        Ok(connector) => connector,
        Err(error) => return TlsHandshake::failed(error),
    };
    let version = match timeout_at(deadline, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(version(stream.get_ref().1.protocol_version())),
        Ok(Err(error)) => Err(reason(&error)),
        Err(_) => Err(late()),
    };
    let certificate = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    TlsHandshake { version, certificate: certificate.and_then(|der| Certificate::parse(&der)) }
}

impl TlsHandshake {
    fn failed(reason: impl ToString) -> Self {
        Self { version: Err(reason.to_string()), certificate: None }
    }
}

fn version(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    }
}

fn reason(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    tls.map_or_else(|| error.kind().to_string(), ToString::to_string)
}

fn late() -> String {
    format!("no answer within {} s", MAX_TIME.as_secs())
}

/// Where a [`Witness`] leaves the certificate that it saw, as DER.
pub(crate) type Seen = Arc<Mutex<Option<Vec<u8>>>>;

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const AUTHORITY: &[u8] = include_bytes!("../testdata/ca.pem");
    const CERTIFICATE: &[u8] = include_bytes!("../testdata/server.pem");
    const KEY: &[u8] = include_bytes!("../testdata/server.key");

    /// Shakes hands with a receiver on loopback that calls itself `receiver.test`.
    async fn handshake(name: &'static str, witness: Witness) -> TlsHandshake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(KEY).unwrap())
            .unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        });
        let stream = TcpStream::connect(address).await.unwrap();
        shake_hands(stream, ServerName::try_from(name).unwrap(), witness, Instant::now() + MAX_TIME).await
    }

    fn trusting() -> Witness {
        Witness::trusting([CertificateDer::from_pem_slice(AUTHORITY).unwrap()]).unwrap()
    }

    #[tokio::test]
    async fn a_certificate_that_is_trusted_is_shown_with_its_names_and_times() {
        let tls = handshake("a.receiver.test", trusting()).await;
        assert_eq!(tls.version, Ok("TLS 1.3"));
        let certificate = tls.certificate.unwrap();
        assert_eq!(certificate.subject, "O=Receiver Ltd, CN=receiver.test");
        assert_eq!(certificate.issuer, "CN=Test authority");
        assert_eq!(certificate.names, ["receiver.test", "*.receiver.test"]);
        assert!(certificate.not_after - certificate.not_before > chrono::TimeDelta::days(36_000));
    }

    #[tokio::test]
    async fn one_that_is_not_is_shown_with_the_reason() {
        for (name, witness, reason) in [
            ("receiver.test", Witness::of_platform().unwrap(), "UnknownIssuer"),
            ("another.test", trusting(), "another.test"),
        ] {
            let tls = handshake(name, witness).await;
            let problem = tls.version.unwrap_err();
            assert!(problem.contains(reason), "{problem}");
            assert_eq!(tls.certificate.unwrap().issuer, "CN=Test authority");
        }
    }
}
