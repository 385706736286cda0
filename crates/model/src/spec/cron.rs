//! Jobs by the clock: when a run is due, and what becomes of earlier ones.
//!
//! Deliberately not here: calendars and time zones; what a schedule means on a certain day is `reconcile`'s.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::DurationMs;

/// A job that is run again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronSpec {
    /// When.
    pub schedule: CronSchedule,
    /// The time zone of the schedule, by its name in the tz database.
    pub time_zone: String,
    /// What happens when a run is due and an earlier one has not ended.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// A run that could not be started this long after it was due is skipped; none starts the latest one whenever possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting_deadline: Option<DurationMs>,
    /// Runs kept that succeeded.
    pub history_succeeded: u32,
    /// Runs kept that failed.
    pub history_failed: u32,
    /// No runs are started.
    #[serde(default)]
    pub suspend: bool,
}

impl CronSpec {
    /// With Kubernetes' defaults: UTC, runs may overlap, the last 3 that succeeded and the last that failed are kept.
    #[must_use]
    pub fn with_defaults(schedule: CronSchedule) -> Self {
        Self {
            schedule,
            time_zone: "UTC".to_string(),
            concurrency: Concurrency::Allow,
            starting_deadline: None,
            history_succeeded: 3,
            history_failed: 1,
            suspend: false,
        }
    }
}

/// What happens when a run is due and an earlier one has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// Both run.
    #[default]
    Allow,
    /// The new one is skipped.
    Forbid,
    /// The earlier one is ended, then the new one starts.
    Replace,
}

/// The five fields of crontab(5): minute, hour, day of month, month, day of week.
///
/// As in every cron, a day matches when either day field does, if both are restricted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronSchedule {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_hour: bool,
    any_day: bool,
    any_weekday: bool,
}

/// A text that is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a schedule: {reason}")]
pub struct CronError {
    text: String,
    reason: String,
}

/// One field: its name, its range, and words for its values from the least on.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    words: &'static [&'static str],
}

const MINUTE: Field = Field {
    name: "minute",
    least: 0,
    most: 59,
    words: &[],
};
const HOUR: Field = Field {
    name: "hour",
    least: 0,
    most: 23,
    words: &[],
};
const DAY: Field = Field {
    name: "day of month",
    least: 1,
    most: 31,
    words: &[],
};
const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    words: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
/// 7 is Sunday as well.
const WEEKDAY: Field = Field {
    name: "day of week",
    least: 0,
    most: 7,
    words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

const SHORTHANDS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl CronSchedule {
    /// The minutes of an hour, rising.
    pub fn minutes(&self) -> impl Iterator<Item = u32> {
        members(self.minutes)
    }

    /// The hours of a day, rising.
    pub fn hours(&self) -> impl Iterator<Item = u32> {
        members(self.hours)
    }

    /// Whether every hour is meant: then clocks that are set back repeat its runs, and clocks set forward skip them.
    #[must_use]
    pub const fn every_hour(&self) -> bool {
        self.any_hour
    }

    /// Whether there are runs in a month (1 to 12).
    #[must_use]
    pub const fn matches_month(&self, month: u32) -> bool {
        has(self.months, month)
    }

    /// Whether there are runs on a day of the month, which is the given day of the week (0 is Sunday).
    #[must_use]
    pub const fn matches_day(&self, day: u32, weekday: u32) -> bool {
        let (by_day, by_weekday) = (has(self.days, day), has(self.weekdays, weekday));
        if self.any_day || self.any_weekday {
            by_day && by_weekday
        } else {
            by_day || by_weekday
        }
    }
}

const fn has(mask: u64, value: u32) -> bool {
    value < 64 && mask & (1 << value) != 0
}

fn members(mask: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |value| has(mask, *value))
}

impl Field {
    fn mask(&self, text: &str) -> Result<u64, String> {
        let mut mask = 0;
        for part in text.split(',') {
            mask |= self.part(part)?;
        }
        Ok(mask)
    }

    /// `*`, `a`, `a-b`, each with `/step`.
    fn part(&self, text: &str) -> Result<u64, String> {
        let (range, step) = match text.split_once('/') {
            None => (text, None),
            Some((range, step)) => (range, Some(self.step(step)?)),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (self.least, self.most),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            // `5/15` means from 5 on.
            None if step.is_some() => (self.value(range)?, self.most),
            None => (self.value(range)?, self.value(range)?),
        };
        if first > last {
            return Err(format!("{} '{range}' ends before it begins", self.name));
        }
        let values = (first..=last).step_by(step.unwrap_or(1) as usize);
        Ok(values.fold(0, |mask, value| mask | 1 << value))
    }

