//! Nothing that anybody can write makes the reader panic or run for ever.

use std::fs;
use std::path::Path;

use gantry_dockerfile::{GitSource, IgnoreRules, check, parse};
use proptest::prelude::*;

use super::options;

/// Words that Dockerfiles are made of, so that random texts get far.
const PIECES: &[&str] = &[
    "FROM ",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "EXPOSE ",
    "WORKDIR ",
    "a",
    " ",
    "\n",
    "\\\n",
    "\r\n",
    "$A",
    "${A",
    "${A:-",
    "}",
    "${A#*",
    "${A//",
    "/",
    "\"",
    "'",
    "\\",
    "<<EOF",
    "\nEOF\n",
    "<<-",
    "[\"",
    "\"]",
    "[",
    "]",
    "=",
    "--from=",
    "--mount=type=cache,target=/x,",
    "--chmod=",
    "# escape=`\n",
    "# check=",
    ",",
    ":",
    "é",
    "\u{feff}",
    "\0",
    "`",
    "scratch",
    " AS b",
    "--platform=$",
    "80-90/tcp",
    "*",
    "?",
    "!",
    "\t",
];

fn exercise(text: &str) {
    if let Ok(dockerfile) = parse(text) {
        let shown = dockerfile.to_string();
        let again = parse(&shown).unwrap_or_else(|errors| panic!("{text:?} shown as {shown:?}: {errors:?}"));
        assert_eq!(shown, again.to_string(), "{text:?}");
        let _found = check(&dockerfile, options());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_text_is_read(text in any::<String>()) {
        exercise(&text);
        let _ = IgnoreRules::parse(&text).map(|rules| rules.is_ignored(&text));
        let _ = GitSource::parse_context(&text);
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_mixture_of_what_dockerfiles_are_made_of_is_read(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)
    ) {
        exercise(&format!("FROM a\n{}", pieces.concat()));
        exercise(&pieces.concat());
    }

    #[test]
    fn any_damage_to_a_real_file_is_read(seed in any::<prop::sample::Index>(), cuts in proptest::collection::vec(
        (any::<prop::sample::Index>(), 0usize..6, proptest::sample::select(PIECES)), 1..8)
    ) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
        let mut files: Vec<_> = fs::read_dir(root).expect("the cases").map(|entry| entry.expect("one").path()).collect();
        files.sort();
        let text = fs::read_to_string(files[seed.index(files.len())].join("Dockerfile")).expect("a Dockerfile");
        let mut characters: Vec<char> = text.chars().collect();
        for (place, cut, piece) in cuts {
            let start = place.index(characters.len() + 1);
            let end = (start + cut).min(characters.len());
            characters.splice(start..end, piece.chars());
        }
        exercise(&characters.into_iter().collect::<String>());
    }
}

#[test]
fn deep_and_long_inputs_end() {
    exercise(&format!("FROM a\nENV A={}", "${B:-".repeat(100_000)));
    exercise(&format!("FROM a\nENV A={}{}", "${B:-".repeat(1000), "}".repeat(1000)));
    exercise(&format!("FROM a\nRUN {}", "<<E ".repeat(20_000)));
    exercise(&format!("FROM a\n{}", "ONBUILD ".repeat(100_000)));
    exercise(&format!("FROM a\nENV A={} B=${{A//*a*a*a/b}}", "a".repeat(100_000)));
    exercise(&format!("FROM a\nENV A={}\nENV B=${{A//a*b/c}}", "a".repeat(100_000)));
    exercise(&"FROM a\n".repeat(5000));
    exercise(&"x".repeat(3 << 20));
    let rules = IgnoreRules::parse(&"**/a*b*c*d*/**/x\n".repeat(100)).expect("rules");
    assert!(!rules.is_ignored(&"a/b/c/d/".repeat(500)));
}
