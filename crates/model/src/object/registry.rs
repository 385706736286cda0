//! What the cluster's own registry remembers beside images and tags: who may use it, and what has no tag (yet).
//!
//! Repositories are image names without a tag, normalised: `docker.io/library/web`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Digest, NodeId, Timestamp, TokenId};

/// A manifest that belongs to a repository although no tag leads to it: it was pushed by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryManifest {
    /// The repository.
    pub repository: String,
    /// The manifest.
    pub digest: Digest,
    /// When it was pushed.
    pub pushed_at: Timestamp,
}

/// Content that was uploaded, and that no manifest may need yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: ByteSize,
    /// Nodes that keep it until it expires.
    pub nodes: BTreeSet<NodeId>,
    /// Repositories that it was uploaded to, each with the time until which a manifest must have come.
    pub repositories: BTreeMap<String, Timestamp>,
}

/// What a token may do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryAction {
    /// Read manifests, blobs and tags.
    Pull,
    /// Upload blobs and manifests, point tags.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
}

impl RegistryAction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The word that scopes of registry tokens use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for RegistryAction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for RegistryAction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|action| action.as_str() == text)
            .ok_or_else(|| format!("'{text}' is nothing that can be done in a registry: use pull, push or delete"))
    }
}

/// Which repositories a token is for: a name as people write it (`web`, `ghcr.io/a/b`), in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RepositoryPattern(pub String);

impl RepositoryPattern {
    /// Whether a repository, as people write its name, is among them.
    #[must_use]
    pub fn matches(&self, repository: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = repository.strip_prefix(first) else {
            return false;
        };
        let mut last = None;
        for part in parts {
            if let Some(between) = last.replace(part) {
                let Some(at) = rest.find(between) else { return false };
                rest = &rest[at + between.len()..];
            }
        }
        match last {
            None => rest.is_empty(),
            Some(ending) => rest.ends_with(ending),
        }
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// A token of the registry as stored: its secret's digest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryToken {
    /// Its id, part of the token's text.
    pub id: TokenId,
    /// What people call it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// SHA-256 of the secret, hexadecimal.
    pub secret_sha256: String,
    /// What it may do there.
    pub actions: BTreeSet<RegistryAction>,
    /// Where.
    pub repositories: RepositoryPattern,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working; never without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl RegistryToken {
    /// Whether it allows an action in a repository, as people write its name.
    #[must_use]
    pub fn allows(&self, repository: &str, action: RegistryAction) -> bool {
        self.actions.contains(&action) && self.repositories.matches(repository)
    }

    /// Whether it still works.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_name_repositories() {
        for (pattern, matching, others) in [
            ("web", vec!["web"], vec!["web2", "we", "a/web", ""]),
            ("*", vec!["web", "a/b", ""], vec![]),
            ("team/*", vec!["team/a", "team/a/b", "team/"], vec!["team", "steam/a"]),
            ("*/web", vec!["a/web", "a/b/web"], vec!["web", "a/web2"]),
            ("a*b*c", vec!["abc", "a-b-c", "abbcc"], vec!["ac", "acb", "bc"]),
            ("a*a", vec!["aa", "aba"], vec!["a"]),
        ] {
            let pattern = RepositoryPattern(pattern.to_string());
            for repository in matching {
                assert!(pattern.matches(repository), "{pattern} {repository}");
            }
            for repository in others {
                assert!(!pattern.matches(repository), "{pattern} {repository}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_pattern_without_a_star_is_the_name_itself(pattern in "[a-c/]{0,4}", name in "[a-c/]{0,4}") {
            prop_assert_eq!(RepositoryPattern(pattern.clone()).matches(&name), pattern == name);
        }
    }
}
