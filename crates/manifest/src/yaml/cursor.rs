//! A node together with the way to it: what the readers of fields hold, so that every message knows its place and path.

use std::fmt;

use super::tree::{Node, Value};
use crate::compose::keys::{Key, Support};
use crate::diagnostic::{Place, Sink, Site};
use crate::suggest::nearest;

/// A node, how it was reached, and where to report.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    pub node: &'a Node,
    step: Step<'a>,
    parent: Option<&'a Cursor<'a>>,
    sink: &'a Sink,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str, Place),
    Index(usize),
}

impl<'a> Cursor<'a> {
    pub fn root(node: &'a Node, sink: &'a Sink) -> Self {
        Self {
            node,
            step: Step::Root,
            parent: None,
            sink,
        }
    }

    /// The value of a key, unless it is absent or null: Compose treats both alike.
    pub fn get(&'a self, key: &str) -> Option<Cursor<'a>> {
        self.node
            .entries()
            .iter()
            .find(|entry| entry.key == key && entry.value.value != Value::Null)
            .map(|entry| self.child(Step::Key(&entry.key, entry.key_place), &entry.value))
    }

    /// Reads the value of a key, if there is one.
    pub fn read<T>(&self, key: &str, reader: impl FnOnce(&Cursor<'_>) -> Option<T>) -> Option<T> {
        let child = self.get(key)?;
        reader(&child)
    }

    /// The entries of a mapping without extension fields; reports anything else.
    pub fn entries(&'a self) -> Vec<Cursor<'a>> {
        let mut entries = self.all_entries();
        entries.retain(|entry| !entry.key().starts_with("x-"));
        entries
    }

    /// The entries of a mapping whose keys are the user's own, `x-` included; reports anything else.
    pub fn all_entries(&'a self) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::Map(entries) => entries
                .iter()
                .map(|entry| self.child(Step::Key(&entry.key, entry.key_place), &entry.value))
                .collect(),
            Value::Null => Vec::new(),
            Value::Scalar(_) | Value::List(_) => {
                self.error(format!("expected a mapping, found {}", self.node.kind()));
                Vec::new()
            }
        }
    }

    /// The items of a list; reports anything else.
    pub fn items(&'a self) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::List(items) => {
                let numbered = items.iter().enumerate();
                numbered
                    .map(|(index, item)| self.child(Step::Index(index), item))
                    .collect()
            }
            Value::Null => Vec::new(),
            Value::Scalar(_) | Value::Map(_) => {
                self.error(format!("expected a list, found {}", self.node.kind()));
                Vec::new()
            }
        }
    }

    /// The items of a list, or the single value itself.
    pub fn items_or_one(&'a self) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::Scalar(_) => vec![*self],
            Value::Null | Value::List(_) | Value::Map(_) => self.items(),
        }
    }

    pub fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    /// The key this value stands at, empty for an item of a list.
    pub fn key(&self) -> &'a str {
        match self.step {
            Step::Key(key, _) => key,
            Step::Root | Step::Index(_) => "",
        }
    }

    /// Compares the keys of a mapping with a table: reports the unknown, the ignored and the refused. False when it is no mapping.
    pub fn check_keys(&self, table: &[Key]) -> bool {
        for entry in self.entries() {
            match table.iter().find(|(name, _)| *name == entry.key()) {
                None => entry.report_unknown(table),
                Some((_, Support::Read | Support::Silent)) => {}
                Some(_) if entry.is_null() => {}
                Some((name, Support::Ignored(why))) => entry.warn_key(format!("'{name}' has no effect: {why}")),
                Some((name, Support::Refused(why))) => {
                    entry.error_key(format!("'{name}' is not supported yet"), Some((*why).to_string()));
                }
            }
        }
        self.is_map()
    }

    pub fn report_unknown(&self, table: &[Key]) {
        let known = table.iter().map(|(name, _)| *name);
        let help = match self.suggest(self.key(), known.clone()) {
            Some(name) => format!("did you mean '{name}'?"),
            None if table.len() <= 12 => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
            None => "fields of your own start with 'x-'".to_string(),
        };
        self.error_key(format!("unknown key '{}'", self.key()), Some(help));
    }

    /// The nearest known word, while there is room for messages.
    pub fn suggest<'k>(&self, word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
        if self.sink.is_full() {
            None
        } else {
            nearest(word, known)
        }
    }

    pub fn error(&self, message: impl Into<String>) {
        self.sink.error(&self.site(), message, None);
    }

    pub fn error_with(&self, message: impl Into<String>, help: impl Into<String>) {
        self.sink.error(&self.site(), message, Some(help.into()));
    }

    /// Points at the key, for what is wrong with the field as a whole or must not be shown.
    pub fn error_key(&self, message: impl Into<String>, help: Option<String>) {
        self.sink.error(&self.key_site(), message, help);
    }

    pub fn warn(&self, message: impl Into<String>) {
        self.sink.warn(&self.site(), message, None);
    }

    pub fn warn_with(&self, message: impl Into<String>, help: impl Into<String>) {
        self.sink.warn(&self.site(), message, Some(help.into()));
    }

    pub fn warn_key(&self, message: impl Into<String>) {
        self.sink.warn(&self.key_site(), message, None);
    }

    /// Where messages about the value point: at a single value itself, at the key of a list or mapping.
    pub fn site(&self) -> Site {
        match self.node.value {
            Value::Scalar(_) => Site {
                place: Some(self.node.place),
                path: self.to_string(),
            },
            Value::Null | Value::List(_) | Value::Map(_) => self.key_site(),
        }
    }

    fn key_site(&self) -> Site {
        let place = match self.step {
            Step::Key(_, place) => place,
            Step::Root | Step::Index(_) => self.node.place,
        };
        Site {
            place: Some(place),
            path: self.to_string(),
        }
    }

    fn child(&'a self, step: Step<'a>, node: &'a Node) -> Cursor<'a> {
        Cursor {
            node,
            step,
            parent: Some(self),
            sink: self.sink,
        }
    }
}

impl fmt::Display for Cursor<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(formatter)?;
        }
        let is_top = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(formatter, "[{index}]"),
            Step::Key(key, _) if key.contains(['.', '[', ' ']) => write!(formatter, "[{key:?}]"),
            Step::Key(key, _) if is_top => formatter.write_str(key),
            Step::Key(key, _) => write!(formatter, ".{key}"),
        }
    }
}
