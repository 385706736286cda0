//! What differs between two specs, one line per field, for people.

use gantry_model::spec::{Mode, ServiceSpec};
use serde_json::Value;

/// Longest value shown; the rest is cut.
const VALUE_LENGTH_MAX: usize = 60;

/// Lines such as `container.image: web:v1 -> web:v2`, in order of field.
pub fn lines(from: &ServiceSpec, to: &ServiceSpec) -> Vec<String> {
    let (Ok(from), Ok(to)) = (serde_json::to_value(from), serde_json::to_value(to)) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    walk("", &from, &to, &mut lines);
    lines.sort();
    lines
}

/// `replicated, 3 replicas`.
pub fn mode(mode: &Mode) -> String {
    match mode {
        Mode::Replicated { replicas } => format!("replicated, {replicas} replicas"),
        Mode::Global => "global".into(),
        Mode::ReplicatedJob { completions, .. } => format!("job, {completions} completions"),
        Mode::GlobalJob => "global job".into(),
    }
}

fn walk(path: &str, from: &Value, to: &Value, lines: &mut Vec<String>) {
    match (from, to) {
        (Value::Object(left), Value::Object(right)) => {
            let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
            for key in keys {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let (left, right) = (
                    left.get(key).unwrap_or(&Value::Null),
                    right.get(key).unwrap_or(&Value::Null),
                );
                walk(&path, left, right, lines);
            }
        }
        (left, right) if left != right => lines.push(format!("{path}: {} -> {}", shown(left), shown(right))),
        _ => {}
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "(none)".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(VALUE_LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
