//! The cluster's certificate authority.

use std::time::Duration;

use gantry_env::Env;
use gantry_model::object::{Role, RootCertificate};
use gantry_model::{DurationMs, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateSigningRequestDer, ServerName};

use crate::{
    AuthorityDigest, Identity, KeyRequest, MEMBER_DOMAIN, PkiError, SERVER_NAME, certificate_der, member_name,
};

/// Lifetime of the authority's own certificate: 20 years, as Swarm's root.
pub const AUTHORITY_LIFETIME: DurationMs = DurationMs::secs(20 * 365 * 24 * 3600);

/// Certificates are valid from this long before they are made, so that a member whose clock is behind accepts them.
pub const CLOCK_SKEW_MAX: DurationMs = DurationMs::secs(3600);

/// Bytes of a serial number; RFC 5280 (4.1.2.2) allows 20.
const SERIAL_BYTES: usize = 16;

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: Timestamp,
    /// Last moment.
    pub not_after: Timestamp,
}

impl Validity {
    /// From a little before `now`, for `lifetime` (at most as long as the authority's).
    #[must_use]
    pub fn starting(now: Timestamp, lifetime: DurationMs) -> Self {
        Self {
            not_before: Timestamp(now.0.saturating_sub(CLOCK_SKEW_MAX.0)),
            not_after: now.after(lifetime.min(AUTHORITY_LIFETIME)),
        }
    }
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What it allows.
    pub role: Role,
    /// The member's id as text, which becomes part of a DNS name.
    pub id: String,
}

/// A certificate authority with its key.
pub struct Authority {
    certificate_pem: String,
    digest: AuthorityDigest,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Authority({})", self.digest)
    }
}

impl Authority {
    /// A new authority, ECDSA P-256, valid for [`AUTHORITY_LIFETIME`].
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate(cluster_name: &str, env: &dyn Env) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::GenerateKey)?;
        let mut params = base_params(env, Validity::starting(env.now(), AUTHORITY_LIFETIME));
        params
            .distinguished_name
            .push(DnType::CommonName, format!("gantry cluster {cluster_name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|source| PkiError::Sign {
            subject: "the cluster itself".to_string(),
            source,
        })?;
        Self::with_key(certificate.pem(), key)
    }

    /// The stored authority.
    ///
    /// # Errors
    /// When certificate or key are damaged.
    pub fn load(root: &RootCertificate) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(&root.key_pem).map_err(PkiError::LoadAuthority)?;
        Self::with_key(root.certificate_pem.clone(), key)
    }

    // The issuer is read back from the certificate in both cases, so a loaded authority signs exactly as a new one does.
    fn with_key(certificate_pem: String, key: KeyPair) -> Result<Self, PkiError> {
        let der = certificate_der(&certificate_pem)?;
        Ok(Self {
            digest: AuthorityDigest::of(&der),
            issuer: Issuer::from_ca_cert_der(&der, key).map_err(PkiError::LoadAuthority)?,
            certificate_pem,
        })
    }

    /// What is stored of it.
    #[must_use]
    pub fn to_root(&self) -> RootCertificate {
        RootCertificate {
            certificate_pem: self.certificate_pem.clone(),
            key_pem: self.issuer.key().serialize_pem(),
        }
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of its certificate, the part of a join token that pins it.
    #[must_use]
    pub const fn digest(&self) -> AuthorityDigest {
        self.digest
    }

    /// Certifies the public key of a signing request; nothing else of the request is used.
    ///
    /// # Errors
    /// When the request is damaged, was not made by the holder of its key, or its key is not ECDSA P-256.
    pub fn sign(
        &self,
        csr_der: &[u8],
        subject: &Subject,
        validity: Validity,
        env: &dyn Env,
    ) -> Result<String, PkiError> {
        self.sign_for_hosts(csr_der, subject, &[], validity, env)
    }

    /// As [`Authority::sign`], for a member that clients from outside of the cluster reach by the given names and addresses.
    ///
    /// # Errors
    /// As [`Authority::sign`], and when a host is no name, or one of those that members have within the cluster.
    pub fn sign_for_hosts(
        &self,
        csr_der: &[u8],
        subject: &Subject,
        hosts: &[String],
        validity: Validity,
        env: &dyn Env,
    ) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
            .map_err(PkiError::Request)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::RequestKey);
        }
        let sign_error = |source| PkiError::Sign {
            subject: format!("{} {}", subject.role, subject.id),
            source,
        };
        let mut params = member_params(subject, validity, env).map_err(sign_error)?;
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(sign_error)?;
        Ok(certificate.pem())
    }

    /// A key and its certificate in one, for members made where the authority is.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn issue(&self, subject: &Subject, validity: Validity, env: &dyn Env) -> Result<Identity, PkiError> {
        self.issue_for_hosts(subject, &[], validity, env)
    }

    /// As [`Authority::issue`], with the names of [`Authority::sign_for_hosts`].
    ///
    /// # Errors
    /// As [`Authority::sign_for_hosts`].
    pub fn issue_for_hosts(
        &self,
        subject: &Subject,
        hosts: &[String],
        validity: Validity,
        env: &dyn Env,
    ) -> Result<Identity, PkiError> {
        let request = KeyRequest::generate()?;
        let certificate_pem = self.sign_for_hosts(&request.csr_der, subject, hosts, validity, env)?;
        request.into_identity(&certificate_pem, &self.certificate_pem)
    }
}

/// Whether a certificate may name a host so.
#[must_use]
pub fn is_host_name(host: &str) -> bool {
    host_name(host).is_ok()
}

