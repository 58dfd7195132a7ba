use std::sync::{Arc, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;

use crate::dry_run::Seen;

/// Judges certificates exactly as deliveries do, and keeps the one it saw.
#[derive(Debug)]
pub(crate) struct Witness {
    judge: Verifier,
    provider: Arc<CryptoProvider>,
    seen: Seen,
}

impl Witness {
    /// Trusts whom the machine trusts.
    pub(crate) fn of_platform() -> Result<Self, Error> {
        Self::trusting([])
    }

    /// Trusts these besides.
    pub(crate) fn trusting(more: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let judge = Verifier::new_with_extra_roots(more, Arc::clone(&provider))?;
        Ok(Self { judge, provider, seen: Seen::default() })
    }

    /// Where the certificate will be.
    pub(crate) fn seen(&self) -> Seen {
        Arc::clone(&self.seen)
    }

    /// What makes connections, like those of deliveries: HTTP/1.1, no certificate of our own.
    pub(crate) fn into_connector(self) -> Result<TlsConnector, Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}
