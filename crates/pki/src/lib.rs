//! Who is who: the cluster's certificate authority, certificates, join tokens and identities on disk.
//!
//! **Invariant:** the authority decides everything in a certificate but the public key: id, role and lifetime never come from a
//! request. **Invariant:** private keys are made where they are used and never travel.
//! Deliberately not here: TLS and connections (`rpc`), which tokens exist (`state`), the authority's storage (`raft`).

mod authority;
mod base32;
mod error;
mod identity;
mod peer;
mod pem;
mod registry_secret;
mod renew;
mod request;
mod token;

pub use authority::{AUTHORITY_LIFETIME, Authority, CLOCK_SKEW_MAX, Subject, Validity, is_host_name};
pub use error::PkiError;
pub use identity::{IDENTITY_FILE, Identity};
pub use peer::Peer;
pub use pem::{certificate_der, private_key_der};
pub use registry_secret::{NotARegistrySecret, RegistrySecret};
pub use renew::renew_at;
pub use request::KeyRequest;
pub use token::{AuthorityDigest, TOKEN_PREFIX, Token, TokenError};

/// The name in the certificate of every server.
pub const SERVER_NAME: &str = "server.gantry";

/// Names below it say who a member is.
pub(crate) const MEMBER_DOMAIN: &str = "gantry";

/// The name in the certificate of one member, such as `0123456789abc.agent.gantry`.
#[must_use]
pub fn member_name(role: gantry_model::object::Role, id: &str) -> String {
    format!("{}.{role}.{MEMBER_DOMAIN}", id.to_ascii_lowercase())
}