/// An address or a DNS name. Names below `.gantry` say who a member is, so none is given for the asking.
fn host_name(host: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = host.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let name = host.to_ascii_lowercase();
    let refused = || PkiError::HostName(host.to_string());
    if name == MEMBER_DOMAIN
        || name.ends_with(&format!(".{MEMBER_DOMAIN}"))
        || ServerName::try_from(name.as_str()).is_err()
    {
        return Err(refused());
    }
    name.try_into().map(SanType::DnsName).map_err(|_| refused())
}

fn base_params(env: &dyn Env, validity: Validity) -> CertificateParams {
    let mut serial = [0; SERIAL_BYTES];
    env.fill_random(&mut serial);
    // Positive, as RFC 5280 asks for, and never zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(validity.not_before.0);
    params.not_after = epoch + Duration::from_millis(validity.not_after.0);
    params
}

fn member_params(subject: &Subject, validity: Validity, env: &dyn Env) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base_params(env, validity);
    params.distinguished_name.push(DnType::CommonName, subject.id.as_str());
    params
        .distinguished_name
        .push(DnType::OrganizationName, subject.role.as_str());
    let mut names = vec![member_name(subject.role, &subject.id)];
    if subject.role == Role::Server {
        names.push(SERVER_NAME.to_string());
    }
    for name in names {
        params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Peer;
    use gantry_env::System;

    fn subject(role: Role) -> Subject {
        Subject {
            role,
            id: "0123456789abc".to_string(),
        }
    }

    #[test]
    fn a_certificate_says_who_its_holder_is_and_is_signed_by_the_authority() {
        let authority = Authority::generate("test", &System).expect("an authority");
        for role in Role::ALL {
            let validity = Validity::starting(System.now(), DurationMs::secs(60));
            let identity = authority
                .issue(&subject(role), validity, &System)
                .expect("a certificate");
            let der = certificate_der(&identity.cert_pem).expect("a certificate");
            let peer = Peer::from_der(&der).expect("a member");
            assert_eq!((peer.role, peer.id.as_str()), (role, "0123456789abc"));
            assert_eq!(peer.not_after.0 / 1000, validity.not_after.0 / 1000);
            let root = certificate_der(&identity.ca_pem).expect("a certificate");
            let (_, root) = x509_parser::parse_x509_certificate(&root).expect("the authority's certificate");
            let (_, leaf) = x509_parser::parse_x509_certificate(&der).expect("the member's certificate");
            leaf.verify_signature(Some(root.public_key()))
                .expect("signed by the authority");
            assert_eq!(leaf.issuer(), root.subject());
            assert!(!leaf.is_ca());
        }
    }

    #[test]
    fn a_stored_authority_signs_as_before() {
        let authority = Authority::generate("test", &System).expect("an authority");
        let loaded = Authority::load(&authority.to_root()).expect("the same authority");
        assert_eq!(loaded.digest(), authority.digest());
        let validity = Validity::starting(System.now(), DurationMs::secs(60));
        let identity = loaded
            .issue(&subject(Role::Agent), validity, &System)
            .expect("a certificate");
        let root = certificate_der(authority.certificate_pem()).expect("a certificate");
        let leaf = certificate_der(&identity.cert_pem).expect("a certificate");
        let (_, root) = x509_parser::parse_x509_certificate(&root).expect("the authority's certificate");
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).expect("the member's certificate");
        leaf.verify_signature(Some(root.public_key()))
            .expect("signed by the same key");
    }

    #[test]
    fn hosts_are_named_and_never_those_of_members() {
        let authority = Authority::generate("test", &System).expect("an authority");
        let validity = Validity::starting(System.now(), DurationMs::secs(60));
        let issue = |hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            authority.issue_for_hosts(&subject(Role::Server), &hosts, validity, &System)
        };
        let identity = issue(&["10.0.0.1", "Alpha.example.org", "fd00::1"]).expect("a certificate");
        let names = identity.names().expect("a certificate");
        for host in ["10.0.0.1", "alpha.example.org", "fd00::1", SERVER_NAME] {
            assert!(names.iter().any(|name| name == host), "{host}: {names:?}");
        }
        for host in ["server.gantry", "x.SERVER.gantry", "gantry", "a b", "", "a/b"] {
            assert!(matches!(issue(&[host]), Err(PkiError::HostName(_))), "{host}");
        }
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let authority = Authority::generate("test", &System).expect("an authority");
        let mut csr = KeyRequest::generate().expect("a request").csr_der;
        let last = csr.len() - 1;
        csr[last] ^= 1;
        let validity = Validity::starting(System.now(), DurationMs::secs(60));
        assert!(matches!(
            authority.sign(&csr, &subject(Role::Agent), validity, &System),
            Err(PkiError::Request(_))
        ));
    }

    #[test]
    fn what_a_request_asks_for_is_ignored() {
        let authority = Authority::generate("test", &System).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let mut wish = CertificateParams::new(vec!["server.gantry".to_string()]).expect("a name");
        wish.distinguished_name.push(DnType::OrganizationName, "server");
        let csr = wish.serialize_request(&key).expect("a request");
        let validity = Validity::starting(System.now(), DurationMs::secs(60));
        let pem = authority
            .sign(csr.der(), &subject(Role::Agent), validity, &System)
            .expect("a certificate");
        let der = certificate_der(&pem).expect("a certificate");
        assert_eq!(Peer::from_der(&der).expect("a member").role, Role::Agent);
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        let names = parsed.subject_alternative_name().expect("well-formed").expect("names");
        assert_eq!(names.value.general_names.len(), 1);
    }
}
