//! `x-gantry` of a service: rollouts in stages, limits of jobs, cron jobs, stateful services, scaling.

use gantry_model::spec::{
    CanaryStep, Concurrency, CronSpec, JobSpec, Mode, RolloutStrategy, ServiceSpec, StartOrder, Stateful, UpdateOrder,
};
use jiff::tz::TimeZoneDatabase;

use super::scalar::{boolean, choice, count, integer, parsed, scalar, some_text};
use super::{autoscale, keys};
use crate::yaml::cursor::Cursor;

/// The variable in which each replica of an indexed job finds its index from 0 on, as in Kubernetes.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

const CONCURRENCIES: &[(&str, Concurrency)] = &[
    ("allow", Concurrency::Allow),
    ("forbid", Concurrency::Forbid),
    ("replace", Concurrency::Replace),
];
const STARTS: &[(&str, StartOrder)] = &[("ordered", StartOrder::Ordered), ("parallel", StartOrder::Parallel)];

/// Adds what the extension says to the spec.
pub(crate) fn extend(extension: &Cursor<'_>, spec: &mut ServiceSpec) {
    if let Some(at) = extension.get("job") {
        job(&at, spec);
    }
    if let Some(at) = extension.get("cron") {
        spec.cron = cron(&at, spec);
    }
    if let Some(at) = extension.get("stateful") {
        spec.stateful = stateful(&at, spec);
    }
    if let Some(at) = extension.get("rollout") {
        rollout(&at, spec);
    }
    if let Some(at) = extension.get("autoscale") {
        spec.autoscale = autoscale::autoscale(&at, spec);
    }
}

fn rollout(at: &Cursor<'_>, spec: &mut ServiceSpec) {
    at.check_keys(keys::ROLLOUT);
    if spec.mode.is_job() {
        at.error_key("a job has no rollout: a new revision runs it anew", None);
    }
    if let Some(batch) = at.get("batch") {
        match percent_or_count(&batch) {
            Some(Batch::Percent(percent)) => spec.update.batch_percent = Some(percent),
            Some(Batch::Count(count)) => spec.update.parallelism = count,
            None => {}
        }
    }
    if let Some(deadline) = at.read("progress_deadline", parsed) {
        spec.update.progress_deadline = deadline;
        spec.rollback.progress_deadline = deadline;
    }
    if let Some(list) = at.get("canary") {
        let steps: Vec<CanaryStep> = list.items().iter().filter_map(canary_step).collect();
        if steps.windows(2).any(|pair| pair[0].percent >= pair[1].percent) {
            list.error("the percents of a canary rise from step to step");
        }
        if !steps.is_empty() {
            spec.update.strategy = RolloutStrategy::Canary { steps };
        }
    }
    if let Some(blue_green) = at.get("blue_green") {
        blue_green.check_keys(keys::BLUE_GREEN);
        if !spec.update.strategy.is_rolling() {
            blue_green.error_key("a rollout is either a canary or blue-green", None);
        }
        if spec.stateful.is_some_and(|stateful| stateful.exclusive) {
            blue_green.error_key("an exclusive replica has no other beside it", None);
        }
        let hold = blue_green.read("hold", parsed);
        spec.update.strategy = RolloutStrategy::BlueGreen { hold };
    }
}

enum Batch {
    Percent(u32),
    Count(u32),
}

fn percent_or_count(at: &Cursor<'_>) -> Option<Batch> {
    let text = scalar(at)?.text.trim();
    let Some(share) = text.strip_suffix('%') else {
        return count(at).map(Batch::Count);
    };
    match share.trim().parse::<u32>() {
        Ok(percent) if (1..=100).contains(&percent) => Some(Batch::Percent(percent)),
        Ok(_) | Err(_) => {
            at.error(format!("'{text}' is not a share from 1% to 100%"));
            None
        }
    }
}

fn canary_step(at: &Cursor<'_>) -> Option<CanaryStep> {
    at.check_keys(keys::CANARY_STEP);
    let Some(percent) = at.get("percent") else {
        at.error("'percent' is missing");
        return None;
    };
    Some(CanaryStep {
        percent: u32::try_from(integer(&percent, 1, 100)?).ok()?,
        hold: at.read("hold", parsed),
    })
}

