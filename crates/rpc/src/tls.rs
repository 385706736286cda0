//! TLS configurations: version 1.3 alone, aws-lc-rs, no resumption; HTTP/2, and as a server HTTP/1.1 too, for registry clients.
//!
//! Without resumption every connection shows and checks its certificates anew, so a replaced one is noticed at once.

use std::sync::Arc;

use gantry_pki::{AuthorityDigest, Identity, certificate_der, private_key_der};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use crate::CredentialsError;

const VERSIONS: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(authority: CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    Ok(Arc::new(roots))
}

/// Shows the identity with its authority, so that a newcomer can pin it, and checks the client's certificate if it shows one.
pub(crate) fn server_config(identity: &Identity) -> Result<ServerConfig, CredentialsError> {
    let authority = certificate_der(&identity.ca_pem)?;
    let chain = vec![certificate_der(&identity.cert_pem)?, authority.clone()];
    let roots = roots(authority).map_err(|error| CredentialsError::Authority(error.to_string()))?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| CredentialsError::Authority(error.to_string()))?;
    let unusable = |source| CredentialsError::Tls {
        identity: format!("{} {}", identity.role, identity.id),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .map_err(unusable)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, private_key_der(&identity.key_pem)?)
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Shows the identity, and accepts servers of the same authority.
pub(crate) fn client_config(identity: &Identity) -> Result<ClientConfig, CredentialsError> {
    let authority = certificate_der(&identity.ca_pem)?;
    let chain = vec![certificate_der(&identity.cert_pem)?];
    let roots = roots(authority).map_err(|error| CredentialsError::Authority(error.to_string()))?;
    let unusable = |source| CredentialsError::Tls {
        identity: format!("{} {}", identity.role, identity.id),
        source,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .map_err(unusable)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private_key_der(&identity.key_pem)?)
        .map_err(unusable)?;
    Ok(without_resumption(config))
}

/// Shows nothing, and accepts servers whose authority has the digest.
pub(crate) fn pinned_config(authority: AuthorityDigest) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(Pinned {
        authority,
        provider: provider(),
    });
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(without_resumption(config))
}

fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Accepts a server whose chain is valid under the one authority of that digest, which must be in the chain it shows.
#[derive(Debug)]
struct Pinned {
    authority: AuthorityDigest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| AuthorityDigest::of(certificate) == self.authority)
            .ok_or(CertificateError::UnknownIssuer)?;
        let roots = roots(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
