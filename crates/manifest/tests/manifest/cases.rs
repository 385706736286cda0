//! Whole manifests: each folder of `cases/` holds a `compose.yaml`, maybe an `override.yaml` and files they refer to, and what
//! must come of them: `application.json` and `diagnostics.txt`.
//!
//! `UPDATE_EXPECT=1 cargo test -p gantry-manifest cases` writes the expectations anew; read the diff before committing it.

use std::fs;
use std::path::{Path, PathBuf};

use gantry_manifest::{MemoryFiles, Source, load};

/// What a case expects, which is no input of it.
const EXPECTATIONS: [&str; 2] = ["application.json", "diagnostics.txt"];

#[test]
fn every_case_gives_what_it_expects() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the cases are there")
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    let failures: Vec<String> = cases.iter().flat_map(|case| check(case)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(case: &Path) -> Vec<String> {
    let mut files = MemoryFiles::default();
    let mut sources = Vec::new();
    for entry in fs::read_dir(case).expect("a case is a folder") {
        let path = entry.expect("a readable file").path();
        let name = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        if !EXPECTATIONS.contains(&name.as_str()) {
            let content = fs::read(&path).expect("a readable file");
            if name.ends_with(".yaml") {
                let text = String::from_utf8(content.clone()).expect("a manifest is text");
                sources.push(Source {
                    name: name.clone(),
                    text,
                });
            }
            files.0.insert(Path::new(super::common::BASE_DIR).join(name), content);
        }
    }
    sources.sort_by(|left, right| left.name.cmp(&right.name));
    let loaded = load(&sources, &super::common::options(), &files);
    let lines: Vec<String> = loaded.diagnostics.iter().map(super::common::line).collect();
    let diagnostics = lines.into_iter().map(|line| line + "\n").collect::<String>();
    let application = match &loaded.application {
        Some(application) => serde_json::to_string_pretty(application).expect("the model serialises") + "\n",
        None => "null\n".to_string(),
    };
    let actual = [("application.json", application), ("diagnostics.txt", diagnostics)];
    actual
        .iter()
        .filter_map(|(name, text)| compare(&case.join(name), text))
        .collect()
}

fn compare(expectation: &Path, actual: &str) -> Option<String> {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(expectation, actual).expect("expectations can be written");
        return None;
    }
    let expected = fs::read_to_string(expectation).unwrap_or_default();
    (expected != actual).then(|| format!("== {}\nexpected:\n{expected}\nactual:\n{actual}", expectation.display()))
}
