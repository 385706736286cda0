//! YAML as the JSON it stands for: what generators of CDI specifications write (the core schema; no tags, no merge keys).

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Deepest nesting taken; specifications have six levels.
const DEPTH_MAX: usize = 32;

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// The first document of a text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, place) = event.map_err(|error| error.to_string())?;
        let refused = |what: &str| format!("{what} at line {}", place.start.line());
        let done = match event {
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => None,
            Event::DocumentEnd | Event::StreamEnd => return Ok(Value::Null),
            Event::Alias(_) => return Err(refused("an alias, which is not taken here,")),
            Event::Scalar(text, style, _, _) => Some(scalar(&text, style == ScalarStyle::Plain)),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= DEPTH_MAX => {
                return Err(refused("too deep a nesting"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|ended| match ended {
                Open::List(items) => Value::Array(items),
                Open::Map(entries, _) => Value::Object(entries),
            }),
        };
        let Some(value) = done else { continue };
        match open.last_mut() {
            None => return Ok(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(entries, key)) => match key.take() {
                Some(key) => drop(entries.insert(key, value)),
                None => *key = Some(text_of(&value).ok_or_else(|| refused("a key that is no text"))?),
            },
        }
    }
    Ok(Value::Null)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn scalar(text: &str, plain: bool) -> Value {
    if !plain {
        return Value::String(text.to_string());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        text => number(text).map_or_else(|| Value::String(text.to_string()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let integer = match (text.strip_prefix("0o"), text.strip_prefix("0x")) {
        (Some(octal), _) => i64::from_str_radix(octal, 8).ok(),
        (_, Some(hex)) => i64::from_str_radix(hex, 16).ok(),
        _ => text.parse().ok(),
    };
    integer.map(Number::from)
}
