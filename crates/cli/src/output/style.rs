//! Colours, on terminals alone and never with `NO_COLOR` (<https://no-color.org>).

use crate::terminal;

const RESET: &str = "\x1b[0m";
const BOLD_RED: &str = "\x1b[1;31m";
const BOLD_CYAN: &str = "\x1b[1;36m";
const BOLD_YELLOW: &str = "\x1b[1;33m";

/// Colours that can be told apart on dark and light ground, for the names of replicas.
const NAMES: [&str; 6] = ["\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[31m"];

/// Whether standard error shows colours.
pub fn on_stderr() -> bool {
    terminal::is_progress() && wanted()
}

/// Whether standard output shows colours.
pub fn on_stdout() -> bool {
    terminal::is_output() && wanted()
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The word of an error.
pub fn error(text: &str, colored: bool) -> String {
    paint(text, BOLD_RED, colored)
}

/// The word of a warning.
pub fn warning(text: &str, colored: bool) -> String {
    paint(text, BOLD_YELLOW, colored)
}

/// The word of a remedy.
pub fn help(text: &str, colored: bool) -> String {
    paint(text, BOLD_CYAN, colored)
}

/// A name, always in the same colour.
pub fn name(text: &str, colored: bool) -> String {
    let sum: usize = text.bytes().map(usize::from).sum();
    paint(text, NAMES[sum % NAMES.len()], colored)
}

fn paint(text: &str, color: &str, colored: bool) -> String {
    if colored {
        format!("{color}{text}{RESET}")
    } else {
        text.to_string()
    }
}
