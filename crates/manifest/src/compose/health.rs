//! `healthcheck` in all its forms.

use gantry_model::DurationMs;
use gantry_model::spec::{HealthCheck, HealthTest};

use super::keys;
use super::scalar::{boolean, count, parsed, text};
use crate::yaml::cursor::Cursor;

/// The health check with Docker's defaults for what is not given; zero asks for the default, as in Docker.
pub(crate) fn healthcheck(at: &Cursor<'_>) -> Option<HealthCheck> {
    if !at.check_keys(keys::HEALTHCHECK) {
        at.error(format!("expected a mapping, found {}", at.node.kind()));
        return None;
    }
    if at.read("disable", boolean) == Some(true) {
        return Some(HealthCheck::with_defaults(HealthTest::Disabled));
    }
    let Some(test_at) = at.get("test") else {
        at.error_with(
            "'test' is missing",
            "repeat the command of the image: changing only the times of its own check is not supported yet",
        );
        return None;
    };
    let mut check = HealthCheck::with_defaults(test(&test_at)?);
    let duration = |key: &str, into: &mut DurationMs| {
        if let Some(value) = at.read(key, parsed).filter(|value| *value != DurationMs::ZERO) {
            *into = value;
        }
    };
    duration("interval", &mut check.interval);
    duration("timeout", &mut check.timeout);
    duration("start_period", &mut check.start_period);
    duration("start_interval", &mut check.start_interval);
    if let Some(retries) = at.read("retries", count).filter(|retries| *retries > 0) {
        check.retries = retries;
    }
    Some(check)
}

fn test(at: &Cursor<'_>) -> Option<HealthTest> {
    if !at.is_list() {
        return text(at).map(HealthTest::Shell);
    }
    let words: Vec<String> = at.items().iter().filter_map(text).collect();
    match words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("NONE", [])) => Some(HealthTest::Disabled),
        Some(("CMD", arguments @ [_, ..])) => Some(HealthTest::Exec(arguments.to_vec())),
        Some(("CMD-SHELL", [line])) => Some(HealthTest::Shell(line.clone())),
        Some(_) | None => {
            at.error_with(
                "the list is not a health test",
                "write [CMD, program, argument…], [CMD-SHELL, line] or [NONE]",
            );
            None
        }
    }
}
