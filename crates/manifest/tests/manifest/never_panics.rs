//! No input panics: arbitrary bytes, YAML-like noise, and a good manifest with a part exchanged.

use gantry_manifest::{Source, env_file, render};
use proptest::prelude::*;

const GOOD: &str = include_str!("../cases/everything/compose.yaml");

/// What YAML and Compose give a meaning.
const TOKENS: &[&str] = &[
    "services",
    "image",
    "ports",
    "volumes",
    "environment",
    "deploy",
    "networks",
    "configs",
    "secrets",
    "depends_on",
    "healthcheck",
    "test",
    "extends",
    "build",
    "x-a",
    "a",
    ": ",
    ":",
    "\n",
    "\n  ",
    "\n    ",
    "\n      ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "\"",
    "'",
    "|",
    ">",
    "&a ",
    "*a",
    "<<: ",
    "!reset ",
    "!override ",
    "!!str ",
    "# ",
    "\t",
    "---\n",
    "...\n",
    "%YAML",
    "? ",
    "~",
    "null",
    "true",
    "0",
    "80:80",
    "1-3",
    "${A",
    "}",
    "$",
    "$$",
    ":-",
    "é",
    "\u{feff}",
    "\r\n",
    "\r",
    "\0",
    "-1",
    "1e9",
];

/// Loading must come back, agree with itself, and its diagnostics must be renderable.
fn survives(texts: &[&str]) -> Result<(), TestCaseError> {
    let loaded = super::common::load_texts(texts);
    prop_assert_eq!(loaded.application.is_none(), loaded.has_errors());
    let sources: Vec<Source> = texts
        .iter()
        .map(|text| Source {
            name: "compose.yaml".to_string(),
            text: (*text).to_string(),
        })
        .collect();
    let text = render(&loaded.diagnostics, &sources, true);
    prop_assert_eq!(text.is_empty(), loaded.diagnostics.is_empty());
    if let Some(application) = &loaded.application {
        let json = serde_json::to_string(application).expect("the model serialises");
        let read_back: gantry_model::spec::Application = serde_json::from_str(&json).expect("the model reads back");
        prop_assert_eq!(&read_back, application);
    }
    Ok(())
}

/// A few hundred cases by default; `PROPTEST_CASES=20000` for a long search.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = std::env::var_os("PROPTEST_CASES").map_or(400, |_| default.cases);
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        survives(&[&text])?;
        let _ = env_file(&text, &std::collections::BTreeMap::new());
    }

    #[test]
    fn yaml_like_noise(tokens in proptest::collection::vec(proptest::sample::select(TOKENS), 0..60)) {
        let text = tokens.concat();
        survives(&[&text])?;
        survives(&["services: {a: {image: i, ports: ['80:80']}}", &text])?;
        let _ = env_file(&text, &std::collections::BTreeMap::new());
    }

    #[test]
    fn a_good_manifest_with_a_part_exchanged(
        start in 0..GOOD.len(),
        length in 0usize..40,
        tokens in proptest::collection::vec(proptest::sample::select(TOKENS), 0..4),
    ) {
        let (from, to) = (start, (start + length).min(GOOD.len()));
        let text = format!("{}{}{}", &GOOD[..from], tokens.concat(), &GOOD[to..]);
        survives(&[&text])?;
        survives(&[GOOD, &text])?;
    }
}
