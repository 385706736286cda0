//! Reservations and limits: `deploy.resources` and the older keys of the service itself.

use gantry_model::spec::{GenericResource, MEMORY_LIMIT_MIN, Resources};
use gantry_model::{ByteSize, MilliCpu};

use super::keys;
use super::scalar::{integer, parsed, some_text};
use crate::yaml::cursor::Cursor;

/// Docker's default period of `cpu_quota`, in microseconds.
const CPU_PERIOD_DEFAULT_US: i64 = 100_000;

/// Everything about resources of one service.
pub(crate) fn resources(service: &Cursor<'_>) -> Resources {
    let mut resources = legacy(service);
    if let Some(deploy) = service.get("deploy")
        && let Some(at) = deploy.get("resources")
    {
        at.check_keys(keys::RESOURCES);
        if let Some(limits) = at.get("limits") {
            limits.check_keys(keys::LIMITS);
            one_value(&limits, "cpus", cpus, &mut resources.cpu_limit);
            one_value(&limits, "memory", memory, &mut resources.memory_limit);
            one_value(&limits, "pids", pids, &mut resources.pids_limit);
        }
        if let Some(reservations) = at.get("reservations") {
            reservations.check_keys(keys::RESERVATIONS);
            resources.cpu_reservation = reservations.read("cpus", cpus).flatten().unwrap_or_default();
            let mut memory_reservation = non_zero(resources.memory_reservation);
            one_value(&reservations, "memory", memory, &mut memory_reservation);
            resources.memory_reservation = memory_reservation.unwrap_or_default();
            resources.generic_reservations = reservations
                .read("generic_resources", |at| Some(generic(at)))
                .unwrap_or_default();
        }
    }
    check(service, &resources);
    resources
}

/// `cpus`, `cpu_quota`, `mem_limit`, `mem_reservation`, `pids_limit` of the service itself.
fn legacy(service: &Cursor<'_>) -> Resources {
    let quota = service
        .read("cpu_quota", |at| integer(at, -1, i64::MAX / 1000))
        .filter(|quota| *quota > 0);
    let period = service.read("cpu_period", |at| integer(at, 1000, 1_000_000));
    let from_quota = quota.map(|quota| {
        let milli = quota * 1000 / period.unwrap_or(CPU_PERIOD_DEFAULT_US);
        MilliCpu(milli.max(1).unsigned_abs())
    });
    Resources {
        cpu_limit: service.read("cpus", cpus).flatten().or(from_quota),
        memory_limit: service.read("mem_limit", memory).flatten(),
        pids_limit: service.read("pids_limit", pids).flatten(),
        memory_reservation: service.read("mem_reservation", memory).flatten().unwrap_or_default(),
        ..Resources::default()
    }
}

/// Reads a value that an older key may have set already; both must agree, as Compose demands.
fn one_value<T: PartialEq>(
    at: &Cursor<'_>,
    key: &str,
    reader: impl FnOnce(&Cursor<'_>) -> Option<Option<T>>,
    into: &mut Option<T>,
) {
    let Some(value_at) = at.get(key) else { return };
    let Some(value) = reader(&value_at) else { return };
    if into.is_some() && *into != value {
        value_at.error_with(
            "differs from the older key of the service that means the same",
            "remove cpus, mem_limit, mem_reservation or pids_limit",
        );
    }
    *into = value;
}

/// Zero is no limit.
fn cpus(at: &Cursor<'_>) -> Option<Option<MilliCpu>> {
    let value: MilliCpu = parsed(at)?;
    Some((value > MilliCpu::ZERO).then_some(value))
}

/// Zero is no limit.
fn memory(at: &Cursor<'_>) -> Option<Option<ByteSize>> {
    parsed(at).map(non_zero)
}

fn non_zero(size: ByteSize) -> Option<ByteSize> {
    (size > ByteSize::ZERO).then_some(size)
}

/// −1 and 0 are no limit.
fn pids(at: &Cursor<'_>) -> Option<Option<u32>> {
    let value = integer(at, -1, i64::from(u32::MAX))?;
    Some(u32::try_from(value).ok().filter(|value| *value > 0))
}

fn generic(at: &Cursor<'_>) -> Vec<GenericResource> {
    let resource = |item: &Cursor<'_>| {
        item.check_keys(keys::GENERIC_RESOURCE);
        let Some(spec) = item.get("discrete_resource_spec") else {
            item.error("'discrete_resource_spec' is missing");
            return None;
        };
        spec.check_keys(keys::DISCRETE_RESOURCE);
        let (Some(kind), Some(value)) = (spec.get("kind"), spec.get("value")) else {
            spec.error("'kind' and 'value' are needed");
            return None;
        };
        Some(GenericResource {
            kind: some_text(&kind)?,
            value: integer(&value, 1, i64::MAX)?.unsigned_abs(),
        })
    };
    let mut found: Vec<GenericResource> = Vec::new();
    for item in at.items() {
        let Some(resource) = resource(&item) else { continue };
        if found.iter().any(|other| other.kind == resource.kind) {
            item.error(format!("'{}' is reserved already", resource.kind));
            continue;
        }
        found.push(resource);
    }
    found
}

fn check(service: &Cursor<'_>, resources: &Resources) {
    if let Some(limit) = resources.memory_limit {
        if limit < MEMORY_LIMIT_MIN {
            let help = "give at least that much, a container cannot start with less";
            at_memory_limit(service, |at| {
                at.error_with(
                    format!("a memory limit of {limit} is below the smallest, {MEMORY_LIMIT_MIN}"),
                    help,
                );
            });
        }
        if resources.memory_reservation > limit {
            let reserved = resources.memory_reservation;
            at_memory_limit(service, |at| {
                at.error(format!(
                    "the memory reservation of {reserved} is above the limit of {limit}"
                ));
            });
        }
    }
    if let Some(limit) = resources.cpu_limit
        && resources.cpu_reservation > limit
    {
        let reserved = resources.cpu_reservation;
        service.error_key(
            format!("the reservation of {reserved} cpus is above the limit of {limit}"),
            None,
        );
    }
}

/// Reports at the limit, wherever it is written.
fn at_memory_limit(service: &Cursor<'_>, report: impl Fn(&Cursor<'_>)) {
    if let Some(deploy) = service.get("deploy")
        && let Some(resources) = deploy.get("resources")
        && let Some(limits) = resources.get("limits")
        && let Some(memory) = limits.get("memory")
    {
        return report(&memory);
    }
    match service.get("mem_limit") {
        Some(limit) => report(&limit),
        None => report(service),
    }
}
