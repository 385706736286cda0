//! JSON as YAML: block style, and quotes wherever a reader could take a text for something else.

use std::fmt::Write;

use serde_json::Value;

/// Words that YAML 1.1 or 1.2 readers take for something else than a text.
const WORDS: [&str; 12] = [
    "null", "~", "true", "false", "yes", "no", "on", "off", "y", "n", ".nan", ".inf",
];

/// The document, ending with a line feed.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut text, value, 0),
        Value::Array(items) if !items.is_empty() => block(&mut text, value, 0),
        scalar => {
            flat(&mut text, scalar);
            text.push('\n');
        }
    }
    text
}

/// A mapping or list, each entry on lines of its own; the caller has indented the first.
fn block(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => {
            for (index, (key, value)) in map.iter().enumerate() {
                indent(text, if index == 0 { 0 } else { depth });
                scalar_text(text, key);
                text.push(':');
                nested(text, value, depth + 1);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                indent(text, if index == 0 { 0 } else { depth });
                text.push('-');
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        text.push(' ');
                        block(text, item, depth + 1);
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        text.push(' ');
                        block(text, item, depth + 1);
                    }
                    scalar => {
                        text.push(' ');
                        flat(text, scalar);
                        text.push('\n');
                    }
                }
            }
        }
        scalar => flat(text, scalar),
    }
}

/// What follows a key: on the same line if it is flat, else on the lines below.
fn nested(text: &mut String, value: &Value, depth: usize) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if is_block {
        text.push('\n');
        indent(text, depth);
        block(text, value, depth);
    } else {
        text.push(' ');
        flat(text, value);
        text.push('\n');
    }
}

fn indent(text: &mut String, depth: usize) {
    for _ in 0..depth {
        text.push_str("  ");
    }
}

fn flat(text: &mut String, value: &Value) {
    match value {
        Value::String(string) => scalar_text(text, string),
        // JSON's flow forms are YAML's too.
        other => {
            let _ = write!(text, "{other}");
        }
    }
}

fn scalar_text(text: &mut String, string: &str) {
    if is_plain(string) {
        text.push_str(string);
    } else {
        // A JSON string is a valid double-quoted YAML scalar.
        let _ = write!(text, "{}", Value::from(string));
    }
}

/// Whether the text can stand without quotes and is read back as the same text.
fn is_plain(string: &str) -> bool {
    let Some(first) = string.chars().next() else {
        return false;
    };
    let indicator = "-?:,[]{}#&*!|>'\"%@`=<".contains(first);
    let awkward = string.contains(": ") || string.contains(" #") || string.ends_with(':');
    let edges = string.starts_with(char::is_whitespace) || string.ends_with(char::is_whitespace);
    let control = string
        .chars()
        .any(|character| character.is_control() || character == '\u{feff}');
    let word = WORDS.contains(&string.to_ascii_lowercase().as_str());
    // Numbers, dates and sexagesimal times of YAML 1.1 begin with a digit, a sign or a point.
    let number_like = first.is_ascii_digit() || "+.".contains(first);
    let number_like = number_like
        && string
            .chars()
            .all(|c| c.is_ascii_hexdigit() || "+-._:xXoOeETZt".contains(c));
    !(indicator || awkward || edges || control || word || number_like)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_block_style() {
        let value = json!({
            "name": "web",
            "ports": [80, {"target": 8080, "mode": "host"}, [1, 2]],
            "labels": {"a": "b: c", "empty": ""},
            "none": null, "list": [], "map": {}, "on": true
        });
        let expected = "\
name: web
ports:
  - 80
  - target: 8080
    mode: host
  - - 1
    - 2
labels:
  a: \"b: c\"
  empty: \"\"
none: null
list: []
map: {}
\"on\": true
";
        assert_eq!(to_yaml(&value), expected);
        assert_eq!(to_yaml(&json!([])), "[]\n");
        assert_eq!(to_yaml(&json!("x")), "x\n");
    }

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        for text in [
            "",
            "yes",
            "No",
            "null",
            "1",
            "0777",
            "1.5",
            "1e3",
            "0x1f",
            "12:30:00",
            "2026-11-23",
            "- a",
            "a: b",
            "a #b",
            " a",
            "a ",
            "a\nb",
            "@x",
            "*x",
            "&x",
            "!x",
            "key:",
            "[x",
            "{x",
            "~",
            "+1",
            ".5",
        ] {
            assert!(to_yaml(&json!(text)).starts_with('"'), "{text:?}");
        }
        for text in [
            "web",
            "a:b",
            "nginx:1.27",
            "10.0.0.1/8",
            "sha256:ab",
            "a b",
            "/data",
            "KEY=value",
            "3 nodes",
            "é",
        ] {
            assert_eq!(to_yaml(&json!(text)), format!("{text}\n"), "{text:?}");
        }
    }
}
