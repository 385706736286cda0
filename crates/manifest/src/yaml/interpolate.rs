//! Variables in values: `$V ${V} ${V:-d} ${V-d} ${V:?e} ${V?e} ${V:+r} ${V+r}`, nested, and `$$` for a dollar.
//!
//! The grammar and its corner cases are Compose's (compose-spec, "Interpolation"): keys are left alone, and a variable that is
//! not set is empty, with a warning.

use std::collections::{BTreeMap, BTreeSet};

use super::cursor::Cursor;
use super::tree::{Entry, Node, Value};
use crate::diagnostic::{Sink, Site};
use crate::limits::{INTERPOLATED_BYTES_MAX, INTERPOLATION_DEPTH_MAX};

/// A text with its variables replaced, and the variables that were not set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub text: String,
    pub unset: BTreeSet<String>,
}

/// Why a text cannot be expanded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpandError {
    #[error("'{0}' is not a variable reference")]
    Format(String),
    #[error("required variable '{name}' is {state}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Required {
        name: String,
        state: &'static str,
        message: String,
    },
    #[error("variable references are nested deeper than {INTERPOLATION_DEPTH_MAX} levels")]
    Depth,
    #[error("the values have more than {INTERPOLATED_BYTES_MAX} bytes once their variables are replaced")]
    Size,
}

/// Replaces the variables of one text.
pub(crate) fn expand(text: &str, environment: &BTreeMap<String, String>) -> Result<Expanded, ExpandError> {
    let mut expander = Expander {
        environment,
        unset: BTreeSet::new(),
    };
    let text = expander.text(text, 0)?;
    Ok(Expanded {
        text,
        unset: expander.unset,
    })
}

/// Replaces the variables in all values of a tree, except in extension fields at the top, which mean nothing to us. What they
/// define by anchors has been copied to where it is used before.
pub(crate) fn interpolate(node: &mut Node, environment: &BTreeMap<String, String>, sink: &Sink) {
    let mut rewriter = Rewriter {
        environment,
        sink,
        path: Vec::new(),
        bytes: 0,
    };
    rewriter.node(node);
}

struct Rewriter<'r> {
    environment: &'r BTreeMap<String, String>,
    sink: &'r Sink,
    path: Vec<String>,
    /// What all expanded values take together.
    bytes: usize,
}

impl Rewriter<'_> {
    fn node(&mut self, node: &mut Node) {
        let place = node.place;
        match &mut node.value {
            Value::Null => {}
            Value::Scalar(scalar) => {
                if !scalar.text.contains('$') || self.bytes > INTERPOLATED_BYTES_MAX {
                    return;
                }
                let site = Site {
                    place: Some(place),
                    path: self.path.concat(),
                };
                if let Some(text) = expand_reported(&scalar.text, self.environment, &site, self.sink) {
                    self.bytes += text.len();
                    if self.bytes > INTERPOLATED_BYTES_MAX {
                        self.sink.error(&site, ExpandError::Size.to_string(), None);
                    }
                    scalar.text = text;
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.below(format!("[{index}]"), item);
                }
            }
            Value::Map(entries) => {
                let is_top = self.path.is_empty();
                for Entry { key, value, .. } in entries {
                    if is_top && key.starts_with("x-") {
                        continue;
                    }
                    let dot = if is_top { "" } else { "." };
                    self.below(format!("{dot}{key}"), value);
                }
            }
        }
    }

    fn below(&mut self, step: String, node: &mut Node) {
        self.path.push(step);
        self.node(node);
        self.path.pop();
    }
}

/// Expands one value before the tree is rewritten (the project's name, which is itself a variable of the others).
pub(crate) fn expand_at(at: &Cursor<'_>, text: &str, environment: &BTreeMap<String, String>) -> Option<String> {
    match expand(text, environment) {
        Ok(expanded) => Some(expanded.text),
        Err(error) => {
            at.error(error.to_string());
            None
        }
    }
}

fn expand_reported(text: &str, environment: &BTreeMap<String, String>, site: &Site, sink: &Sink) -> Option<String> {
    match expand(text, environment) {
        Ok(expanded) => {
            for name in expanded.unset {
                let help = format!("set it in the environment or in .env, or write ${{{name}:-default}}");
                sink.warn(
                    site,
                    format!("variable '{name}' is not set, an empty text takes its place"),
                    Some(help),
                );
            }
            Some(expanded.text)
        }
        Err(error) => {
            let help = matches!(error, ExpandError::Format(_)).then(|| "write $$ for a single $".to_string());
            sink.error(site, error.to_string(), help);
            None
        }
    }
}

struct Expander<'e> {
    environment: &'e BTreeMap<String, String>,
    unset: BTreeSet<String>,
}

/// What follows the name in `${name…}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Default,
    Required,
    Replacement,
}

