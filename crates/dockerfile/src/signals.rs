//! Names of signals, as `STOPSIGNAL` takes them.

use crate::suggest::nearest;

/// Largest number of a signal.
const NUMBER_MAX: u32 = 64;

const NAMES: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// A number, a name with or without `SIG`, or `RTMIN+N` and `RTMAX-N`.
pub(crate) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=NUMBER_MAX).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let in_range = |digits: &str, max: u32| digits.parse().is_ok_and(|number: u32| (1..=max).contains(&number));
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|digits| in_range(digits, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|digits| in_range(digits, 14))
}

/// What was likely meant.
pub(crate) fn suggestion(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    match nearest(name, NAMES.iter().copied()) {
        Some(name) => format!("did you mean 'SIG{name}'?"),
        None => format!("write a name such as SIGTERM, or a number from 1 to {NUMBER_MAX}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGTERM", "term", "9", "64", "SIGRTMIN+3", "RTMAX-14", "sigquit"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "0", "65", "SIGTREM", "RTMIN+16", "SIG", "-9"] {
            assert!(!is_signal(text), "{text}");
        }
        assert_eq!(suggestion("SIGTREM"), "did you mean 'SIGTERM'?");
    }
}
