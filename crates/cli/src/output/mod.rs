//! How answers are shown: tables for people, JSON and YAML for programs, names for shells.

pub mod age;
pub mod style;
mod table;
mod yaml;

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;

pub use table::{Column, Table};

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For people with a wide terminal
    Wide,
    /// The objects as JSON
    Json,
    /// The objects as YAML
    Yaml,
    /// The names alone
    Name,
}

/// Writes text to standard output.
///
/// # Errors
/// As writing does; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn emit(text: &str) -> io::Result<()> {
    emit_bytes(text.as_bytes())
}

/// Writes bytes to standard output.
///
/// # Errors
/// As [`emit`].
pub fn emit_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Says something beside the answer.
pub fn note(text: &str) {
    // Whoever closed standard error does not want to know.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A list in the asked form; `nothing` is what a person reads when it is empty.
///
/// # Errors
/// As [`emit`].
pub fn list(format: Format, table: &Table, nothing: &str) -> io::Result<()> {
    if table.rows.is_empty() && matches!(format, Format::Table | Format::Wide) {
        note(nothing);
        return Ok(());
    }
    emit(&render_list(format, table))
}

fn render_list(format: Format, table: &Table) -> String {
    let documents = || Value::Array(table.rows.iter().map(|row| row.json.clone()).collect());
    match format {
        Format::Table => table.render(false),
        Format::Wide => table.render(true),
        Format::Json => pretty(&documents()),
        Format::Yaml => yaml::to_yaml(&documents()),
        Format::Name => table.rows.iter().map(|row| format!("{}\n", row.name)).collect(),
    }
}

/// One object in the asked form; `human` is the form for people.
///
/// # Errors
/// As [`emit`].
pub fn object(format: Format, name: &str, json: &Value, human: impl FnOnce() -> String) -> io::Result<()> {
    emit(&match format {
        Format::Table | Format::Wide => human(),
        Format::Json => pretty(json),
        Format::Yaml => yaml::to_yaml(json),
        Format::Name => format!("{name}\n"),
    })
}

/// Objects in full; people read them as YAML, one after another.
///
/// # Errors
/// As [`emit`].
pub fn inspect(format: Format, objects: &[(String, Value)]) -> io::Result<()> {
    let text = match (format, objects) {
        (Format::Name, _) => objects.iter().map(|(name, _)| format!("{name}\n")).collect(),
        (Format::Json, [(_, only)]) => pretty(only),
        (Format::Json, several) => pretty(&Value::Array(several.iter().map(|(_, json)| json.clone()).collect())),
        (Format::Table | Format::Wide | Format::Yaml, objects) => {
            let texts: Vec<String> = objects.iter().map(|(_, json)| yaml::to_yaml(json)).collect();
            texts.join("---\n")
        }
    };
    emit(&text)
}

/// One object of a stream on a line, or as a YAML document.
///
/// # Errors
/// As [`emit`].
pub fn stream_item(format: Format, name: &str, json: &Value, human: impl FnOnce() -> String) -> io::Result<()> {
    emit(&match format {
        Format::Table | Format::Wide => human(),
        Format::Json => format!("{json}\n"),
        Format::Yaml => format!("---\n{}", yaml::to_yaml(json)),
        Format::Name => format!("{name}\n"),
    })
}

fn pretty(json: &Value) -> String {
    format!("{json:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> Table {
        let mut table = Table::new(vec![Column::new("NAME"), Column::new("STATUS"), Column::wide("KERNEL")]);
        table.push(
            "alpha",
            ["alpha", "ready", "6.1"],
            json!({"name": "alpha", "labels": {"disk": "ssd"}}),
        );
        table.push(
            "beta-long",
            ["beta-long", "", "6.2"],
            json!({"name": "beta-long", "labels": {}}),
        );
        table
    }

    #[test]
    fn each_form_shows_the_same_list() {
        let forms = [
            (Format::Table, "NAME        STATUS\nalpha       ready\nbeta-long   -\n"),
            (
                Format::Wide,
                "NAME        STATUS   KERNEL\nalpha       ready    6.1\nbeta-long   -        6.2\n",
            ),
            (
                Format::Yaml,
                "- name: alpha\n  labels:\n    disk: ssd\n- name: beta-long\n  labels: {}\n",
            ),
            (Format::Name, "alpha\nbeta-long\n"),
        ];
        for (format, expected) in forms {
            assert_eq!(render_list(format, &table()), expected, "{format:?}");
        }
        let read: Value = serde_json::from_str(&render_list(Format::Json, &table())).expect("valid JSON");
        assert_eq!(read[1]["name"], "beta-long");
    }
}
