//! Certificates by host, chosen by what the client names in its TLS greeting (SNI, RFC 6066).
//!
//! **Invariant:** a client that names no host, or one without a certificate, gets no other's certificate.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gantry_model::spec::HostPattern;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a secret is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It is not PEM.
    #[error("cannot read the certificates of its PEM")]
    Certificates(#[source] rustls_pki_types::pem::Error),
    /// It has none.
    #[error("its PEM holds no certificate")]
    NoCertificate,
    /// There is no key, or it is not PEM.
    #[error("cannot read the private key of its PEM")]
    Key(#[source] rustls_pki_types::pem::Error),
    /// They do not belong together, or nobody can use them.
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// The certificates of a table.
#[derive(Default, Clone)]
pub struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    below: HashMap<String, Arc<CertifiedKey>>,
    any: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for Certificates {
    /// Without keys.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Certificates({})", self.exact.len() + self.below.len())
    }
}

impl Certificates {
    /// Adds the certificate of a host, in PEM, with its key; the first one of a host stays.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn add(&mut self, host: &HostPattern, chain: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(CertificateError::Certificates)?;
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
        let usable = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
        let usable = Arc::new(usable.map_err(CertificateError::Unusable)?);
        match host {
            HostPattern::Exact(host) => {
                self.exact.entry(host.clone()).or_insert(usable);
            }
            HostPattern::Below(parent) => {
                self.below.entry(parent.clone()).or_insert(usable);
            }
            HostPattern::Any => {
                self.any.get_or_insert(usable);
            }
        }
        Ok(())
    }

    fn find(&self, host: &str) -> Option<(HostPattern, &Arc<CertifiedKey>)> {
        if let Some(certificate) = self.exact.get(host) {
            return Some((HostPattern::Exact(host.to_string()), certificate));
        }
        if let Some((_, parent)) = host.split_once('.')
            && let Some(certificate) = self.below.get(parent)
        {
            return Some((HostPattern::Below(parent.to_string()), certificate));
        }
        self.any.as_ref().map(|certificate| (HostPattern::Any, certificate))
    }

    /// Which of them a host has: requests for a host with another one do not belong on the connection (RFC 9110, 15.5.20).
    pub(crate) fn pattern(&self, host: &str) -> Option<HostPattern> {
        self.find(host).map(|(pattern, _)| pattern)
    }
}

/// The certificates in effect.
#[derive(Debug, Default)]
pub(crate) struct Current(pub(crate) ArcSwap<Certificates>);

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.0.load();
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        certificates.find(&name).map(|(_, certificate)| Arc::clone(certificate))
    }
}

/// How TLS is spoken: 1.2 and 1.3, HTTP/2 preferred.
pub(crate) fn tls(current: Arc<Current>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
