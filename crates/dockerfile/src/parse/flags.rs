//! The flags of each instruction: which there are, and what they hold.

use super::lines::Logical;
use super::words::Flag;
use crate::ast::Word;
use crate::diagnostic::Diagnostic;
use crate::suggest::did_you_mean;

/// What a flag holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Text,
    Texts,
    Truth,
}

/// Flags by keyword.
const KNOWN: &[(&str, &[(&str, Holds)])] = &[
    ("FROM", &[("platform", Holds::Text)]),
    (
        "RUN",
        &[
            ("mount", Holds::Texts),
            ("network", Holds::Text),
            ("security", Holds::Text),
        ],
    ),
    (
        "COPY",
        &[
            ("from", Holds::Text),
            ("chown", Holds::Text),
            ("chmod", Holds::Text),
            ("link", Holds::Truth),
            ("parents", Holds::Truth),
            ("exclude", Holds::Texts),
        ],
    ),
    (
        "ADD",
        &[
            ("checksum", Holds::Text),
            ("chown", Holds::Text),
            ("chmod", Holds::Text),
            ("link", Holds::Truth),
            ("keep-git-dir", Holds::Truth),
            ("unpack", Holds::Truth),
            ("exclude", Holds::Texts),
        ],
    ),
    (
        "HEALTHCHECK",
        &[
            ("interval", Holds::Text),
            ("timeout", Holds::Text),
            ("start-period", Holds::Text),
            ("start-interval", Holds::Text),
            ("retries", Holds::Text),
        ],
    ),
];

/// The flags of one instruction, all known, none twice that may be only once.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    texts: Vec<(String, Word)>,
    truths: Vec<(String, bool)>,
}

impl Flags {
    pub fn check(keyword: &str, flags: Vec<Flag>, line: &Logical) -> Result<Self, Diagnostic> {
        let known = KNOWN
            .iter()
            .find(|(name, _)| *name == keyword)
            .map_or(&[][..], |(_, known)| known);
        let mut checked = Self::default();
        for flag in flags {
            let span = line.span(flag.range);
            let Some((_, holds)) = known.iter().find(|(name, _)| *name == flag.name) else {
                let names = known.iter().map(|(name, _)| *name);
                let help = did_you_mean(&flag.name, names.clone())
                    .map(|help| help.replace('\'', ""))
                    .or_else(|| {
                        let names: Vec<String> = names.map(|name| format!("--{name}")).collect();
                        (!names.is_empty()).then(|| format!("{keyword} takes {}", names.join(", ")))
                    });
                let help = help.map(|help| help.replace("did you mean ", "did you mean --"));
                return Err(Diagnostic::error(span, format!("{keyword} has no flag --{}", flag.name)).help(help));
            };
            let seen = checked
                .texts
                .iter()
                .map(|(name, _)| name)
                .chain(checked.truths.iter().map(|(name, _)| name));
            if *holds != Holds::Texts && seen.into_iter().any(|name| *name == flag.name) {
                return Err(Diagnostic::error(span, format!("--{} is given twice", flag.name)));
            }
            match (holds, flag.value) {
                (Holds::Text | Holds::Texts, Some(text)) => checked.texts.push((flag.name, Word { text, span })),
                (Holds::Text | Holds::Texts, None) => {
                    let message = format!("--{} needs a value", flag.name);
                    let help = format!("write --{}=VALUE", flag.name);
                    return Err(Diagnostic::error(span, message).help(help));
                }
                (Holds::Truth, value) => {
                    let truth = match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
                        None | Some("true") => true,
                        Some("false") => false,
                        Some(other) => {
                            let message = format!("--{}={other}: write true or false", flag.name);
                            return Err(Diagnostic::error(span, message));
                        }
                    };
                    checked.truths.push((flag.name, truth));
                }
            }
        }
        Ok(checked)
    }

    /// The value of a flag.
    pub fn text(&self, name: &str) -> Option<Word> {
        self.texts(name).into_iter().next()
    }

    /// All values of a flag.
    pub fn texts(&self, name: &str) -> Vec<Word> {
        let found = self.texts.iter().filter(|(flag, _)| flag == name);
        found.map(|(_, word)| word.clone()).collect()
    }

    /// Whether a flag was set or unset.
    pub fn truth(&self, name: &str) -> Option<bool> {
        self.truths
            .iter()
            .find(|(flag, _)| flag == name)
            .map(|(_, truth)| *truth)
    }
}
