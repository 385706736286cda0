//! Tokens of the cluster's registry: `GNTRYREG-ID-SECRET`, the password that a registry client logs in with.

use std::fmt;
use std::str::FromStr;

use gantry_env::{Env, FreshIds};
use gantry_model::TokenId;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::base32;

/// The first part, by which people and secret scanners recognise such a token.
const PREFIX: &str = "GNTRYREG";
/// 160 bits: beyond guessing, and a whole number of base 32 characters.
const SECRET_BYTES: usize = 20;

/// A token with its secret. `Debug` leaves the secret out; `Display` is the text to hand on.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrySecret {
    /// The record it belongs to.
    pub id: TokenId,
    secret: [u8; SECRET_BYTES],
}

/// A text that is no token of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token of `gantry registry token create`")]
pub struct NotARegistrySecret;

impl RegistrySecret {
    /// A new one.
    #[must_use]
    pub fn create(env: &dyn Env) -> Self {
        let mut secret = [0; SECRET_BYTES];
        env.fill_random(&mut secret);
        Self {
            id: env.token_id(),
            secret,
        }
    }

    /// What is stored of it.
    #[must_use]
    pub fn sha256(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(self.secret).into();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether it is the one that this was stored of.
    #[must_use]
    pub fn is_of(&self, stored_sha256: &str) -> bool {
        self.sha256().as_bytes().ct_eq(stored_sha256.as_bytes()).into()
    }
}

impl fmt::Display for RegistrySecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}-{}-{}", self.id, base32::encode(&self.secret))
    }
}

impl fmt::Debug for RegistrySecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RegistrySecret({})", self.id)
    }
}

impl FromStr for RegistrySecret {
    type Err = NotARegistrySecret;

    fn from_str(text: &str) -> Result<Self, NotARegistrySecret> {
        let mut parts = text.trim().split('-');
        let (Some(PREFIX), Some(id), Some(secret), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotARegistrySecret);
        };
        let bytes = base32::decode(secret).ok();
        let secret = bytes.and_then(|bytes| bytes.try_into().ok());
        Ok(Self {
            id: id.parse().map_err(|_| NotARegistrySecret)?,
            secret: secret.ok_or(NotARegistrySecret)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_env::System;

    #[test]
    fn a_secret_round_trips_and_no_other_is_taken_for_it() {
        let secret = RegistrySecret::create(&System);
        let read: RegistrySecret = secret.to_string().parse().expect("its text");
        assert_eq!(read, secret);
        assert!(read.is_of(&secret.sha256()));
        assert!(!read.is_of(&RegistrySecret::create(&System).sha256()));
        for text in [
            "",
            "GNTRYREG",
            "GNTRYREG-0-0",
            "GNTRY-1-admin-x",
            &format!("{secret}-x"),
            &secret.to_string()[1..],
        ] {
            assert_eq!(text.parse::<RegistrySecret>(), Err(NotARegistrySecret), "{text}");
        }
    }
}
