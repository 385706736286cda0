//! Signals by name or number, as images and manifests give them.

use nix::libc;
use nix::sys::signal::Signal;

/// Names `SIGTERM`, `TERM`, `term`, `SIGRTMIN+3`, or a number.
#[must_use]
pub fn number(text: &str) -> Option<i32> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, base: i32, sign: i32| match rest {
        "" => Some(base),
        rest => rest.get(1..)?.parse::<i32>().ok().map(|offset| base + sign * offset),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        real_time(rest, libc::SIGRTMIN(), 1)?
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        real_time(rest, libc::SIGRTMAX(), -1)?
    } else {
        format!("SIG{name}").parse::<Signal>().ok()? as i32
    };
    (1..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_all_usual_forms() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("RTMAX-1", Some(libc::SIGRTMAX() - 1)),
            ("SIGQUIT", Some(3)),
            ("SIGNOPE", None),
            ("0", None),
            ("-9", None),
            ("SIGRTMIN+99", None),
            ("", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
