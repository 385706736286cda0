//! Ids: 64 random bits each, shown as 13 characters of Crockford's base 32 in lower case.
//!
//! 64 bits keep a table of millions small; a fresh id is only ever stored under the precondition that it is not in use yet,
//! so a collision is refused rather than merged. Fresh ids come from `gantry-env` alone.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Characters in the text form: 13 × 5 bits hold 64.
pub const ID_TEXT_LENGTH: usize = 13;

/// Crockford's alphabet without i, l, o and u, so that no two characters look alike.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn encode(value: u64) -> [u8; ID_TEXT_LENGTH] {
    let mut text = [b'0'; ID_TEXT_LENGTH];
    let mut rest = value;
    for slot in text.iter_mut().rev() {
        *slot = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    text
}

fn decode(text: &str) -> Option<u64> {
    if text.len() != ID_TEXT_LENGTH {
        return None;
    }
    text.bytes().try_fold(0u64, |value, byte| {
        let digit = ALPHABET.iter().position(|candidate| *candidate == byte)?;
        value.checked_mul(32)?.checked_add(digit as u64)
    })
}

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an id: expected {ID_TEXT_LENGTH} characters of 0-9 and a-z without i, l, o, u")]
pub struct IdError {
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = encode(self.0);
                formatter.pad(std::str::from_utf8(&text).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                decode(text).map(Self).ok_or_else(|| IdError { text: text.to_string() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

id! {
    /// A machine that runs an agent.
    NodeId
}
id! {
    /// A control-plane process; also its id in Raft.
    ServerId
}
id! {
    /// A service; a service deleted and made again has another id.
    ServiceId
}
id! {
    /// One copy of a workload, placed once, on one node, never moved.
    ReplicaId
}
id! {
    /// One version of the content of a config or secret.
    DataId
}
id! {
    /// A join token.
    TokenId
}
id! {
    /// One connection of an agent to the leader.
    SessionId
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_form_round_trips_and_keeps_order(a: u64, b: u64) {
            let (left, right) = (NodeId(a), NodeId(b));
            prop_assert_eq!(left.to_string().parse::<NodeId>(), Ok(left));
            prop_assert_eq!(left.to_string().cmp(&right.to_string()), a.cmp(&b));
        }
    }

    #[test]
    fn foreign_text_is_refused() {
        for text in ["", "0", "zzzzzzzzzzzzz", "000000000000i", "00000000000000"] {
            assert!(text.parse::<ReplicaId>().is_err(), "{text}");
        }
    }
}
