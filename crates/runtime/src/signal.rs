//! Signals by name, as users write them.

use gantry_model::spec::ContainerSpec;
use gantry_model::{Class, Problem};
use nix::libc;
use nix::sys::signal::Signal;

use crate::ImageDefaults;

/// The signal that asks a container to end: the spec's, or the image's, or SIGTERM.
///
/// # Errors
/// When there is no such signal.
pub fn stop_signal(container: &ContainerSpec, image: &ImageDefaults) -> Result<i32, Problem> {
    match container.stop_signal.as_ref().or(image.stop_signal.as_ref()) {
        None => Ok(libc::SIGTERM),
        Some(name) => number(name).ok_or_else(|| {
            let problem = Problem::new(Class::Invalid, "", format!("there is no signal '{name}'"));
            problem.remedy("write a name such as SIGTERM or SIGRTMIN+3, or a number")
        }),
    }
}

/// The number of a signal: `15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`, `RTMAX-1`, in any case.
#[must_use]
pub fn number(name: &str) -> Option<i32> {
    let upper = name.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let found = if let Ok(number) = bare.parse() {
        number
    } else if let Some(rest) = bare.strip_prefix("RTMIN") {
        libc::SIGRTMIN() + offset(rest, '+')?
    } else if let Some(rest) = bare.strip_prefix("RTMAX") {
        libc::SIGRTMAX() - offset(rest, '-')?
    } else {
        format!("SIG{bare}").parse::<Signal>().ok()? as i32
    };
    (1..=libc::SIGRTMAX()).contains(&found).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (name, expected) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for name in ["", "SIG", "SIGNOPE", "0", "65", "RTMIN+99", "RTMIN-1", "-1"] {
            assert_eq!(number(name), None, "{name}");
        }
    }

    #[test]
    fn the_spec_goes_before_the_image() {
        let image = ImageDefaults {
            stop_signal: Some("QUIT".to_string()),
            ..ImageDefaults::default()
        };
        let mut container = ContainerSpec::default();
        assert_eq!(stop_signal(&container, &ImageDefaults::default()), Ok(15));
        assert_eq!(stop_signal(&container, &image), Ok(3));
        container.stop_signal = Some("SIGUSR1".to_string());
        assert_eq!(stop_signal(&container, &image), Ok(10));
    }
}
