use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A file of the tests' own authority: `ca.pem`, `other-ca.pem`, which has signed nothing, and of `server` and `client` `.pem`
/// and `.key`. The server's certificate is for 127.0.0.1 alone.
pub fn certificate(name: &str) -> String {
    format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A server before another one, with which it speaks in clear text.
pub struct TlsProxy {
    /// Where it listens.
    pub address: SocketAddr,
}

impl TlsProxy {
    /// Puts one before Postgres, whose clients ask for TLS before they begin it.
    pub async fn before_postgres(at: Ipv4Addr, target: SocketAddr, wants_client: bool) -> Self {
        Self::start(at, target, wants_client, true).await
    }

    /// Puts one before a server whose clients begin with TLS at once.
    pub async fn before(at: Ipv4Addr, target: SocketAddr, wants_client: bool) -> Self {
        Self::start(at, target, wants_client, false).await
    }

    async fn start(at: Ipv4Addr, target: SocketAddr, wants_client: bool, is_asked_first: bool) -> Self {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = acceptor(wants_client);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, target, acceptor.clone(), is_asked_first));
            }
        });
        Self { address }
    }
}

async fn serve(
    mut client: TcpStream,
    target: SocketAddr,
    acceptor: TlsAcceptor,
    is_asked_first: bool,
) -> std::io::Result<()> {
    if is_asked_first {
        let mut question = [0; 8];
        client.read_exact(&mut question).await?;
        assert_eq!(question, [0, 0, 0, 8, 4, 210, 22, 47], "SSLRequest");
        client.write_all(b"S").await?;
    }
    let mut decrypted = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(target).await?;
    copy_bidirectional(&mut decrypted, &mut server).await?;
    Ok(())
}

fn acceptor(wants_client: bool) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = if wants_client {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain("ca.pem"));
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
    TlsAcceptor::from(Arc::new(builder.with_single_cert(chain("server.pem"), key).unwrap()))
}

fn chain(name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(certificate(name)).unwrap().collect::<Result<_, _>>().unwrap()
}
