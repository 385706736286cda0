//! The tree: values with the place they come from.

use crate::diagnostic::Place;
use crate::limits::{VALUE_BYTES, VALUES_MAX};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub value: Value,
    pub place: Place,
    pub directive: Directive,
}

/// What a value is, before any field gives it a meaning.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A text as written; `plain` means without quotes, so that it may be meant as a number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scalar {
    pub text: String,
    pub plain: bool,
}

/// A key with its value; keys of one map are distinct.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    pub key_place: Place,
    pub value: Node,
}

/// Compose's tags that steer the merging of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Directive {
    #[default]
    None,
    /// `!reset`: the field of the earlier files is taken away.
    Reset,
    /// `!override`: the field of the earlier files is replaced instead of merged.
    Override,
}

impl Node {
    pub fn new(value: Value, place: Place) -> Self {
        Self {
            value,
            place,
            directive: Directive::None,
        }
    }

    /// What the node and all below it take from the budget: one each, and more for long texts.
    pub fn size(&self) -> usize {
        1 + match &self.value {
            Value::Null => 0,
            Value::Scalar(scalar) => scalar.text.len() / VALUE_BYTES,
            Value::List(items) => items.iter().map(Self::size).sum(),
            Value::Map(entries) => {
                let sizes = entries
                    .iter()
                    .map(|entry| entry.key.len() / VALUE_BYTES + entry.value.size());
                sizes.sum()
            }
        }
    }

    /// Levels, 1 for a scalar.
    pub fn depth(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.depth()).max().unwrap_or(0),
        }
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Scalar(_) | Value::List(_) => &[],
        }
    }

    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// In words, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Values that may still be made while one application is read.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: VALUES_MAX }
    }
}

impl Budget {
    /// Whether that many more fit; takes them if so.
    pub fn take(&mut self, values: usize) -> bool {
        match self.left.checked_sub(values) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
