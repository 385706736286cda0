//! What is wrong with a manifest and where: diagnostics and the sink that collects them.
//!
//! **Invariant:** a diagnostic never quotes the content of a secret; it names keys, references and the values of other fields.

use std::cell::{Cell, RefCell};

use serde::{Deserialize, Serialize};

use crate::limits::DIAGNOSTICS_MAX;

/// Whether the manifest can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but something in it has no effect.
    Warning,
}

/// A piece of a file; lines and columns start at 1, columns count characters, the end is exclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First line.
    pub line: u32,
    /// First column.
    pub column: u32,
    /// Line of the end.
    pub end_line: u32,
    /// Column just after the last character.
    pub end_column: u32,
}

/// A message about one place of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The name of the [`Source`](crate::Source); empty when it is about no file, such as a bad project name on the command line.
    pub source: String,
    /// Where in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// Which field, such as `services.web.ports[0]`; empty for the whole file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// The next thing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// A position that outlives the tree: which source, and where in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub source: u32,
    pub span: Span,
}

/// A place with the path of its field, kept for checks that need the whole application.
#[derive(Debug, Clone, Default)]
pub(crate) struct Site {
    pub place: Option<Place>,
    pub path: String,
}

/// Collects diagnostics. Shared by everything that reads one application, hence the interior mutability.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    names: RefCell<Vec<String>>,
    found: RefCell<Vec<(Option<Place>, Diagnostic)>>,
    errors: Cell<usize>,
}

impl Sink {
    pub fn new(names: Vec<String>) -> Self {
        Self {
            names: RefCell::new(names),
            ..Self::default()
        }
    }

    /// Another file that places may be in; gives its number.
    pub fn add_source(&self, name: &str) -> u32 {
        let mut names = self.names.borrow_mut();
        names.push(name.to_string());
        u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
    }

    pub fn error(&self, site: &Site, message: impl Into<String>, help: Option<String>) {
        self.errors.set(self.errors.get() + 1);
        self.add(Severity::Error, site, message.into(), help);
    }

    pub fn warn(&self, site: &Site, message: impl Into<String>, help: Option<String>) {
        self.add(Severity::Warning, site, message.into(), help);
    }

    pub fn has_errors(&self) -> bool {
        self.errors.get() > 0
    }

    /// Whether further errors are only counted, so that nothing costly should be done for their messages.
    pub fn is_full(&self) -> bool {
        self.errors.get() > DIAGNOSTICS_MAX
    }

    /// In the order of the sources and lines, errors and warnings mixed.
    pub fn into_sorted(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }

    /// One alias used by many services brings the same message at the same place many times; the first one says it. An error
    /// is kept before a warning when there are too many.
    fn add(&self, severity: Severity, site: &Site, message: String, help: Option<String>) {
        let mut found = self.found.borrow_mut();
        let repeated = |(place, other): &(Option<Place>, Diagnostic)| *place == site.place && other.message == message;
        if found.iter().any(repeated) {
            return;
        }
        if found.len() >= DIAGNOSTICS_MAX {
            let replaceable = found.iter().rposition(|(_, other)| other.severity == Severity::Warning);
            match (severity, replaceable) {
                (Severity::Error, Some(position)) => found.remove(position),
                (Severity::Error, None) | (Severity::Warning, _) => return,
            };
        }
        let names = self.names.borrow();
        let source = site.place.and_then(|place| names.get(place.source as usize));
        found.push((
            site.place,
            Diagnostic {
                severity,
                source: source.cloned().unwrap_or_default(),
                span: site.place.map(|place| place.span),
                path: site.path.clone(),
                message,
                help,
            },
        ));
    }
}
