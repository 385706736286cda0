//! Manifests that a manifest names: read once each, with their variables replaced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Files;
use crate::Source;
use crate::diagnostic::Sink;
use crate::limits::{DOCUMENT_BYTES_MAX, FILES_MAX};
use crate::yaml::cursor::Cursor;
use crate::yaml::interpolate::interpolate;
use crate::yaml::parse::parse;
use crate::yaml::tree::{Budget, Node};

/// Variables by name.
pub(crate) type Environment = BTreeMap<String, String>;

/// Reads manifests and keeps their texts for messages.
pub(crate) struct Sources<'s> {
    pub files: &'s dyn Files,
    pub sink: &'s Sink,
    pub budget: Budget,
    /// Those that were read, with their numbers.
    pub read: Vec<Source>,
    numbers: BTreeMap<PathBuf, u32>,
    opened: usize,
}

impl<'s> Sources<'s> {
    pub fn new(files: &'s dyn Files, sink: &'s Sink) -> Self {
        Self {
            files,
            sink,
            budget: Budget::default(),
            read: Vec::new(),
            numbers: BTreeMap::new(),
            opened: 0,
        }
    }

    /// The tree of a manifest; `at` names it.
    pub fn open(&mut self, at: &Cursor<'_>, path: &Path, environment: &Environment) -> Option<Node> {
        self.opened += 1;
        if self.opened > FILES_MAX {
            at.error(format!("more than {FILES_MAX} files are read for one manifest"));
            return None;
        }
        let text = self.text(at, path)?;
        let number = match self.numbers.get(path) {
            Some(number) => *number,
            None => {
                let name = path.display().to_string();
                let number = self.sink.add_source(&name);
                self.numbers.insert(path.to_path_buf(), number);
                self.read.push(Source {
                    name,
                    text: text.clone(),
                });
                number
            }
        };
        let mut root = parse(&text, number, &mut self.budget, self.sink)?;
        let cursor = Cursor::root(&root, self.sink);
        if !cursor.is_map() {
            cursor.error(format!("a manifest is a mapping, this is {}", root.kind()));
            return None;
        }
        interpolate(&mut root, environment, self.sink);
        Some(root)
    }

    /// The text of a file.
    fn text(&self, at: &Cursor<'_>, path: &Path) -> Option<String> {
        let bytes = match self.files.read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                at.error(format!("cannot read '{}': {error}", path.display()));
                return None;
            }
        };
        if bytes.len() > DOCUMENT_BYTES_MAX {
            at.error(format!("'{}' has more than {DOCUMENT_BYTES_MAX} bytes", path.display()));
            return None;
        }
        let text = String::from_utf8(bytes).ok();
        if text.is_none() {
            at.error(format!("'{}' is not UTF-8 text", path.display()));
        }
        text
    }
}