    fn step(&self, text: &str) -> Result<u32, String> {
        match text.parse() {
            Ok(step) if step > 0 => Ok(step),
            Ok(_) | Err(_) => Err(format!("{} has the step '{text}'", self.name)),
        }
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let word = word.and_then(|at| u32::try_from(at).ok()).map(|at| at + self.least);
        let digits = || {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse().ok()).flatten()
        };
        let value = word.or_else(digits);
        let value = value.filter(|value| (self.least..=self.most).contains(value));
        value.ok_or_else(|| format!("{} '{text}' is not in {} to {}", self.name, self.least, self.most))
    }
}

/// Days that a month has at most.
const fn longest(month: u32) -> u32 {
    match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn read(text: &str) -> Result<CronSchedule, String> {
    let shorthand = SHORTHANDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    let fields: Vec<&str> = shorthand
        .map_or(text, |(_, meaning)| *meaning)
        .split_whitespace()
        .collect();
    let [minute, hour, day, month, weekday] = fields[..] else {
        return Err("it has five fields: minute, hour, day of month, month, day of week".to_string());
    };
    let is_any = |field: &str| field.starts_with('*') || field == "?";
    let weekdays = WEEKDAY.mask(weekday)?;
    let schedule = CronSchedule {
        text: text.to_string(),
        minutes: MINUTE.mask(minute)?,
        hours: HOUR.mask(hour)?,
        days: DAY.mask(day)?,
        months: MONTH.mask(month)?,
        weekdays: (weekdays | weekdays >> 7) & 0x7F,
        any_hour: is_any(hour),
        any_day: is_any(day),
        any_weekday: is_any(weekday),
    };
    let by_day_alone = schedule.any_weekday && !schedule.any_day;
    let possible =
        |month: u32| schedule.matches_month(month) && members(schedule.days).any(|day| day <= longest(month));
    if by_day_alone && !(1..=12).any(possible) {
        return Err("no month has such a day".to_string());
    }
    Ok(schedule)
}

impl FromStr for CronSchedule {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        read(text.trim()).map_err(|reason| CronError {
            text: text.to_string(),
            reason,
        })
    }
}

impl fmt::Display for CronSchedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

impl Serialize for CronSchedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for CronSchedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(text: &str) -> CronSchedule {
        text.parse().expect("a valid schedule")
    }

    #[test]
    fn fields_are_lists_ranges_steps_and_words() {
        let minutes = |text: &str| schedule(text).minutes().collect::<Vec<_>>();
        assert_eq!(minutes("*/20 * * * *"), [0, 20, 40]);
        assert_eq!(minutes("5,1-3 * * * *"), [1, 2, 3, 5]);
        assert_eq!(minutes("50/4 * * * *"), [50, 54, 58]);
        assert_eq!(schedule("0 9-17/4 * * *").hours().collect::<Vec<_>>(), [9, 13, 17]);
        assert!(schedule("@hourly").every_hour() && !schedule("0 3 * * *").every_hour());
        assert!(schedule("0 0 * jan-MAR *").matches_month(3) && !schedule("0 0 * jan-MAR *").matches_month(4));
        for sunday in ["0 0 * * 7", "0 0 * * 0", "0 0 * * sun"] {
            assert!(
                schedule(sunday).matches_day(5, 0) && !schedule(sunday).matches_day(5, 1),
                "{sunday}"
            );
        }
    }

    #[test]
    fn two_restricted_day_fields_match_either_way() {
        let either = schedule("0 0 13 * fri");
        assert!(either.matches_day(13, 1) && either.matches_day(6, 5) && !either.matches_day(6, 1));
        let both = schedule("0 0 13 * *");
        assert!(both.matches_day(13, 1) && !both.matches_day(6, 5));
    }

    #[test]
    fn what_never_comes_or_means_nothing_is_refused() {
        for (text, reason) in [
            ("", "five fields"),
            ("* * * *", "five fields"),
            ("60 * * * *", "minute '60'"),
            ("* 24 * * *", "hour '24'"),
            ("* * 0 * *", "day of month '0'"),
            ("* * * 13 *", "month '13'"),
            ("* * * * 8", "day of week '8'"),
            ("*/0 * * * *", "step '0'"),
            ("5-1 * * * *", "ends before"),
            ("+5 * * * *", "minute '+5'"),
            (", * * * *", "minute ''"),
            ("0 0 31 2,4 *", "no month"),
            ("@reboot", "five fields"),
        ] {
            let error = text.parse::<CronSchedule>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_as_it_was(text in "[0-9*/,@a-z -]{0,24}") {
            if let Ok(read) = text.parse::<CronSchedule>() {
                prop_assert_eq!(read.to_string(), text.trim());
                prop_assert!(read.minutes().next().is_some() && read.hours().next().is_some());
            }
        }
    }
}
