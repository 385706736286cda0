//! Quantities with their unit in the type: processor time, memory, durations, points in time.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {what}: {hint}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    hint: &'static str,
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0);

            /// The difference, or zero when `other` is larger.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// The sum, or the largest value when it would overflow.
            #[must_use]
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                self.saturating_add(other)
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                self.saturating_sub(other)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl SubAssign for $name {
            fn sub_assign(&mut self, other: Self) {
                *self = *self - other;
            }
        }
    };
}

quantity! {
    /// Thousandths of one processor core.
    MilliCpu, u64
}
quantity! {
    /// Bytes of memory or disk.
    ByteSize, u64
}
quantity! {
    /// A length of time in milliseconds.
    DurationMs, u64
}
quantity! {
    /// Milliseconds since the Unix epoch, UTC.
    Timestamp, u64
}

impl MilliCpu {
    /// Whole cores.
    #[must_use]
    pub const fn cores(cores: u64) -> Self {
        Self(cores * 1000)
    }
}

impl ByteSize {
    /// Mebibytes.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }
}

impl DurationMs {
    /// Whole seconds.
    #[must_use]
    pub const fn secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl Timestamp {
    /// The point in time `duration` later.
    #[must_use]
    pub const fn after(self, duration: DurationMs) -> Self {
        Self(self.0.saturating_add(duration.0))
    }

    /// How long ago `earlier` was, zero when it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> DurationMs {
        DurationMs(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 1000, self.0 % 1000) {
            (cores, 0) => write!(formatter, "{cores}"),
            (cores, milli) => {
                let text = format!("{cores}.{milli:03}");
                formatter.write_str(text.trim_end_matches('0'))
            }
        }
    }
}

impl FromStr for MilliCpu {
    type Err = UnitError;

    /// Decimal cores as in Compose: `0.5`, `2`, `1.25`; finer than 0.001 is refused.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_string(),
            what: "number of processor cores",
            hint: "write decimal cores such as 0.5 or 2, at least 0.001",
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let significant = fraction.trim_end_matches('0');
        if text.is_empty() || text == "." || !digits(whole) || !digits(fraction) || significant.len() > 3 {
            return Err(error());
        }
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| error())?
        };
        let milli: u64 = format!("{significant:0<3}").parse().map_err(|_| error())?;
        let total = whole.checked_mul(1000).and_then(|cores| cores.checked_add(milli));
        total.map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        let mut value = self.0 as f64;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if value.fract() == 0.0 || unit == 0 {
            write!(formatter, "{value:.0} {}", UNITS[unit])
        } else {
            write!(formatter, "{value:.1} {}", UNITS[unit])
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    /// Compose's byte values: digits and an optional `b`, `k|kb`, `m|mb`, `g|gb`, `t|tb`, `kib`…, all in powers of 1024.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_string(),
            what: "byte size",
            hint: "write a number with b, k, m, g or t, such as 64m",
        };
        let lower = text.trim().to_ascii_lowercase();
        let split = lower
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(lower.len());
        let (number, suffix) = lower.split_at(split);
        let shift = match suffix.trim() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(error()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(error);
        }
        let value: f64 = number.parse().map_err(|_| error())?;
        let bytes = value * (1u64 << shift) as f64;
        if !bytes.is_finite() || bytes < 0.0 || bytes >= u64::MAX as f64 {
            return Err(error());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for DurationMs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        if ms == 0 {
            return formatter.write_str("0s");
        }
        let parts = [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
        let mut rest = ms;
        for (size, unit) in parts {
            let count = rest / size;
            if count > 0 {
                write!(formatter, "{count}{unit}")?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl FromStr for DurationMs {
    type Err = UnitError;

    /// Compose's durations: `1m30s`, `500ms`, `2h`, `10us` (rounded down to whole milliseconds), also `0`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_string(),
            what: "duration",
            hint: "write numbers with us, ms, s, m or h, such as 1m30s",
        };
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let mut total_us = 0f64;
        let mut rest = text;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let (number, tail) = rest.split_at(number_end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            let scale_us = match unit {
                "ns" => 0.001,
                "us" | "µs" => 1.0,
                "ms" => 1_000.0,
                "s" => 1_000_000.0,
                "m" => 60_000_000.0,
                "h" => 3_600_000_000.0,
                _ => return Err(error()),
            };
            total_us += number.parse::<f64>().map_err(|_| error())? * scale_us;
            rest = next;
        }
        if total_us >= u64::MAX as f64 {
            return Err(error());
        }
        Ok(Self((total_us / 1000.0) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_shares_are_read_as_decimal_cores() {
        for (text, milli) in [("0.5", 500), ("2", 2000), (".25", 250), ("1.2500", 1250), ("0.001", 1)] {
            assert_eq!(text.parse(), Ok(MilliCpu(milli)), "{text}");
        }
        for text in ["", ".", "0.0001", "-1", "1e3", "a", "99999999999999999999"] {
            assert!(text.parse::<MilliCpu>().is_err(), "{text}");
        }
    }

    #[test]
    fn byte_sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("64m", 64 << 20),
            ("1GiB", 1 << 30),
            ("10", 10),
            ("1.5k", 1536),
            ("2 MB", 2 << 20),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "m", "1x", "-5m", "99999999999t"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_and_print() {
        for (text, ms) in [
            ("1m30s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("0", 0),
            ("1.5s", 1500),
        ] {
            assert_eq!(text.parse(), Ok(DurationMs(ms)), "{text}");
        }
        for text in ["", "5", "1d", "ms", "1s2"] {
            assert!(text.parse::<DurationMs>().is_err(), "{text}");
        }
        assert_eq!(DurationMs(90_500).to_string(), "1m30s500ms");
    }
}
