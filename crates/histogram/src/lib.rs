//! Histograms for openraft's own statistics, in place of the crate of the same name.
//!
//! That crate lays out bucket tables for all of its sixteen resolutions when the first histogram is made: 25 MB of resident
//! memory in every server, of which openraft uses one resolution. This one has the part of the interface that openraft calls and
//! counts in at most 256 buckets, allocated as values need them.
//! Deliberately not here: slots, rescaling, interpolation, charts: openraft's statistics are printed by nobody here.

use std::fmt;
use std::marker::PhantomData;

/// Buckets per power of two: values are told apart to within a quarter.
const PARTS: u64 = 4;

/// Counts values in buckets whose width grows with the value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    slots: PhantomData<T>,
}

/// The value below which a part of all values lie, for several parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// One in a thousand is at most this.
    pub p0_1: u64,
    /// One in a hundred.
    pub p1: u64,
    /// One in twenty.
    pub p5: u64,
    /// One in ten.
    pub p10: u64,
    /// Half.
    pub p50: u64,
    /// Nine in ten.
    pub p90: u64,
    /// Ninety-nine in a hundred.
    pub p99: u64,
    /// 999 in a thousand.
    pub p99_9: u64,
}

/// The bucket of a value: values below [`PARTS`] have one each, then each power of two is cut into [`PARTS`].
fn bucket(value: u64) -> usize {
    if value < PARTS {
        return value as usize;
    }
    let magnitude = u64::from(value.ilog2());
    let shift = magnitude - u64::from(PARTS.ilog2());
    let part = (value >> shift) - PARTS;
    ((shift + 1) * PARTS + part) as usize
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    let (row, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    if row == 0 { part } else { (PARTS + part) << (row - 1) }
}

impl<T> Histogram<T> {
    /// Without values.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counts: Vec::new(),
            slots: PhantomData,
        }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value several times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let bucket = bucket(value);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += times;
    }

    /// Values counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The least value of the bucket in which the given thousandths of all values are reached; 0 without values.
    #[must_use]
    pub fn permille(&self, thousandths: u64) -> u64 {
        let wanted = (u128::from(self.total()) * u128::from(thousandths))
            .div_ceil(1000)
            .max(1);
        let mut seen = 0u128;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= wanted {
                return least(bucket);
            }
        }
        0
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.permille(1),
            p1: self.permille(10),
            p5: self.permille(50),
            p10: self.permille(100),
            p50: self.permille(500),
            p90: self.permille(900),
            p99: self.permille(990),
            p99_9: self.permille(999),
        }
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            samples, p50, p90, p99, ..
        } = self;
        write!(
            formatter,
            "{samples} values, half below {p50}, 90 % below {p90}, 99 % below {p99}"
        )
    }
}

/// Several histograms side by side, one line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    rows: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// Without rows.
    #[must_use]
    pub const fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.rows.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows
            .iter()
            .try_for_each(|(name, stats)| writeln!(formatter, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..5000).chain([1 << 20, (1 << 40) + 12345, u64::MAX - 1, u64::MAX]) {
            let bucket = bucket(value);
            assert!(bucket < 256, "{value} in {bucket}");
            assert!(least(bucket) <= value, "{value} in {bucket}");
            assert!(
                bucket == 255 || value < least(bucket + 1) || least(bucket + 1) == 0,
                "{value} in {bucket}"
            );
        }
    }

    #[test]
    fn percentiles_are_exact_to_a_fifth() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        (1..=1000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1000);
        for (found, exact) in [(stats.p10, 100), (stats.p50, 500), (stats.p99, 990)] {
            assert!(found <= exact && found * 5 >= exact * 4, "{found} for {exact}");
        }
    }
}
