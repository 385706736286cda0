//! Join tokens: `GNTRY-1-ROLE-AUTHORITY-ID-SECRET`.
//!
//! The token tells a newcomer which authority it must see before it says anything, and tells the cluster that the newcomer may
//! join. The last part ends with a checksum over all the others, so that a typo is told from a token that does not exist.

use std::fmt;
use std::str::FromStr;

use gantry_env::{Env, FreshIds};
use gantry_model::object::{Role, TokenRecord};
use gantry_model::{Class, DurationMs, Problem, Timestamp, TokenId};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::base32;

/// The first part, by which people and secret scanners recognise a token.
pub const TOKEN_PREFIX: &str = "GNTRY";

const VERSION: &str = "1";
const DIGEST_BYTES: usize = 32;
/// 144 bits: beyond guessing, and a whole number of base 32 characters together with the checksum.
const SECRET_BYTES: usize = 18;
const CHECKSUM_BYTES: usize = 2;
const PARTS: usize = 6;

/// A text that is not a usable token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another text altogether.
    #[error("this is not a join token: it must begin with {TOKEN_PREFIX}-{VERSION}-")]
    Prefix,
    /// Made by another version.
    #[error("the join token has format version '{0}', and only version {VERSION} is known")]
    Version(String),
    /// Parts are missing or too many.
    #[error("the join token has {0} parts instead of {PARTS}: it was not copied whole")]
    Parts(usize),
    /// The role is none.
    #[error("the join token's role {0}")]
    Role(String),
    /// A part has too few or too many characters.
    #[error("the {part} of the join token has {actual} characters instead of {expected}: it was not copied whole")]
    Length {
        /// Which part.
        part: &'static str,
        /// What it has.
        actual: usize,
        /// What it must have.
        expected: usize,
    },
    /// A character that no token has.
    #[error("the {part} of the join token has the character '{character}', which no token has")]
    Character {
        /// Which part.
        part: &'static str,
        /// The character.
        character: char,
    },
    /// All parts are well-formed, but they do not belong together.
    #[error("the join token has a typo: its checksum does not match")]
    Checksum,
    /// The secret is not that of the stored token.
    #[error("the join token is not known to this cluster, or was revoked")]
    Unknown,
    /// Too late.
    #[error("the join token has expired")]
    Expired,
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let class = match error {
            TokenError::Unknown | TokenError::Expired => Class::Denied,
            TokenError::Prefix
            | TokenError::Version(_)
            | TokenError::Parts(_)
            | TokenError::Role(_)
            | TokenError::Length { .. }
            | TokenError::Character { .. }
            | TokenError::Checksum => Class::Invalid,
        };
        let remedy = match class {
            Class::Denied => "make a new one with `gantry cluster token create`",
            _ => "copy the whole token again from `gantry cluster token create`",
        };
        Problem::new(class, "join token", error.to_string()).remedy(remedy)
    }
}

/// SHA-256 of the authority's certificate (DER).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuthorityDigest(pub [u8; DIGEST_BYTES]);

impl AuthorityDigest {
    /// The digest of a certificate.
    #[must_use]
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(Sha256::digest(certificate_der).into())
    }
}

impl fmt::Display for AuthorityDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&base32::encode(&self.0))
    }
}

impl fmt::Debug for AuthorityDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// A join token with its secret. `Debug` leaves the secret out; `Display` is the text to hand on.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What its holder becomes.
    pub role: Role,
    /// The authority that the holder must see.
    pub authority: AuthorityDigest,
    /// The record it belongs to.
    pub id: TokenId,
    secret: [u8; SECRET_BYTES],
}

impl Token {
    /// A new token and what is stored of it.
    #[must_use]
    pub fn create(role: Role, authority: AuthorityDigest, ttl: DurationMs, env: &dyn Env) -> (Self, TokenRecord) {
        let mut secret = [0; SECRET_BYTES];
        env.fill_random(&mut secret);
        let token = Self {
            role,
            authority,
            id: env.token_id(),
            secret,
        };
        let now = env.now();
        let record = TokenRecord {
            id: token.id,
            role,
            secret_sha256: token.secret_sha256(),
            created_at: now,
            expires_at: now.after(ttl),
        };
        (token, record)
    }

    /// Whether this token is the one of the record, and still valid.
    ///
    /// # Errors
    /// [`TokenError::Unknown`] when role or secret differ, [`TokenError::Expired`] when it is too late.
    pub fn verify(&self, record: &TokenRecord, now: Timestamp) -> Result<(), TokenError> {
        let (own, stored) = (self.secret_sha256(), record.secret_sha256.to_ascii_lowercase());
        let same_secret: bool = own.as_bytes().ct_eq(stored.as_bytes()).into();
        if !same_secret || self.role != record.role || self.id != record.id {
            return Err(TokenError::Unknown);
        }
        if now >= record.expires_at {
            return Err(TokenError::Expired);
        }
        Ok(())
    }

