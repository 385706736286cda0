//! What all tests of this crate load with: a fixed environment, folder and profiles.

use std::path::PathBuf;

use gantry_manifest::{Diagnostic, Loaded, MemoryFiles, Options, Severity, Source, load};

/// The project's folder, which exists nowhere.
pub const BASE_DIR: &str = "/srv/shop";

/// The options of all tests.
pub fn options() -> Options {
    let environment = [
        ("TAG", "1.2"),
        ("EMPTY", ""),
        ("HOME", "/home/ann"),
        ("FROM_ENVIRONMENT", "around"),
        ("API_TOKEN", "t0ken"),
    ];
    Options {
        project_name: None,
        base_dir: PathBuf::from(BASE_DIR),
        environment: environment
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .into(),
        profiles: vec!["active".to_string()],
    }
}

/// Loads manifests named `compose.yaml`, `2.yaml`, …, without further files.
pub fn load_texts(texts: &[&str]) -> Loaded {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| Source {
            name: if index == 0 {
                "compose.yaml".to_string()
            } else {
                format!("{}.yaml", index + 1)
            },
            text: (*text).to_string(),
        })
        .collect();
    load(&sources, &options(), &MemoryFiles::default())
}

/// One line per diagnostic: `error 3:5 path: message (help)`.
pub fn line(diagnostic: &Diagnostic) -> String {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let place = diagnostic
        .span
        .map(|span| format!(" {}:{}", span.line, span.column))
        .unwrap_or_default();
    let path = if diagnostic.path.is_empty() {
        String::new()
    } else {
        format!(" {}", diagnostic.path)
    };
    let help = diagnostic
        .help
        .as_ref()
        .map(|help| format!(" ({help})"))
        .unwrap_or_default();
    format!("{severity}{place}{path}: {}{help}", diagnostic.message)
}
