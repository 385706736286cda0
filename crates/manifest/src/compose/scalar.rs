//! Readers of single values: text, truth, numbers, durations, sizes, names. Each reports what it cannot read.

use std::fmt::Display;
use std::str::FromStr;

use gantry_model::Name;

use crate::yaml::cursor::Cursor;
use crate::yaml::tree::{Scalar, Value};

/// The scalar itself; anything else is reported.
pub(crate) fn scalar<'n>(at: &Cursor<'n>) -> Option<&'n Scalar> {
    match &at.node.value {
        Value::Scalar(scalar) => Some(scalar),
        Value::Null | Value::List(_) | Value::Map(_) => {
            at.error(format!("expected a single value, found {}", at.node.kind()));
            None
        }
    }
}

/// Any text, an empty one too.
pub(crate) fn text(at: &Cursor<'_>) -> Option<String> {
    scalar(at).map(|scalar| scalar.text.clone())
}

/// A text with something in it.
pub(crate) fn some_text(at: &Cursor<'_>) -> Option<String> {
    let text = text(at)?;
    if text.trim().is_empty() {
        at.error("must not be empty");
        return None;
    }
    Some(text)
}

/// A text that a type of the model reads, with that type's own words when it cannot.
pub(crate) fn parsed<T>(at: &Cursor<'_>) -> Option<T>
where
    T: FromStr,
    T::Err: Display,
{
    match scalar(at)?.text.trim().parse() {
        Ok(value) => Some(value),
        Err(error) => {
            at.error(error.to_string());
            None
        }
    }
}

/// A name, given as a value.
pub(crate) fn name(at: &Cursor<'_>) -> Option<Name> {
    parsed(at)
}

/// The key of an entry as a name.
pub(crate) fn key_name(at: &Cursor<'_>) -> Option<Name> {
    match Name::new(at.key()) {
        Ok(name) => Some(name),
        Err(error) => {
            at.error_key(error.to_string(), None);
            None
        }
    }
}

/// `true` or `false`, quoted or not, and YAML 1.1's other words for them, as Compose reads them.
pub(crate) fn boolean(at: &Cursor<'_>) -> Option<bool> {
    match scalar(at)?.text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        other => {
            at.error(format!("'{other}' is neither true nor false"));
            None
        }
    }
}

/// A whole number from `min` to `max`, both included.
pub(crate) fn integer(at: &Cursor<'_>, min: i64, max: i64) -> Option<i64> {
    let text = scalar(at)?.text.trim();
    match text.parse::<i64>() {
        Ok(value) if (min..=max).contains(&value) => Some(value),
        Ok(_) | Err(_) => {
            at.error(format!("'{text}' is not a whole number from {min} to {max}"));
            None
        }
    }
}

/// A count.
pub(crate) fn count(at: &Cursor<'_>) -> Option<u32> {
    let value = integer(at, 0, i64::from(u32::MAX))?;
    u32::try_from(value).ok()
}

/// Permission bits: octal when written with a leading zero, as `0o…` or quoted; a plain `440` is decimal in YAML.
pub(crate) fn file_mode(at: &Cursor<'_>) -> Option<u32> {
    const MODE_MAX: u32 = 0o7777;
    let scalar = scalar(at)?;
    let text = scalar.text.trim();
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
    let value = match octal {
        Some("") => Ok(0),
        Some(digits) => u32::from_str_radix(digits, 8),
        None if scalar.plain => text.parse(),
        None => u32::from_str_radix(text, 8),
    };
    let Some(mode) = value.ok().filter(|mode| *mode <= MODE_MAX) else {
        at.error_with(
            format!("'{text}' is not a file mode"),
            "write octal digits with a leading zero, such as 0440",
        );
        return None;
    };
    if octal.is_none() && scalar.plain && mode > 0 {
        at.warn_with(
            format!("'{text}' is read as a decimal number, which is the mode 0{mode:o}"),
            format!("write 0{text} if octal is meant"),
        );
    }
    Some(mode)
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(at: &Cursor<'_>, words: &[(&str, T)]) -> Option<T> {
    let text = &scalar(at)?.text;
    if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
        return Some(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let help = match at.suggest(text, known.iter().copied()) {
        Some(word) => format!("did you mean '{word}'?"),
        None => format!("use one of: {}", known.join(", ")),
    };
    at.error_with(format!("'{text}' is not known here"), help);
    None
}

/// Texts of a list, or one alone.
pub(crate) fn texts(at: &Cursor<'_>) -> Option<Vec<String>> {
    Some(at.items_or_one().iter().filter_map(some_text).collect())
}

/// `KEY: value` or `- KEY=value`; a key without a value has none. Later ones win.
pub(crate) fn pairs(at: &Cursor<'_>) -> Vec<(String, Option<String>)> {
    if at.is_list() {
        let items = at.items();
        let split = |item: &Cursor<'_>| {
            let text = some_text(item)?;
            match text.split_once('=') {
                Some(("", _)) => {
                    item.error(format!("'{text}' has no name before '='"));
                    None
                }
                Some((key, value)) => Some((key.to_string(), Some(value.to_string()))),
                None => Some((text, None)),
            }
        };
        return items.iter().filter_map(split).collect();
    }
    if !at.is_map() {
        at.error(format!(
            "expected a mapping or a list of KEY=value, found {}",
            at.node.kind()
        ));
        return Vec::new();
    }
    let entry = |entry: &Cursor<'_>| {
        let value = if entry.is_null() { None } else { Some(text(entry)?) };
        Some((entry.key().to_string(), value))
    };
    at.all_entries().iter().filter_map(entry).collect()
}

/// Labels: a missing value is empty.
pub(crate) fn labels(at: &Cursor<'_>) -> Option<std::collections::BTreeMap<String, String>> {
    let pairs = pairs(at).into_iter();
    Some(pairs.map(|(key, value)| (key, value.unwrap_or_default())).collect())
}
