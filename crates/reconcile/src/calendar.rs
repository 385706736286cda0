//! What a schedule means in a time zone.
//!
//! A time that is skipped when clocks are set forward is taken as much later as they are set; one that comes twice when they are
//! set back is taken the first time. Schedules of every hour go by elapsed time instead: they skip what is skipped, and repeat
//! what is repeated.
//!
//! **Invariant:** time zones come from the table that is compiled in, so that every leader says the same.

use gantry_model::spec::{CronSchedule, CronSpec};
use gantry_model::{DurationMs, Timestamp};
use jiff::civil::{Date, DateTime, time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Span, ToSpan};

/// How far ahead a run is looked for: a leap day on a given date may be 8 years away (1896 to 1904, 2096 to 2104).
const DAYS_AHEAD: usize = 366 * 8 + 1;
/// How far civil time may run backwards against elapsed time; the largest change in the tz database is a day.
const BACKWARDS: i64 = 26;

/// A time zone by its name in the tz database.
#[must_use]
pub fn time_zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

/// The first run after `after`; none when there is none for years, or the time zone is unknown.
#[must_use]
pub fn next_run(cron: &CronSpec, after: Timestamp) -> Option<Timestamp> {
    next(&cron.schedule, &time_zone(&cron.time_zone)?, after)
}

/// The last run after `after` and not after `until`.
#[must_use]
pub fn latest_run(cron: &CronSpec, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
    const HOUR: u64 = 3600;
    let zone = time_zone(&cron.time_zone)?;
    // Wider and wider, so that months of missed minutes are not counted one by one.
    for window in [HOUR, 24 * HOUR, 31 * 24 * HOUR, 366 * 24 * HOUR, u64::MAX / 1000] {
        let from = Timestamp(until.0.saturating_sub(DurationMs::secs(window).0)).max(after);
        let mut last = None;
        let mut at = from;
        while let Some(due) = next(&cron.schedule, &zone, at).filter(|due| *due <= until) {
            last = Some(due);
            at = due;
        }
        if last.is_some() || from == after {
            return last;
        }
    }
    None
}

fn next(schedule: &CronSchedule, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let instant = jiff::Timestamp::from_millisecond(i64::try_from(after.0).ok()?).ok()?;
    let begin = zone
        .to_datetime(instant)
        .checked_sub(Span::new().hours(BACKWARDS))
        .ok()?;
    let mut best: Option<jiff::Timestamp> = None;
    for date in days(begin.date()).filter(|date| matches(schedule, *date)) {
        for local in times(schedule, date).filter(|local| *local >= begin) {
            let moments = moments(schedule, zone, local);
            if let (Some(best), Some(first)) = (best, moments.first())
                && *first >= best
            {
                return timestamp(best);
            }
            let later = moments.into_iter().filter(|moment| *moment > instant);
            best = best.into_iter().chain(later).min();
        }
    }
    best.and_then(timestamp)
}

fn timestamp(moment: jiff::Timestamp) -> Option<Timestamp> {
    u64::try_from(moment.as_millisecond()).ok().map(Timestamp)
}

fn days(first: Date) -> impl Iterator<Item = Date> {
    first.series(1.day()).take(DAYS_AHEAD)
}

fn matches(schedule: &CronSchedule, date: Date) -> bool {
    let unsigned = |value: i8| u32::try_from(value).unwrap_or_default();
    let weekday = unsigned(date.weekday().to_sunday_zero_offset());
    schedule.matches_month(unsigned(date.month())) && schedule.matches_day(unsigned(date.day()), weekday)
}

fn times(schedule: &CronSchedule, date: Date) -> impl Iterator<Item = DateTime> {
    let small = |value: u32| i8::try_from(value).unwrap_or_default();
    let hours = schedule.hours();
    hours.flat_map(move |hour| {
        schedule
            .minutes()
            .map(move |minute| date.to_datetime(time(small(hour), small(minute), 0, 0)))
    })
}

/// The moments that a local time stands for, the first one first.
fn moments(schedule: &CronSchedule, zone: &TimeZone, local: DateTime) -> Vec<jiff::Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let moments = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => vec![ambiguous.compatible()],
        AmbiguousOffset::Gap { .. } if schedule.every_hour() => Vec::new(),
        AmbiguousOffset::Fold { .. } if schedule.every_hour() => vec![ambiguous.earlier(), ambiguous.later()],
        AmbiguousOffset::Gap { .. } | AmbiguousOffset::Fold { .. } => vec![ambiguous.compatible()],
    };
    moments.into_iter().filter_map(Result::ok).collect()
}

/// `202611231500`: a time in UTC, as part of a name.
pub(crate) fn stamp(at: Timestamp) -> String {
    let moment = i64::try_from(at.0)
        .ok()
        .and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    moment.map_or_else(|| at.0.to_string(), |moment| moment.strftime("%Y%m%d%H%M").to_string())
}

