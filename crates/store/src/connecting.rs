//! Where the database is, and how it is connected to: in clear text, or over TLS that is verified.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use domain::Invalid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_rustls::TlsConnector;

use crate::impatient::{Impatience, ImpatientTls};

/// A server, and the rights to it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) config: Config,
    /// `None`: in clear text.
    tls: Option<TlsConnector>,
}

/// What a URL says of TLS, in libpq's words, which `psql` and `pg_dump` understand too.
#[derive(Debug, Default)]
struct TlsWords<'a> {
    mode: Option<&'a str>,
    root: Option<&'a str>,
    certificate: Option<&'a str>,
    key: Option<&'a str>,
}

impl FromStr for Target {
    type Err = Invalid;

    fn from_str(url: &str) -> Result<Self, Invalid> {
        let (url, words) = TlsWords::taken_from(url);
        let mut config = Config::from_str(&url)
            .map_err(|error| Invalid::new(format!("the database URL cannot be read: {error}")))?;
        let tls = words.connector()?;
        config.ssl_mode(SslMode::Disable);
        Ok(Self { config, tls })
    }
}

impl<'a> TlsWords<'a> {
    /// Takes the words out of a URL, because the driver does not know them.
    fn taken_from(url: &'a str) -> (String, Self) {
        let mut words = Self::default();
        let Some((place, query)) = url.split_once('?') else { return (url.to_owned(), words) };
        let mut rest = Vec::new();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => words.mode = Some(mode),
                Some(("sslrootcert", path)) => words.root = Some(path),
                Some(("sslcert", path)) => words.certificate = Some(path),
                Some(("sslkey", path)) => words.key = Some(path),
                _ => rest.push(pair),
            }
        }
        (format!("{place}?{}", rest.join("&")), words)
    }

    fn connector(&self) -> Result<Option<TlsConnector>, Invalid> {
        match self.mode {
            Some("verify-full") => Ok(Some(TlsConnector::from(Arc::new(self.client_config()?)))),
            None | Some("disable") if self.root.or(self.certificate).or(self.key).is_none() => Ok(None),
            None | Some("disable") => {
                Err(Invalid::new("certificates are of use with sslmode=verify-full only"))
            }
            Some(_) => Err(Invalid::new(
                "sslmode must be verify-full or disable: TLS that does not check who answers protects from nobody",
            )),
        }
    }

    fn client_config(&self) -> Result<ClientConfig, Invalid> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Invalid::new(error.to_string()))?;
        let builder = match self.root {
            None | Some("system") => {
                builder.with_platform_verifier().map_err(|error| Invalid::new(error.to_string()))?
            }
            Some(path) => builder.with_root_certificates(roots(path)?),
        };
        match (self.certificate, self.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(certificate), Some(key)) => {
                let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable("sslkey", key))?;
                builder
                    .with_client_auth_cert(certificates("sslcert", certificate)?, key)
                    .map_err(|error| Invalid::new(format!("sslcert and sslkey do not fit: {error}")))
            }
            _ => Err(Invalid::new("sslcert and sslkey go together")),
        }
    }
}

fn roots(path: &str) -> Result<RootCertStore, Invalid> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates("sslrootcert", path)?);
    if added == 0 {
        return Err(Invalid::new(format!("sslrootcert: {path} has no certificate")));
    }
    Ok(roots)
}

fn certificates(word: &'static str, path: &str) -> Result<Vec<CertificateDer<'static>>, Invalid> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unreadable(word, path))
}

fn unreadable(word: &'static str, path: &str) -> impl Fn(rustls::pki_types::pem::Error) -> Invalid {
    move |error| Invalid::new(format!("{word}: {path} cannot be read: {error}"))
}

impl Target {
    /// Connects. The connection gives up on a server that leaves what it is asked unanswered for longer than `patience`.
    pub(crate) async fn connect(&self, patience: Duration) -> Result<(Client, JoinHandle<()>), Error> {
        let mut config = self.config.clone();
        if let Some(connector) = &self.tls {
            config.ssl_mode(SslMode::Require);
            return Ok(driven(config.connect(ImpatientTls::new(patience, connector.clone())).await?));
        }
        if config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_))) {
            return Ok(driven(config.connect(NoTls).await?));
        }
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        Ok(driven(config.connect(Impatience(patience)).await?))
    }
}

/// What comes of a connection that ends shows in what is asked of it.
fn driven<S, T>((client, connection): (Client, tokio_postgres::Connection<S, T>)) -> (Client, JoinHandle<()>)
where
    tokio_postgres::Connection<S, T>: Future<Output = Result<(), Error>> + Send + 'static,
{
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    (client, driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        Target::from_str(&format!("postgres://u:hunter2@db.test/d{query}")).err().unwrap().to_string()
    }

    #[test]
    fn tls_is_verified_or_there_is_none() {
        for plain in ["", "?sslmode=disable", "?connect_timeout=3"] {
            let target: Target = format!("postgres://u:p@db.test/d{plain}").parse().unwrap();
            assert!(target.tls.is_none(), "{plain}");
        }
        let target: Target = "postgres://u:p@db.test/d?sslmode=verify-full".parse().unwrap();
        assert!(target.tls.is_some());
        for mode in ["require", "prefer", "allow", "verify-ca", "on", ""] {
            assert!(
                refused(&format!("?sslmode={mode}")).starts_with("sslmode must be verify-full"),
                "{mode}"
            );
        }
        assert!(refused("?sslrootcert=/ca.pem").contains("with sslmode=verify-full only"));
        let missing = refused("?sslmode=verify-full&sslrootcert=/nowhere/ca.pem");
        assert!(missing.starts_with("sslrootcert: /nowhere/ca.pem cannot be read"), "{missing}");
        assert!(refused("?sslmode=verify-full&sslcert=/c.pem").contains("go together"));
        assert!(!refused("?sslmode=verify-full&sslrootcert=/nowhere/ca.pem").contains("hunter2"));
    }
}
