//! `$NAME` and `${NAME…}`: quotes, escapes and variables, as BuildKit's shell lexer treats them.
//!
//! **Invariant:** terminates within the limits whatever the text and the values are.

use std::collections::BTreeSet;

use crate::limits::{NESTING_MAX, VALUE_BYTES_MAX};
use crate::pattern::Pattern;

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `'…` or `"…`.
    #[error("the {0} quote is not closed")]
    Unclosed(&'static str),
    /// `${NAME`.
    #[error("'}}' is missing after '${{{0}'")]
    MissingBrace(String),
    /// `${NAME/pattern}`.
    #[error("the second '/' is missing in '${{{0}/…'")]
    MissingSlash(String),
    /// `${}`, `${:x}`.
    #[error("'${{{0}' names no variable")]
    BadSubstitution(String),
    /// `${NAME^}`.
    #[error("'{0}' is no known way to change a variable: use :- - :+ + :? ? # ## % %% / or //")]
    UnknownModifier(String),
    /// `${NAME:?message}`.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What its author says.
        message: String,
    },
    /// `${NAME#\x}`.
    #[error("'\\{0}' is no escape in a pattern: use \\* \\? or \\\\")]
    BadPatternEscape(char),
    /// Grows beyond [`VALUE_BYTES_MAX`].
    #[error("the value becomes longer than {VALUE_BYTES_MAX} bytes")]
    TooLong,
    /// Deeper than [`NESTING_MAX`].
    #[error("substitutions are nested more than {NESTING_MAX} deep")]
    TooDeep,
    /// Matching would take too long.
    #[error("the pattern and the value are too long to be matched")]
    TooMuchWork,
}

/// How to read a text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lexer {
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters.
    pub ignore_quotes: bool,
    /// `$NAME` of an unknown variable stays as it is.
    pub keep_unset: bool,
}

impl Lexer {
    /// Quotes and escapes mean something and go away.
    pub const fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            ignore_quotes: false,
            keep_unset: false,
        }
    }

    /// For the content of here-documents.
    pub const fn document() -> Self {
        Self {
            ignore_quotes: true,
            ..Self::new('\\')
        }
    }
}

/// Where values come from.
pub(crate) trait Variables {
    fn value(&self, name: &str) -> Option<&str>;
}

/// Knows none.
pub(crate) struct NoVariables;

impl Variables for NoVariables {
    fn value(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// What came of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expansion {
    pub text: String,
    /// The result split at blanks outside of quotes.
    pub words: Vec<String>,
    /// Variables that have a value.
    pub matched: BTreeSet<String>,
    /// Those that have none.
    pub unmatched: BTreeSet<String>,
}

/// Expands a text.
pub(crate) fn expand(lexer: Lexer, text: &str, variables: &dyn Variables) -> Result<Expansion, ExpandError> {
    let mut state = Expander {
        lexer,
        characters: text.chars().collect(),
        position: 0,
        variables,
        depth: 0,
        matched: BTreeSet::new(),
        unmatched: BTreeSet::new(),
    };
    let (text, words) = state.until(None, lexer.raw_escapes)?;
    Ok(Expansion {
        text,
        words,
        matched: state.matched,
        unmatched: state.unmatched,
    })
}

/// Splits what is expanded into words as it comes.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    /// A character outside of quotes: a blank ends a word.
    fn push(&mut self, character: char) {
        if !character.is_whitespace() {
            self.current.push(character);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

struct Expander<'v> {
    lexer: Lexer,
    characters: Vec<char>,
    position: usize,
    variables: &'v dyn Variables,
    depth: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.position).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.position += 1;
        Some(character)
    }

