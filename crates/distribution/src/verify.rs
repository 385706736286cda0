//! Digests of what registries send.

use gantry_model::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::Cause;

/// The digest of these bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Fails when the bytes are not what the digest says.
pub(crate) fn check(bytes: &[u8], expected: Digest) -> Result<(), Cause> {
    let found = digest_of(bytes);
    if found == expected {
        return Ok(());
    }
    Err(Cause::WrongDigest { expected, found })
}