impl Expander<'_> {
    fn text(&mut self, text: &str, depth: usize) -> Result<String, ExpandError> {
        if depth > INTERPOLATION_DEPTH_MAX {
            return Err(ExpandError::Depth);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(position) = rest.find('$') {
            out.push_str(&rest[..position]);
            let reference = &rest[position + 1..];
            let consumed = match reference.bytes().next() {
                Some(b'$') => {
                    out.push('$');
                    1
                }
                Some(b'{') => {
                    let length = closing_brace(reference).ok_or_else(|| malformed(&rest[position..]))?;
                    let value = self.braced(&reference[1..length], depth)?;
                    out.push_str(&value);
                    length + 1
                }
                Some(byte) if byte == b'_' || byte.is_ascii_alphabetic() => {
                    let length = name_length(reference);
                    let value = self.value(&reference[..length]);
                    out.push_str(&value);
                    length
                }
                Some(_) | None => return Err(malformed(&rest[position..])),
            };
            if out.len() > INTERPOLATED_BYTES_MAX {
                return Err(ExpandError::Size);
            }
            rest = &reference[consumed..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The inside of `${…}`.
    fn braced(&mut self, inside: &str, depth: usize) -> Result<String, ExpandError> {
        let length = name_length(inside);
        let (name, tail) = inside.split_at(length);
        if name.is_empty() {
            return Err(malformed(&format!("${{{inside}}}")));
        }
        if tail.is_empty() {
            return Ok(self.value(name));
        }
        let (empty_counts_as_unset, tail) = match tail.strip_prefix(':') {
            Some(tail) => (true, tail),
            None => (false, tail),
        };
        let operator = match tail.bytes().next() {
            Some(b'-') => Operator::Default,
            Some(b'?') => Operator::Required,
            Some(b'+') => Operator::Replacement,
            Some(_) | None => return Err(malformed(&format!("${{{inside}}}"))),
        };
        let argument = &tail[1..];
        let environment = self.environment;
        let value = environment.get(name);
        let present = value.filter(|value| !(empty_counts_as_unset && value.is_empty()));
        match (operator, present) {
            (Operator::Default | Operator::Required, Some(value)) => Ok(value.clone()),
            (Operator::Default, None) | (Operator::Replacement, Some(_)) => self.text(argument, depth + 1),
            (Operator::Replacement, None) => Ok(String::new()),
            (Operator::Required, None) => Err(ExpandError::Required {
                name: name.to_string(),
                state: if value.is_some() { "empty" } else { "not set" },
                message: self.text(argument, depth + 1)?,
            }),
        }
    }

    fn value(&mut self, name: &str) -> String {
        if let Some(value) = self.environment.get(name) {
            return value.clone();
        }
        self.unset.insert(name.to_string());
        String::new()
    }
}

fn malformed(text: &str) -> ExpandError {
    const SHOWN_MAX: usize = 40;
    ExpandError::Format(text.chars().take(SHOWN_MAX).collect())
}

fn name_length(text: &str) -> usize {
    let is_name = |byte: &u8| *byte == b'_' || byte.is_ascii_alphanumeric();
    match text.bytes().next() {
        Some(byte) if !byte.is_ascii_digit() => text.bytes().take_while(|byte| is_name(byte)).count(),
        Some(_) | None => 0,
    }
}

/// The position of the `}` that closes the `{` at the start; braces of nested references count, others do not.
fn closing_brace(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut open = 1usize;
    let mut position = 1;
    while position < bytes.len() {
        match (bytes[position], bytes.get(position + 1)) {
            (b'$', Some(b'$')) => position += 1,
            (b'$', Some(b'{')) => {
                open += 1;
                position += 1;
            }
            (b'}', _) => {
                open -= 1;
                if open == 0 {
                    return Some(position);
                }
            }
            _ => {}
        }
        position += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> BTreeMap<String, String> {
        [("V", "value"), ("E", ""), ("_x1", "low"), ("N", "${V}")]
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .into()
    }

    #[test]
    fn references_follow_the_table_of_the_specification() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$V", "value"),
            ("${V}", "value"),
            ("a$V-b", "avalue-b"),
            ("$_x1!", "low!"),
            ("$$V $$$V", "$V $value"),
            ("${E:-d}", "d"),
            ("${E-d}", ""),
            ("${U:-d}", "d"),
            ("${U-d}", "d"),
            ("${V:-d}", "value"),
            ("${U:-}", ""),
            ("${V:?e}", "value"),
            ("${E?e}", ""),
            ("${V:+r}", "r"),
            ("${E:+r}", ""),
            ("${E+r}", "r"),
            ("${U+r}", ""),
            ("${U:-${V}}", "value"),
            ("${U:-${W:-${V}}}!", "value!"),
            ("${U:-$V}", "value"),
            ("${U:-a}b}", "ab}"),
            ("${U:-http://x:80}", "http://x:80"),
            ("${V:+${E:-deep}}", "deep"),
            ("${U:-$$x}", "$x"),
            ("$N", "${V}"),
            ("ü$V", "üvalue"),
        ] {
            assert_eq!(
                expand(text, &environment()).map(|e| e.text),
                Ok(expected.to_string()),
                "{text}"
            );
        }
    }

    #[test]
    fn unset_variables_are_named() {
        let expanded = expand("$U-${W}-${U:-d}-${E}", &environment());
        assert_eq!(
            expanded,
            Ok(Expanded {
                text: "--d-".to_string(),
                unset: ["U".to_string(), "W".to_string()].into()
            })
        );
    }

    #[test]
    fn malformed_and_missing_references_are_errors() {
        for text in [
            "$",
            "a$",
            "$1",
            "${",
            "${}",
            "${V",
            "${1}",
            "${V!x}",
            "${V:}",
            "${ V}",
            "${U:-${V}",
            "$ü",
        ] {
            assert!(
                matches!(expand(text, &environment()), Err(ExpandError::Format(_))),
                "{text}"
            );
        }
        for (text, expected) in [
            ("${U:?give $V}", "required variable 'U' is not set: give value"),
            ("${E:?}", "required variable 'E' is empty"),
            ("${U?}", "required variable 'U' is not set"),
        ] {
            assert_eq!(
                expand(text, &environment()).map_err(|error| error.to_string()),
                Err(expected.to_string())
            );
        }
    }

    #[test]
    fn nesting_is_limited() {
        let deep = "${U:-".repeat(100) + &"}".repeat(100);
        assert_eq!(expand(&deep, &environment()), Err(ExpandError::Depth));
    }
}
