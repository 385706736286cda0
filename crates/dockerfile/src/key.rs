//! Names of results by what they were made from.
//!
//! **Invariant:** two results have one key only if they were made from the same content by the same operation: every part
//! that goes in is preceded by its length, so no two lists of parts read alike.

use std::fmt;

use gantry_model::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Changes when operations mean something else than before, so that old caches are not believed.
const KEY_VERSION: &str = "gantry-build-1";

/// The name of a file tree, or of one change of it, by what it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Digest);

impl Key {
    /// Of an empty tree.
    #[must_use]
    pub fn scratch() -> Self {
        KeyBuilder::new("scratch").finish()
    }

    /// Of an image's tree, by the digest that names its layers (its chain id).
    #[must_use]
    pub fn image(layers: Digest) -> Self {
        KeyBuilder::new("image").text(&layers.to_string()).finish()
    }

    /// Of the tree of `self` with a change on top.
    #[must_use]
    pub fn with_layer(self, layer: Self) -> Self {
        KeyBuilder::new("tree").key(self).key(layer).finish()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Collects the parts of a key.
pub(crate) struct KeyBuilder(Sha256);

impl KeyBuilder {
    pub fn new(kind: &str) -> Self {
        Self(Sha256::new()).text(KEY_VERSION).text(kind)
    }

    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    pub fn texts<'t>(mut self, texts: impl ExactSizeIterator<Item = &'t str>) -> Self {
        self.0.update((texts.len() as u64).to_le_bytes());
        texts.fold(self, Self::text)
    }

    pub fn number(mut self, number: u64) -> Self {
        self.0.update(number.to_le_bytes());
        self
    }

    pub fn flag(self, flag: bool) -> Self {
        self.number(flag.into())
    }

    pub fn key(self, key: Key) -> Self {
        self.text(&key.0.to_string())
    }

    pub fn option(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.flag(true).text(text),
            None => self.flag(false),
        }
    }

    pub fn finish(self) -> Key {
        Key(Digest::from_bytes(self.0.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let of = |parts: &[&str]| KeyBuilder::new("test").texts(parts.iter().copied()).finish();
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(KeyBuilder::new("a").finish(), KeyBuilder::new("b").finish());
        assert_ne!(
            KeyBuilder::new("t").option(None).finish(),
            KeyBuilder::new("t").option(Some("")).finish()
        );
    }
}
