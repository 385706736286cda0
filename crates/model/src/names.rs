//! Names that people give: one rule for namespaces, services, networks, volumes, configs and secrets.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Longest name: a DNS label holds 63 octets (RFC 1035, 2.3.4), and service names are DNS labels.
pub const NAME_LENGTH_MAX: usize = 63;

/// A text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a valid name: use 1 to {NAME_LENGTH_MAX} of a-z, A-Z, 0-9, '_', '.', '-', starting with a letter or digit"
)]
pub struct NameError {
    text: String,
}

/// A valid name, as Compose allows them (`[a-zA-Z0-9][a-zA-Z0-9._-]*`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Checks the rule.
    ///
    /// # Errors
    /// When the text is empty, longer than 63 characters or holds a character outside the rule.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if starts_well && text.len() <= NAME_LENGTH_MAX && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(NameError { text })
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A name within its namespace, shown as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QualifiedName {
    /// The owner of the name.
    pub namespace: Name,
    /// The name within the namespace.
    pub name: Name,
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for text in ["web", "Web_1.a-b", "0"] {
            assert!(Name::new(text).is_ok(), "{text}");
        }
        let long = "a".repeat(64);
        for text in ["", "-a", ".a", "a/b", "a b", "ä", long.as_str()] {
            assert!(Name::new(text).is_err(), "{text}");
        }
    }
}
