//! Every Rust file opens with `//!`, and none is longer than a reader can take in.

use std::fs;
use std::path::{Path, PathBuf};

/// Past this a file needs a reason; the house style aims at 400.
const LINES_MAX: usize = 800;

/// Findings as `path: what is wrong`.
pub fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for folder in ["crates", "agent", "control-plane", "tests", "deploy"] {
        for file in rust_files(&root.join(folder))? {
            let text = fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let shown = file.strip_prefix(root).unwrap_or(&file).display();
            if !text.starts_with("//!") {
                findings.push(format!("{shown}: must open with a `//!` header"));
            }
            let lines = text.lines().count();
            if lines > LINES_MAX {
                findings.push(format!("{shown}: {lines} lines, at most {LINES_MAX}"));
            }
        }
    }
    Ok(findings)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