    /// Up to the stop character, which is taken too; to the end without one.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), ExpandError> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(character) = self.peek() {
            if text.len() > VALUE_BYTES_MAX {
                return Err(ExpandError::TooLong);
            }
            if Some(character) == stop {
                self.position += 1;
                return Ok((text, words.finish()));
            }
            match character {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|character| words.push(character));
                    text.push_str(&value);
                }
                '\'' | '"' if !self.lexer.ignore_quotes => {
                    let value = if character == '\'' {
                        self.single_quoted()?
                    } else {
                        self.double_quoted(raw_escapes)?
                    };
                    words.current.push_str(&value);
                    text.push_str(&value);
                }
                '<' => self.less_than(&mut text, &mut words),
                _ => self.plain(raw_escapes, &mut text, &mut words),
            }
        }
        match stop {
            Some(_) => Err(ExpandError::MissingBrace(String::new())),
            None if text.len() > VALUE_BYTES_MAX => Err(ExpandError::TooLong),
            None => Ok((text, words.finish())),
        }
    }

    /// Blanks between `<<` and its word do not end the word.
    fn less_than(&mut self, text: &mut String, words: &mut Words) {
        let start = self.position;
        self.position += 1;
        if self.peek() == Some('<') {
            self.position += 1;
            while matches!(self.peek(), Some(' ' | '\t')) {
                self.position += 1;
            }
        }
        let taken = &self.characters[start..self.position];
        text.extend(taken);
        words.current.extend(taken);
    }

    fn plain(&mut self, raw_escapes: bool, text: &mut String, words: &mut Words) {
        let Some(character) = self.next() else { return };
        if character != self.lexer.escape {
            text.push(character);
            words.push(character);
            return;
        }
        if raw_escapes {
            text.push(character);
            words.current.push(character);
        }
        if let Some(escaped) = self.next() {
            text.push(escaped);
            words.current.push(escaped);
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.position;
        self.position += 1;
        while let Some(character) = self.next() {
            if character == '\'' {
                let inner = if self.lexer.raw_quotes {
                    start..self.position
                } else {
                    start + 1..self.position - 1
                };
                return Ok(self.characters[inner].iter().collect());
            }
        }
        Err(ExpandError::Unclosed("single"))
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, ExpandError> {
        let mut text = String::new();
        self.position += 1;
        if self.lexer.raw_quotes {
            text.push('"');
        }
        while let Some(character) = self.peek() {
            match character {
                '"' => {
                    self.position += 1;
                    if self.lexer.raw_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                '$' => {
                    let value = self.dollar()?;
                    text.push_str(&value);
                }
                _ => self.quoted_character(raw_escapes, &mut text),
            }
            if text.len() > VALUE_BYTES_MAX {
                return Err(ExpandError::TooLong);
            }
        }
        Err(ExpandError::Unclosed("double"))
    }

    /// Within double quotes only `"`, `$` and the escape character itself can be escaped.
    fn quoted_character(&mut self, raw_escapes: bool, text: &mut String) {
        let Some(character) = self.next() else { return };
        if character != self.lexer.escape {
            text.push(character);
            return;
        }
        match self.peek() {
            None => {}
            Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.lexer.escape => {
                if raw_escapes {
                    text.push(character);
                }
                self.position += 1;
                text.push(escaped);
            }
            Some(_) => text.push(character),
        }
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.position += 1;
        if self.peek() == Some('{') {
            self.position += 1;
            self.depth += 1;
            if self.depth > NESTING_MAX {
                return Err(ExpandError::TooDeep);
            }
            let value = self.braced();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_string());
        }
        Ok(match self.value(&name) {
            Some(value) => value,
            None if self.lexer.keep_unset => format!("${name}"),
            None => String::new(),
        })
    }

    /// After `${`.
    fn braced(&mut self) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(ExpandError::MissingBrace(String::new())),
            Some(character @ ('{' | '}' | ':')) => return Err(ExpandError::BadSubstitution(character.to_string())),
            Some(_) => {}
        }
        let name = self.name();
        let Some(modifier) = self.next() else {
            return Err(ExpandError::MissingBrace(name));
        };
        match modifier {
            '}' => Ok(match self.value(&name) {
                Some(value) => value,
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => match self.next() {
                Some(modifier @ ('-' | '+' | '?')) => self.conditional(&name, modifier, true),
                Some(other) => Err(ExpandError::UnknownModifier(format!(":{other}"))),
                None => Err(ExpandError::MissingBrace(name)),
            },
            '-' | '+' | '?' => self.conditional(&name, modifier, false),
            '#' | '%' => self.trimmed(&name, modifier),
            '/' => self.replaced(&name),
            other => Err(ExpandError::UnknownModifier(other.to_string())),
        }
    }

    /// The word up to the closing brace.
    fn word(&mut self, name: &str, raw_escapes: bool) -> Result<String, ExpandError> {
        match self.until(Some('}'), raw_escapes) {
            Ok((word, _)) => Ok(word),
            Err(ExpandError::MissingBrace(inner)) if inner.is_empty() => {
                Err(ExpandError::MissingBrace(name.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    fn conditional(&mut self, name: &str, modifier: char, empty_is_unset: bool) -> Result<String, ExpandError> {
        let word = self.word(name, false)?;
        let value = self.value(name);
        if value.is_none() && self.lexer.keep_unset {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let is_unset = value.is_none();
        let present = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (modifier, present) {
            ('-', Some(value)) | ('?', Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            _ => Err(ExpandError::Required {
                name: name.to_string(),
                message: match (word.is_empty(), is_unset) {
                    (false, _) => word,
                    (true, true) => "is not allowed to be unset".to_string(),
                    (true, false) => "is not allowed to be empty".to_string(),
                },
            }),
        }
    }

    /// `#` and `%` take the shortest match away, twice the longest.
    fn trimmed(&mut self, name: &str, modifier: char) -> Result<String, ExpandError> {
        let word = self.word(name, true)?;
        let Some(value) = self.value(name) else {
            return Ok(self.kept(format!("${{{name}{modifier}{word}}}")));
        };
        let (word, longest) = match word.strip_prefix(modifier) {
            Some(word) => (word, true),
            None => (word.as_str(), false),
        };
        let pattern = Pattern::parse(word)?;
        if modifier == '#' {
            pattern.without_prefix(&value, longest)
        } else {
            pattern.without_suffix(&value, longest)
        }
    }

    fn replaced(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.position += 1;
        }
        let pattern = match self.until(Some('/'), true) {
            Ok((pattern, _)) => pattern,
            Err(ExpandError::MissingBrace(_)) => return Err(ExpandError::MissingSlash(name.to_string())),
            Err(error) => return Err(error),
        };
        let replacement = self.word(name, true)?;
        let Some(value) = self.value(name) else {
            return Ok(self.kept(format!("${{{name}/{pattern}/{replacement}}}")));
        };
        Pattern::parse(&pattern)?.replaced(&value, &replacement, all)
    }

    /// What an unknown variable's substitution becomes.
    fn kept(&self, written: String) -> String {
        if self.lexer.keep_unset { written } else { String::new() }
    }

    /// Letters, digits and `_`; only digits; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let start = self.position;
        match self.peek() {
            Some(first) if first.is_numeric() => {
                while self.peek().is_some_and(char::is_numeric) {
                    self.position += 1;
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => self.position += 1,
            _ => {
                while self.peek().is_some_and(|next| next.is_alphanumeric() || next == '_') {
                    self.position += 1;
                }
            }
        }
        self.characters[start..self.position].iter().collect()
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.value(name).map(ToString::to_string);
        let seen = if value.is_some() {
            &mut self.matched
        } else {
            &mut self.unmatched
        };
        if !seen.contains(name) {
            seen.insert(name.to_string());
        }
        value
    }
}
