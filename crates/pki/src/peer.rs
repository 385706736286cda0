//! Who a certificate says its holder is.

use std::net::IpAddr;

use gantry_model::Timestamp;
use gantry_model::object::Role;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::PkiError;

/// The holder of a certificate that was already verified against the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it allows.
    pub role: Role,
    /// The holder's id as text.
    pub id: String,
    /// When it became valid.
    pub not_before: Timestamp,
    /// When it stops being valid.
    pub not_after: Timestamp,
}

impl Peer {
    /// Reads the holder from a certificate. Trust is not checked here: TLS did.
    ///
    /// # Errors
    /// When it is not a certificate, or not of the form that the authority gives out.
    pub fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        let certificate = parse(der)?;
        let subject = certificate.subject();
        let id = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let role = subject.iter_organization().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            role: role
                .and_then(|text| text.parse().ok())
                .ok_or(PkiError::Foreign("role"))?,
            id: id.ok_or(PkiError::Foreign("id"))?.to_string(),
            not_before: timestamp(certificate.validity().not_before),
            not_after: timestamp(certificate.validity().not_after),
        })
    }

    /// For messages: `agent 0123456789abc`.
    #[must_use]
    pub fn object(&self) -> String {
        format!("{} {}", self.role, self.id)
    }
}

/// The raw public key that a certificate certifies.
pub(crate) fn public_key(der: &[u8]) -> Result<Vec<u8>, PkiError> {
    Ok(parse(der)?.public_key().subject_public_key.data.to_vec())
}

/// The names and addresses that a certificate is valid for.
pub(crate) fn names(der: &[u8]) -> Result<Vec<String>, PkiError> {
    let certificate = parse(der)?;
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| PkiError::Certificate(error.to_string()))?;
    let names = extension.map(|extension| extension.value.general_names.as_slice());
    Ok(names.unwrap_or_default().iter().filter_map(text_of).collect())
}

fn text_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_string()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|bytes| IpAddr::from(bytes).to_string()),
        },
        // Certificates of the cluster have no others.
        _ => None,
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    x509_parser::parse_x509_certificate(der)
        .map(|(_, certificate)| certificate)
        .map_err(|error| PkiError::Certificate(error.to_string()))
}

fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}
