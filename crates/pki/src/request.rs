//! A new key, and the request to have it certified.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::{Identity, Peer, PkiError};

/// A fresh ECDSA P-256 key with its signing request; the key stays with its maker.
pub struct KeyRequest {
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
    /// The request, DER, with an empty subject: the authority decides who the holder is.
    pub csr_der: Vec<u8>,
}

impl KeyRequest {
    /// Makes a key and its request.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::GenerateKey)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(PkiError::GenerateKey)?;
        Ok(Self {
            key_pem: key.serialize_pem(),
            csr_der: request.der().to_vec(),
        })
    }

    /// The identity made of this key and the certificate that the authority answered with.
    ///
    /// # Errors
    /// When the certificate is not one of a gantry cluster, or certifies another key.
    pub fn into_identity(self, certificate_pem: &str, authority_pem: &str) -> Result<Identity, PkiError> {
        let certificate = crate::certificate_der(certificate_pem)?;
        let peer = Peer::from_der(&certificate)?;
        let key = KeyPair::from_pem(&self.key_pem).map_err(PkiError::GenerateKey)?;
        if crate::peer::public_key(&certificate)? != key.public_key_raw() {
            return Err(PkiError::Foreign("key of this request"));
        }
        Ok(Identity {
            ca_pem: authority_pem.to_string(),
            cert_pem: certificate_pem.to_string(),
            key_pem: self.key_pem,
            role: peer.role,
            id: peer.id,
        })
    }
}
