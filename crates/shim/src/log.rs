//! The log file: one record per line of output, in the format of the Kubernetes container runtime interface:
//! `<time> <stream> <F|P> <text>`, where `P` says that the line goes on in the next record of the stream.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::plan::LogPlan;
use crate::record::wall_clock;

/// Text of a record past which a line is split, as in Docker and containerd.
pub(crate) const TEXT_LENGTH_MAX: usize = 16 * 1024;

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The word in the record.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Names of a log file and of its rotated predecessors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    path: PathBuf,
}

impl Rotation {
    /// Of the current file.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
        }
    }

    /// The file with age `age`; 0 is the current one.
    #[must_use]
    pub fn file(&self, age: u32) -> PathBuf {
        if age == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{age}"));
        PathBuf::from(name)
    }
}

/// Appends records and rotates.
#[derive(Debug)]
pub(crate) struct LogWriter {
    plan: LogPlan,
    file: File,
    size: u64,
}

impl LogWriter {
    pub(crate) fn open(plan: &LogPlan) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&plan.path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            plan: plan.clone(),
            file,
            size,
        })
    }

    /// Appends one record. What cannot be written is lost: a full disk must not stop the container.
    pub(crate) fn append(&mut self, stream: Stream, is_full_line: bool, text: &[u8]) {
        let mut record = Vec::with_capacity(text.len() + 48);
        let (seconds, nanoseconds) = wall_clock();
        record.extend_from_slice(stamp_of(seconds, nanoseconds).as_bytes());
        let tag = if is_full_line { 'F' } else { 'P' };
        // Writing to a vector cannot fail.
        let _ = write!(record, " {} {tag} ", stream.word());
        record.extend_from_slice(text);
        record.push(b'\n');
        if self.size > 0 && self.size + record.len() as u64 > self.plan.size_max {
            self.rotate();
        }
        if self.file.write_all(&record).is_ok() {
            self.size += record.len() as u64;
        }
    }

    fn rotate(&mut self) {
        let names = Rotation::of(&self.plan.path);
        if self.plan.files_max <= 1 {
            if self.file.set_len(0).is_ok() {
                self.size = 0;
            }
            return;
        }
        for age in (0..self.plan.files_max - 1).rev() {
            // The oldest is replaced; one that is not there yet has nothing to hand on.
            let _ = fs::rename(names.file(age), names.file(age + 1));
        }
        if let Ok(fresh) = OpenOptions::new().create(true).append(true).open(&self.plan.path) {
            self.file = fresh;
            self.size = 0;
        }
    }
}

/// `2026-11-23T10:00:00.000000001Z`: seconds and nanoseconds since the Unix epoch as RFC 3339, always 30 characters.
#[must_use]
pub fn stamp_of(seconds: i64, nanoseconds: u32) -> String {
    let days = seconds.div_euclid(86_400);
    let in_day = seconds.rem_euclid(86_400);
    let (year, month, day) = civil_of(days);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

/// Days since 1970-01-01 to year, month, day: Howard Hinnant's `civil_from_days`.
fn civil_of(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_rfc_3339() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 5, "2000-02-29T00:00:00.000000005Z"),
            (1_795_430_276, 999_999_999, "2026-11-23T10:37:56.999999999Z"),
            (-1, 0, "1969-12-31T23:59:59.000000000Z"),
        ] {
            assert_eq!(stamp_of(seconds, nanoseconds), text);
        }
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("log");
        let plan = LogPlan {
            path: path.clone(),
            size_max: 100,
            files_max: 3,
        };
        let mut writer = LogWriter::open(&plan).expect("opens");
        for number in 0..10 {
            writer.append(Stream::Stdout, true, format!("line {number}").as_bytes());
        }
        let names = Rotation::of(&path);
        let text = |age| fs::read_to_string(names.file(age)).unwrap_or_default();
        assert!(text(0).ends_with("stdout F line 9\n") && text(0).len() <= 100);
        assert!(text(1).contains("line 7") && text(2).contains("line 4"));
        assert!(!names.file(3).exists());
    }
}
