//! PEM text ⇄ DER.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::PkiError;

/// The first certificate in the text.
///
/// # Errors
/// When there is none.
pub fn certificate_der(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| PkiError::Pem { what: "certificate" })
}

/// The first private key in the text.
///
/// # Errors
/// When there is none.
pub fn private_key_der(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| PkiError::Pem { what: "private key" })
}