fn job(at: &Cursor<'_>, spec: &mut ServiceSpec) {
    at.check_keys(keys::JOB);
    if !spec.mode.is_job() {
        at.error_key(
            "the service is not a job",
            Some("write deploy.mode: replicated-job".to_string()),
        );
        return;
    }
    for (key, is_completions) in [("completions", true), ("parallelism", false)] {
        let Some(number) = at.get(key) else { continue };
        let Some(wanted) = count(&number) else { continue };
        match &mut spec.mode {
            Mode::ReplicatedJob { completions, .. } if is_completions => *completions = wanted,
            Mode::ReplicatedJob { parallelism, .. } => *parallelism = wanted,
            Mode::Replicated { .. } | Mode::Global | Mode::GlobalJob => {
                number.error_with(
                    "a global job runs once per node",
                    "remove it, or use mode: replicated-job",
                );
            }
        }
    }
    if at.read("indexed", boolean).unwrap_or(false) {
        let variable = INDEX_VARIABLE.to_string();
        let environment = &mut spec.container.environment;
        environment
            .entry(variable)
            .or_insert(Some("{{.Task.Index}}".to_string()));
    }
    spec.job = JobSpec {
        backoff_limit: at.read("backoff_limit", count),
        deadline: at.read("deadline", parsed),
        ttl: at.read("ttl", parsed),
    };
}

/// `cron: "0 3 * * *"`, or a mapping.
fn cron(at: &Cursor<'_>, spec: &ServiceSpec) -> Option<CronSpec> {
    if !spec.mode.is_job() {
        at.error_key(
            "a cron job is a job",
            Some("write deploy.mode: replicated-job".to_string()),
        );
        return None;
    }
    if !spec.ports.is_empty() {
        at.error_key("the runs of a cron job publish no ports", None);
    }
    if !at.is_map() {
        return parsed(at).map(CronSpec::with_defaults);
    }
    at.check_keys(keys::CRON);
    let Some(schedule) = at.get("schedule") else {
        at.error_key("'schedule' is missing", None);
        return None;
    };
    let default = CronSpec::with_defaults(parsed(&schedule)?);
    let mut kept = (None, None);
    if let Some(history) = at.get("history") {
        history.check_keys(keys::CRON_HISTORY);
        kept = (history.read("succeeded", count), history.read("failed", count));
    }
    Some(CronSpec {
        time_zone: at.read("time_zone", time_zone).unwrap_or(default.time_zone),
        concurrency: at
            .read("concurrency", |at| choice(at, CONCURRENCIES))
            .unwrap_or(default.concurrency),
        starting_deadline: at.read("starting_deadline", parsed),
        history_succeeded: kept.0.unwrap_or(default.history_succeeded),
        history_failed: kept.1.unwrap_or(default.history_failed),
        suspend: at.read("suspend", boolean).unwrap_or(false),
        schedule: default.schedule,
    })
}

pub(crate) fn time_zone(at: &Cursor<'_>) -> Option<String> {
    let name = some_text(at)?;
    if TimeZoneDatabase::bundled().get(&name).is_err() {
        at.error_with(
            format!("time zone '{name}' is not known"),
            "use a name of the tz database, such as Europe/Berlin",
        );
        return None;
    }
    Some(name)
}

fn stateful(at: &Cursor<'_>, spec: &ServiceSpec) -> Option<Stateful> {
    at.check_keys(keys::STATEFUL);
    if matches!(spec.mode, Mode::Global | Mode::GlobalJob) {
        at.error_key(
            "a global service has nodes instead of slots",
            Some("use mode: replicated".to_string()),
        );
        return None;
    }
    let exclusive = at.read("exclusive", boolean).unwrap_or(false);
    if exclusive && spec.update.order == UpdateOrder::StartFirst {
        at.read("exclusive", |at| {
            at.error_with(
                "an exclusive replica has no other beside it, not even for an update",
                "use update_config.order: stop-first",
            );
            Some(())
        });
    }
    let default = if spec.mode.is_job() {
        StartOrder::Parallel
    } else {
        StartOrder::Ordered
    };
    Some(Stateful {
        start: at.read("start", |at| choice(at, STARTS)).unwrap_or(default),
        exclusive,
    })
}