    fn secret_sha256(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(self.secret).into();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(self.role.as_str())
            .chain_update(self.authority.0)
            .chain_update(self.id.0.to_be_bytes())
            .chain_update(self.secret)
            .finalize()
            .into();
        [digest[0], digest[1]]
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = [self.secret.as_slice(), &self.checksum()].concat();
        let Self {
            role, authority, id, ..
        } = self;
        write!(
            formatter,
            "{TOKEN_PREFIX}-{VERSION}-{role}-{authority}-{id}-{}",
            base32::encode(&tail)
        )
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Token({} {})", self.role, self.id)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        if !parts[0].eq_ignore_ascii_case(TOKEN_PREFIX) {
            return Err(TokenError::Prefix);
        }
        if parts.get(1).is_some_and(|version| *version != VERSION) {
            return Err(TokenError::Version(parts[1].to_string()));
        }
        let [_, _, role, authority, id, tail] = parts.as_slice() else {
            return Err(TokenError::Parts(parts.len()));
        };
        let authority = bytes::<DIGEST_BYTES>("authority digest", authority)?;
        let id = bytes_of_id(id)?;
        let tail = bytes::<{ SECRET_BYTES + CHECKSUM_BYTES }>("secret", tail)?;
        let mut secret = [0; SECRET_BYTES];
        secret.copy_from_slice(&tail[..SECRET_BYTES]);
        let token = Self {
            role: role.to_ascii_lowercase().parse().map_err(TokenError::Role)?,
            authority: AuthorityDigest(authority),
            id,
            secret,
        };
        if token.checksum() == tail[SECRET_BYTES..] {
            Ok(token)
        } else {
            Err(TokenError::Checksum)
        }
    }
}

fn bytes<const N: usize>(part: &'static str, text: &str) -> Result<[u8; N], TokenError> {
    let length = |expected| TokenError::Length {
        part,
        actual: text.chars().count(),
        expected,
    };
    let expected = base32::text_length(N);
    if text.chars().count() != expected {
        return Err(length(expected));
    }
    let bytes = base32::decode(text).map_err(|character| TokenError::Character { part, character })?;
    bytes.try_into().map_err(|_| length(expected))
}

/// Ids are the same alphabet, but a number rather than bytes: its bits stand at the low end.
fn bytes_of_id(text: &str) -> Result<TokenId, TokenError> {
    let part = "id";
    let expected = TokenId(0).to_string().len();
    if text.chars().count() != expected {
        return Err(TokenError::Length {
            part,
            actual: text.chars().count(),
            expected,
        });
    }
    base32::decode(text).map_err(|character| TokenError::Character { part, character })?;
    let plain: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|character| match character {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        })
        .collect();
    plain.parse().map_err(|_| TokenError::Checksum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_env::Seeded;
    use proptest::prelude::*;

    fn sample(seed: u64) -> (Token, TokenRecord, Seeded) {
        let env = Seeded::new(seed, Timestamp(1_000_000));
        let (token, record) = Token::create(Role::Agent, AuthorityDigest::of(b"ca"), DurationMs::secs(60), &env);
        (token, record, env)
    }

    #[test]
    fn a_token_round_trips_and_forgives_case_and_space() {
        let (token, record, env) = sample(1);
        let text = token.to_string();
        assert!(text.starts_with("GNTRY-1-agent-"), "{text}");
        for variant in [text.clone(), text.to_uppercase(), format!("  {text}\n")] {
            assert_eq!(variant.parse::<Token>().as_ref(), Ok(&token), "{variant}");
        }
        assert_eq!(token.verify(&record, env.now()), Ok(()));
        assert!(!format!("{token:?}").contains(&text[text.len() - 20..]));
        assert!(!record.secret_sha256.contains(&text[text.len() - 20..]));
    }

    #[test]
    fn each_typo_has_its_own_words() {
        let text = sample(2).0.to_string();
        let cut = &text[..text.len() - 1];
        let checks = [
            ("SWMTKN-1-x".to_string(), "must begin with GNTRY-1-"),
            (String::new(), "must begin with GNTRY-1-"),
            (text.replace("GNTRY-1", "GNTRY-2"), "format version '2'"),
            ("GNTRY-1-agent".to_string(), "3 parts instead of 6"),
            (text.replace("agent", "boss"), "'boss' is not a role"),
            (
                cut.to_string(),
                "secret of the join token has 31 characters instead of 32",
            ),
            (format!("{cut}!"), "the character '!'"),
            (text.replace("agent", "server"), "typo"),
        ];
        for (text, words) in checks {
            let error = text.parse::<Token>().expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn expired_foreign_and_other_tokens_are_refused() {
        let (token, record, env) = sample(3);
        env.advance(DurationMs::secs(60));
        assert_eq!(token.verify(&record, env.now()), Err(TokenError::Expired));
        let other = sample(4).0;
        assert_eq!(other.verify(&record, Timestamp(0)), Err(TokenError::Unknown));
        let mut promoted = record.clone();
        promoted.role = Role::Server;
        assert_eq!(token.verify(&promoted, Timestamp(0)), Err(TokenError::Unknown));
    }

    proptest! {
        /// 16 bits of checksum: one typo in 65,536 would slip through, none of these does.
        #[test]
        fn one_wrong_character_is_noticed(position in 0usize..1000, replacement in "[0-9a-z]") {
            let token = sample(5).0;
            let text = token.to_string();
            let position = position % text.len();
            let mut wrong = text.clone();
            wrong.replace_range(position..=position, &replacement);
            match wrong.parse::<Token>() {
                Ok(parsed) => prop_assert_eq!(parsed, token),
                Err(_) => prop_assert_ne!(wrong, text),
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            prop_assert!(text.parse::<Token>().is_err());
        }
    }
}
