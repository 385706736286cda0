//! Durations as Go reads and writes them: `1m30s`, `1.5h`, `500ms`.

use std::time::Duration;

const UNITS: &[(&str, u128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Largest duration that Go can hold, in nanoseconds.
const NANOS_MAX: u128 = i64::MAX as u128;

/// Numbers with units, one after the other; `0` needs no unit.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    while !rest.is_empty() || total == 0 {
        let digits = rest.find(|next: char| !next.is_ascii_digit() && next != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|next: char| next.is_ascii_digit() || next == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *nanos)?)?;
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    (total <= NANOS_MAX).then(|| Duration::from_nanos(u64::try_from(total).unwrap_or(u64::MAX)))
}

/// `1.5` times the unit.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(u128::from(digit - b'0') * place)?;
    }
    Some(nanos)
}

/// As Go prints it: `1m30s`, `500ms`, `0s`.
pub(crate) fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_string();
    }
    let small = [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)];
    if nanos < 1_000_000_000 {
        let (name, unit) = small
            .into_iter()
            .rev()
            .find(|(_, unit)| nanos >= *unit)
            .unwrap_or(("ns", 1));
        return format!("{}{name}", decimal(nanos, unit));
    }
    let (hours, rest) = (nanos / 3_600_000_000_000, nanos % 3_600_000_000_000);
    let (minutes, rest) = (rest / 60_000_000_000, rest % 60_000_000_000);
    let seconds = format!("{}s", decimal(rest, 1_000_000_000));
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

fn decimal(nanos: u128, unit: u128) -> String {
    let (whole, fraction) = (nanos / unit, nanos % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let fraction = format!("{fraction:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read_and_written() {
        for (text, millis, shown) in [
            ("30s", 30_000, "30s"),
            ("1m30s", 90_000, "1m30s"),
            ("1.5h", 5_400_000, "1h30m0s"),
            ("500ms", 500, "500ms"),
            ("0", 0, "0s"),
            ("1h", 3_600_000, "1h0m0s"),
            (".5s", 500, "500ms"),
            ("1500ms", 1500, "1.5s"),
        ] {
            let duration = parse(text).expect(text);
            assert_eq!(
                (duration, show(duration).as_str()),
                (Duration::from_millis(millis), shown),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "1x",
            "1s2",
            "-1s",
            "1..5s",
            ".s",
            "99999999999999h",
            "1 s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
