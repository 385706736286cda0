//! What can go wrong with certificates and identities.

use std::path::PathBuf;

use gantry_model::{Class, Problem};

/// A failed operation on keys, certificates or their files.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key pair could not be made.
    #[error("cannot make a key pair: {0}")]
    GenerateKey(rcgen::Error),
    /// A certificate could not be signed.
    #[error("cannot sign a certificate for {subject}: {source}")]
    Sign {
        /// Whom it was for.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The authority's key or certificate is damaged.
    #[error("cannot load the certificate authority: {0}")]
    LoadAuthority(rcgen::Error),
    /// A signing request is damaged or signed by another key than the one in it.
    #[error("the certificate request is not valid: {0}")]
    Request(rcgen::Error),
    /// The key of a signing request is of a kind that is not accepted.
    #[error("the certificate request has a key that is not ECDSA P-256")]
    RequestKey,
    /// A certificate is to name a host that is none, or that only a member may be called.
    #[error("'{0}' is not a host name or address that a certificate may have")]
    HostName(String),
    /// A text is not the PEM block it should be.
    #[error("no {what} in the PEM text")]
    Pem {
        /// Which block was looked for.
        what: &'static str,
    },
    /// A certificate cannot be parsed.
    #[error("cannot parse the certificate: {0}")]
    Certificate(String),
    /// A certificate is not of the form that the authority gives out.
    #[error("the certificate has no {0}, so it was not made by a gantry cluster")]
    Foreign(&'static str),
    /// A file of an identity could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of an identity could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<PkiError> for Problem {
    fn from(error: PkiError) -> Self {
        let class = match &error {
            PkiError::Request(_) | PkiError::RequestKey | PkiError::HostName(_) => Class::Invalid,
            PkiError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Class::NotFound,
            PkiError::GenerateKey(_)
            | PkiError::Sign { .. }
            | PkiError::LoadAuthority(_)
            | PkiError::Pem { .. }
            | PkiError::Certificate(_)
            | PkiError::Foreign(_)
            | PkiError::Read { .. }
            | PkiError::Write { .. } => Class::Internal,
        };
        Problem::new(class, "identity", error.to_string())
    }
}
