//! TLS towards registries: the system's authorities, private ones per registry, and certificates of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;

use crate::endpoint::Protection;
use crate::error::Cause;
use crate::options::Options;

/// HTTP/1.1: several connections carry several layers faster than the streams of one.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The configuration for one host (`host[:port]`).
pub(crate) fn client_config(name: &str, protection: Protection, options: &Options) -> Result<ClientConfig, Cause> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| configuration("TLS", &error))?;
    let files = Files::of(name, options)?;
    let builder = match protection {
        Protection::Verified | Protection::Plain => builder.with_root_certificates(roots(&files, options)?),
        Protection::Any => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider))),
    };
    let mut config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, &error))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|error| in_file(certificate, &error))?
        }
    };
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(config)
}

/// What the folders of certificates have for one registry.
#[derive(Default)]
struct Files {
    authorities: Vec<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Files {
    /// As Docker reads them: every `*.crt` is an authority, every `*.cert` a certificate of ours with its `*.key`.
    fn of(name: &str, options: &Options) -> Result<Self, Cause> {
        let mut files = Self::default();
        for dir in &options.certs_dirs {
            let Ok(entries) = fs::read_dir(dir.join(name)) else {
                continue;
            };
            let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => files.authorities.push(path),
                    Some("cert") => {
                        let key = path.with_extension("key");
                        if !key.is_file() {
                            return Err(Cause::Configuration {
                                what: path.display().to_string(),
                                reason: format!("its key {} is missing", key.display()),
                            });
                        }
                        files.identity = Some((path, key));
                    }
                    _ => {}
                }
            }
        }
        Ok(files)
    }
}

fn roots(files: &Files, options: &Options) -> Result<RootCertStore, Cause> {
    let mut roots = system_roots().clone();
    for path in options.ca_files.iter().chain(&files.authorities) {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| in_file(path, &error))?;
        }
    }
    Ok(roots)
}

/// Read once; a machine without any is left with the private ones.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "an authority of this system cannot be read");
        }
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!("this system has no certificate authorities, so public registries will be refused: install ca-certificates");
        }
        roots
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let pems = CertificateDer::pem_file_iter(path).map_err(|error| in_file(path, &error))?;
    let certificates: Vec<_> = pems.collect::<Result<_, _>>().map_err(|error| in_file(path, &error))?;
    if certificates.is_empty() {
        return Err(configuration(&path.display().to_string(), &"no certificate in it"));
    }
    Ok(certificates)
}

fn in_file(path: &Path, reason: &dyn std::fmt::Display) -> Cause {
    configuration(&path.display().to_string(), reason)
}

fn configuration(what: &str, reason: &dyn std::fmt::Display) -> Cause {
    Cause::Configuration {
        what: what.to_string(),
        reason: reason.to_string(),
    }
}

/// Accepts any certificate, for registries that are listed as insecure; the handshake is still checked, so whoever shows the
/// certificate has its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
