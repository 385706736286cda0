//! Pressure (PSI): how much time a group's processes lost waiting for processors, memory or disks. Counted in version 2 only.

use std::path::Path;

use crate::CgroupError;
use crate::error::read_if_there;

/// Share of time lost, and how much it was altogether.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 s.
    pub percent_10s: f64,
    /// Percent of the last minute.
    pub percent_60s: f64,
    /// Percent of the last 5 minutes.
    pub percent_300s: f64,
    /// Microseconds since the group was made.
    pub total_us: u64,
}

/// Pressure for one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one process waited.
    pub some: Stall,
    /// All of them did.
    pub full: Stall,
}

pub(crate) fn stats(path: &Path) -> Result<Option<Pressure>, CgroupError> {
    Ok(read_if_there(path)?.map(|text| parse(&text)))
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, `full …`.
fn parse(text: &str) -> Pressure {
    let stall = |kind: &str| {
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(kind))
            .unwrap_or_default();
        let field = |name: &str| {
            line.split(' ')
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let percent = |name: &str| field(name).and_then(|number| number.parse().ok()).unwrap_or(0.0);
        Stall {
            percent_10s: percent("avg10"),
            percent_60s: percent("avg60"),
            percent_300s: percent("avg300"),
            total_us: field("total").and_then(|number| number.parse().ok()).unwrap_or(0),
        }
    };
    Pressure {
        some: stall("some"),
        full: stall("full"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read_and_a_missing_one_is_nothing() {
        let text =
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse(text);
        assert_eq!((pressure.some.percent_10s, pressure.some.total_us), (1.5, 12345));
        assert_eq!((pressure.full.percent_10s, pressure.full.total_us), (0.5, 7));
        assert_eq!(parse("some avg10=1.00 total=3\n").full, Stall::default());
    }
}
