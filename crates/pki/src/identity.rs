//! A member's key and certificates, and where they are kept.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use gantry_model::object::Role;

use crate::{AuthorityDigest, Peer, PkiError, certificate_der, private_key_der};

/// The one file of an identity: certificate, private key and authority as PEM blocks. One file, so that a crash never leaves
/// a key beside the certificate of another.
pub const IDENTITY_FILE: &str = "identity.pem";

const CERTIFICATE_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// Who this process is.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The authority's certificate.
    pub ca_pem: String,
    /// The member's certificate.
    pub cert_pem: String,
    /// The member's private key.
    pub key_pem: String,
    /// What the certificate allows.
    pub role: Role,
    /// The member's id as text.
    pub id: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Identity({} {})", self.role, self.id)
    }
}

impl Identity {
    /// Reads `folder/identity.pem`.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join(IDENTITY_FILE);
        let text = fs::read_to_string(&path).map_err(|source| PkiError::Read { path, source })?;
        Self::parse(&text)
    }

    /// Whether the folder holds an identity.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join(IDENTITY_FILE).exists()
    }

    /// Writes `folder/identity.pem` for its owner alone, whole or not at all; makes the folder when it is missing.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        let path = folder.join(IDENTITY_FILE);
        write_private(folder, &path, self.to_text().as_bytes()).map_err(|source| PkiError::Write { path, source })
    }

    fn parse(text: &str) -> Result<Self, PkiError> {
        let authority = text
            .rfind(CERTIFICATE_BEGIN)
            .filter(|start| *start > 0)
            .ok_or(PkiError::Pem {
                what: "authority's certificate",
            })?;
        let key = text
            .find("-----BEGIN PRIVATE KEY-----")
            .ok_or(PkiError::Pem { what: "private key" })?;
        let (own, key, authority) = match (text.get(..key), text.get(key..authority)) {
            (Some(own), Some(key_pem)) => (own, key_pem, &text[authority..]),
            _ => {
                return Err(PkiError::Pem {
                    what: "private key between the certificates",
                });
            }
        };
        private_key_der(key)?;
        certificate_der(authority)?;
        let peer = Peer::from_der(&certificate_der(own)?)?;
        Ok(Self {
            ca_pem: authority.to_string(),
            cert_pem: own.to_string(),
            key_pem: key.to_string(),
            role: peer.role,
            id: peer.id,
        })
    }

    fn to_text(&self) -> String {
        [&self.cert_pem, &self.key_pem, &self.ca_pem]
            .map(|pem| format!("{}\n", pem.trim_end()))
            .concat()
    }

    /// Who the certificate says its holder is, with its validity.
    ///
    /// # Errors
    /// When the certificate is damaged.
    pub fn peer(&self) -> Result<Peer, PkiError> {
        Peer::from_der(&certificate_der(&self.cert_pem)?)
    }

    /// The names and addresses for which the certificate is valid.
    ///
    /// # Errors
    /// When the certificate is damaged.
    pub fn names(&self) -> Result<Vec<String>, PkiError> {
        crate::peer::names(&certificate_der(&self.cert_pem)?)
    }

    /// The digest of the authority.
    ///
    /// # Errors
    /// When its certificate is damaged.
    pub fn authority_digest(&self) -> Result<AuthorityDigest, PkiError> {
        Ok(AuthorityDigest::of(&certificate_der(&self.ca_pem)?))
    }
}

fn write_private(folder: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let fresh = folder.join(format!(".{IDENTITY_FILE}.new"));
    // Made anew, so that neither the mode nor the owner of a leftover is inherited.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Subject, Validity};
    use gantry_env::{Env, System};
    use gantry_model::DurationMs;
    use std::os::unix::fs::PermissionsExt;

    fn identity() -> Identity {
        let authority = Authority::generate("test", &System).expect("an authority");
        let subject = Subject {
            role: Role::Agent,
            id: "0123456789abc".to_string(),
        };
        let validity = Validity::starting(System.now(), DurationMs::secs(60));
        authority.issue(&subject, validity, &System).expect("an identity")
    }

    #[test]
    fn an_identity_survives_its_folder_and_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("deep/inside");
        assert!(!Identity::exists(&place));
        let first = identity();
        first.save(&place).expect("saved");
        let second = identity();
        second.save(&place).expect("replaced");
        let loaded = Identity::load(&place).expect("loaded");
        assert_eq!((loaded.role, &loaded.id), (second.role, &second.id));
        for (left, right) in [
            (&loaded.cert_pem, &second.cert_pem),
            (&loaded.key_pem, &second.key_pem),
            (&loaded.ca_pem, &second.ca_pem),
        ] {
            assert_eq!(left.replace('\r', "").trim_end(), right.replace('\r', "").trim_end());
        }
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&place), mode(&place.join(IDENTITY_FILE))), (0o700, 0o600));
    }

    #[test]
    fn a_missing_or_cut_identity_is_an_error_that_names_the_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(Identity::load(folder.path()), Err(PkiError::Read { .. })));
        identity().save(folder.path()).expect("saved");
        let path = folder.path().join(IDENTITY_FILE);
        let text = fs::read_to_string(&path).expect("there");
        let key = text.find("-----BEGIN PRIVATE").expect("a key");
        for length in [0, 10, key, key + 40, text.len() - 40] {
            fs::write(&path, &text[..length]).expect("cut");
            assert!(Identity::load(folder.path()).is_err(), "cut at {length}");
        }
    }
}
