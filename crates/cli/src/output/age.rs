//! Points in time as people say them.

use gantry_model::{DurationMs, Timestamp};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The largest unit of a duration, with two of them where one would be coarse: `42s`, `3m`, `90m`, `5h`, `47h`, `12d`.
pub fn short(duration: DurationMs) -> String {
    let seconds = duration.0 / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / MINUTE),
        7200..172_800 => format!("{}h", seconds / HOUR),
        _ => format!("{}d", seconds / DAY),
    }
}

/// `3m ago`.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    format!("{} ago", short(now.since(then)))
}

/// `in 23h`, or `3m ago` for what is over.
pub fn until(now: Timestamp, then: Timestamp) -> String {
    if then > now {
        // A second more: what was made for a day a moment ago reads as a day.
        format!("in {}", short(then.since(now) + DurationMs::secs(1)))
    } else {
        ago(now, then)
    }
}

/// `2026-11-23T10:45:16.123Z`.
pub fn precise(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| at.0.to_string(), |time| format!("{time:.3}"))
}

/// A point in time that a person named: RFC 3339, or a duration before `now` such as `10m`.
///
/// # Errors
/// When it is neither.
pub fn point(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(duration) = text.parse::<DurationMs>() {
        return Ok(Timestamp(now.0.saturating_sub(duration.0)));
    }
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("'{text}' is neither a duration such as 10m nor a time such as 2026-11-23T10:45:00Z"))?;
    Ok(Timestamp(u64::try_from(time.as_millisecond()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [
            (0, "0s"),
            (119_999, "119s"),
            (120_000, "2m"),
            (7_199_000, "119m"),
            (7_200_000, "2h"),
            (172_799_000, "47h"),
            (172_800_000, "2d"),
        ];
        for (ms, text) in ages {
            assert_eq!(short(DurationMs(ms)), text);
        }
        assert_eq!(ago(Timestamp(100_000), Timestamp(97_000)), "3s ago");
        assert_eq!(until(Timestamp(0), Timestamp(86_400_000)), "in 24h");
        assert_eq!(until(Timestamp(5_000), Timestamp(1_000)), "4s ago");
    }

    #[test]
    fn points_in_time_are_read_in_both_ways() {
        let now = Timestamp(1_000_000);
        assert_eq!(point("10m", now), Ok(Timestamp(400_000)));
        assert_eq!(point("1970-01-01T00:00:01Z", now), Ok(Timestamp(1000)));
        assert!(point("yesterday", now).is_err());
        assert_eq!(precise(Timestamp(1)), "1970-01-01T00:00:00.001Z");
    }
}
