//! `x-gantry: {autoscale: …}` of a service: bounds, targets, and other bounds by the clock.

use gantry_model::spec::{Autoscale, Mode, ScaleTarget, ScheduledBounds, ServiceSpec};

use super::keys;
use super::scalar::{count, parsed};
use super::workload::time_zone;
use crate::yaml::cursor::Cursor;

/// Reads the key; its count is kept within the bounds from the start.
pub(crate) fn autoscale(at: &Cursor<'_>, spec: &mut ServiceSpec) -> Option<Autoscale> {
    at.check_keys(keys::AUTOSCALE);
    let Mode::Replicated { replicas } = spec.mode else {
        at.error_key(
            "only a replicated service is scaled",
            Some("remove it, or use mode: replicated".to_string()),
        );
        return None;
    };
    let (min, max) = bounds(at)?;
    let autoscale = Autoscale {
        min,
        max,
        cpu: target(at, "cpu", spec.resources.cpu_reservation.0 > 0, "cpus"),
        memory: target(at, "memory", spec.resources.memory_reservation.0 > 0, "memory"),
        schedule: at
            .get("schedule")
            .map(|list| list.items().iter().filter_map(scheduled).collect())
            .unwrap_or_default(),
    };
    if at.get("cpu").is_none() && at.get("memory").is_none() && autoscale.schedule.is_empty() {
        at.error_key(
            "nothing says when to scale",
            Some("add cpu: 70%, memory: 80%, or a schedule".to_string()),
        );
    }
    spec.mode = Mode::Replicated {
        replicas: replicas.clamp(min, max),
    };
    Some(autoscale)
}

/// `min`, which is 1 when absent, and `max`.
fn bounds(at: &Cursor<'_>) -> Option<(u32, u32)> {
    let Some(max_at) = at.get("max") else {
        at.error("'max' is missing");
        return None;
    };
    let max = count(&max_at)?;
    let min = at.read("min", count).unwrap_or(1);
    if min > max {
        max_at.error(format!("max {max} is less than min {min}"));
        return None;
    }
    Some((min, max))
}

fn target<T>(at: &Cursor<'_>, key: &str, has_reservation: bool, reservation: &str) -> Option<ScaleTarget<T>>
where
    ScaleTarget<T>: std::str::FromStr,
    <ScaleTarget<T> as std::str::FromStr>::Err: std::fmt::Display,
{
    let target_at = at.get(key)?;
    let target = parsed::<ScaleTarget<T>>(&target_at)?;
    if matches!(target, ScaleTarget::Percent(_)) && !has_reservation {
        target_at.error_with(
            "a share needs a reservation that it is a share of",
            format!("set deploy.resources.reservations.{reservation}, or write an amount"),
        );
    }
    Some(target)
}

fn scheduled(at: &Cursor<'_>) -> Option<ScheduledBounds> {
    at.check_keys(keys::AUTOSCALE_SCHEDULE);
    let Some(from) = at.get("from") else {
        at.error("'from' is missing");
        return None;
    };
    let (min, max) = bounds(at)?;
    Some(ScheduledBounds {
        from: parsed(&from)?,
        time_zone: at.read("time_zone", time_zone).unwrap_or_else(|| "UTC".to_string()),
        min,
        max,
    })
}