/// A time as people read it, in the schedule's own time zone.
#[must_use]
pub fn local_time(cron: &CronSpec, at: Timestamp) -> Option<String> {
    let moment = jiff::Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    let zoned = moment.to_zoned(time_zone(&cron.time_zone)?);
    Some(zoned.strftime("%Y-%m-%d %H:%M %Z").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cron(schedule: &str, zone: &str) -> CronSpec {
        CronSpec {
            time_zone: zone.to_string(),
            ..CronSpec::with_defaults(schedule.parse().expect("a valid schedule"))
        }
    }

    fn at(text: &str) -> Timestamp {
        let moment: jiff::Timestamp = text.parse().expect("a valid time");
        timestamp(moment).expect("after 1970")
    }

    fn runs(schedule: &str, zone: &str, from: &str, count: usize) -> Vec<Timestamp> {
        let cron = cron(schedule, zone);
        let next = |last: &Timestamp| next_run(&cron, *last);
        std::iter::successors(next(&at(from)), next).take(count).collect()
    }

    #[track_caller]
    fn check(schedule: &str, zone: &str, from: &str, expected: &[&str]) {
        let expected: Vec<Timestamp> = expected.iter().map(|text| at(text)).collect();
        assert_eq!(
            runs(schedule, zone, from, expected.len()),
            expected,
            "{schedule} in {zone}"
        );
    }

    #[test]
    fn runs_follow_the_clock_of_their_time_zone() {
        check(
            "0 9 * * mon-fri",
            "UTC",
            "2026-11-20T09:00:00Z",
            &["2026-11-23T09:00:00Z"],
        );
        check(
            "0 9 * * *",
            "Asia/Kolkata",
            "2026-11-23T00:00:00Z",
            &["2026-11-23T03:30:00Z"],
        );
        check("0 0 29 2 *", "UTC", "2024-03-01T00:00:00Z", &["2028-02-29T00:00:00Z"]);
        check("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", &["2104-02-29T00:00:00Z"]);
        check(
            "0 0 31 * *",
            "UTC",
            "2026-04-01T00:00:00Z",
            &["2026-05-31T00:00:00Z", "2026-07-31T00:00:00Z"],
        );
        check(
            "59 23 31 12 *",
            "UTC",
            "2026-12-31T23:59:00Z",
            &["2027-12-31T23:59:00Z"],
        );
    }

    #[test]
    fn a_time_that_is_skipped_is_run_later_and_one_that_comes_twice_is_run_once() {
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"],
        );
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
    }

    #[test]
    fn what_runs_every_hour_goes_by_elapsed_time() {
        check(
            "30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"],
        );
        check(
            "30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"],
        );
        check(
            "*/30 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:00:00Z",
            &["2026-04-04T14:30:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"],
        );
    }

    #[test]
    fn only_the_last_of_many_missed_runs_matters() {
        let missed =
            |schedule: &str, after: &str, until: &str| latest_run(&cron(schedule, "UTC"), at(after), at(until));
        let until = "2026-11-23T15:07:30Z";
        assert_eq!(
            missed("* * * * *", "2024-01-01T00:00:00Z", until),
            Some(at("2026-11-23T15:07:00Z"))
        );
        assert_eq!(
            missed("0 3 * * *", "2026-11-01T00:00:00Z", until),
            Some(at("2026-11-23T03:00:00Z"))
        );
        assert_eq!(
            missed("0 0 1 1 *", "2020-06-01T00:00:00Z", until),
            Some(at("2026-01-01T00:00:00Z"))
        );
        assert_eq!(missed("0 3 * * *", "2026-11-23T03:00:00Z", until), None);
        assert_eq!(
            missed("7 15 * * *", "2026-11-23T03:00:00Z", "2026-11-23T15:07:00Z"),
            Some(at("2026-11-23T15:07:00Z"))
        );
    }

    #[test]
    fn an_unknown_time_zone_has_no_runs() {
        assert_eq!(next_run(&cron("* * * * *", "Europe/Gotham"), Timestamp(0)), None);
        assert_eq!(stamp(at("2026-11-23T15:00:00Z")), "202611231500");
    }

    const ZONES: [&str; 6] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Pacific/Apia",
    ];

    proptest! {
        /// Against the definition: a moment is a run of an hourly schedule exactly when its local time matches.
        #[test]
        fn runs_of_every_hour_are_the_moments_whose_local_time_matches(
            zone in 0..ZONES.len(),
            minute in 0..60u32,
            step in prop_oneof![Just(0u32), 7..30u32],
            start in 0..35_000u64,
        ) {
            let text = if step == 0 { format!("{minute} * * * *") } else { format!("*/{step} * * * *") };
            let cron = cron(&text, ZONES[zone]);
            let zone = time_zone(ZONES[zone]).expect("it is known");
            let begin = Timestamp(1_700_000_000_000 + start * 3_600_000);
            let first_minute = begin.0 / 60_000 + 1;
            let matching = |minute: &u64| {
                let moment = jiff::Timestamp::from_millisecond((minute * 60_000) as i64).expect("in range");
                let local = zone.to_datetime(moment);
                cron.schedule.minutes().any(|minute| minute == local.minute() as u32)
            };
            let expected: Vec<Timestamp> = (first_minute..first_minute + 240).filter(matching).map(|minute| Timestamp(minute * 60_000)).collect();
            let next = |last: &Timestamp| next_run(&cron, *last);
            let found: Vec<Timestamp> = std::iter::successors(next(&begin), next).take(expected.len()).collect();
            prop_assert_eq!(found, expected);
        }

        /// A daily time is run once on every day that has one.
        #[test]
        fn a_daily_run_comes_once_a_day(zone in 0..ZONES.len(), hour in 0..24u32, minute in 0..60u32, start in 0..1_500u64) {
            let cron = cron(&format!("{minute} {hour} * * *"), ZONES[zone]);
            let begin = Timestamp(1_650_000_000_000 + start * 86_400_000);
            let next = |last: &Timestamp| next_run(&cron, *last);
            let found: Vec<Timestamp> = std::iter::successors(next(&begin), next).take(4).collect();
            for pair in found.windows(2) {
                let hours = pair[1].since(pair[0]).0 / 3_600_000;
                prop_assert!((22..=25).contains(&hours), "{found:?}");
            }
        }
    }
}
