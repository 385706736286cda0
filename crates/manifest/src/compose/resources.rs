//! Reservations and limits: `deploy.resources` and the older keys of the service itself.

use gantry_model::spec::{GenericResource, MEMORY_LIMIT_MIN, Resources, SwapLimit};
use gantry_model::{ByteSize, DurationMs, MilliCpu};

use super::scalar::{boolean, integer, parsed, scalar, some_text};
use super::{block_io, keys};
use crate::yaml::cursor::Cursor;

/// Docker's default period of `cpu_quota`, in microseconds.
const CPU_PERIOD_DEFAULT_US: i64 = 100_000;

/// Largest weight of processor time (kernel, `MAX_SHARES`).
const CPU_SHARES_MAX: i64 = 262_144;

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

/// The keys of the service itself.
fn legacy(service: &Cursor<'_>) -> Resources {
    let quota = service
        .read("cpu_quota", |at| integer(at, -1, i64::MAX / 1000))
        .filter(|quota| *quota > 0);
    let period = service.read("cpu_period", |at| integer(at, 1000, 1_000_000));
    let from_quota = quota.map(|quota| {
        let milli = quota * 1000 / period.unwrap_or(CPU_PERIOD_DEFAULT_US);
        MilliCpu(milli.max(1).unsigned_abs())
    });
    // −1 leaves it to the node.
    let swappiness = service.read("mem_swappiness", |at| integer(at, -1, 100));
    Resources {
        cpu_limit: service.read("cpus", cpus).flatten().or(from_quota),
        memory_limit: service.read("mem_limit", memory).flatten(),
        pids_limit: service.read("pids_limit", pids).flatten(),
        memory_reservation: service.read("mem_reservation", memory).flatten().unwrap_or_default(),
        cpu_shares: service
            .read("cpu_shares", |at| unsigned(at, CPU_SHARES_MAX))
            .filter(|shares| *shares > 0),
        cpuset_cpus: service.read("cpuset", cpu_list),
        cpu_period_us: period.map(i64::unsigned_abs),
        cpu_rt_runtime_us: service.read("cpu_rt_runtime", microseconds),
        cpu_rt_period_us: service.read("cpu_rt_period", microseconds).map(i64::unsigned_abs),
        memory_swap_limit: service.read("memswap_limit", swap),
        memory_swappiness: swappiness.and_then(|value| u8::try_from(value).ok()),
        oom_kill_disable: service.read("oom_kill_disable", boolean).unwrap_or(false),
        block_io: service
            .read("blkio_config", |at| Some(block_io::block_io(at)))
            .unwrap_or_default(),
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

fn unsigned(at: &Cursor<'_>, max: i64) -> Option<u64> {
    integer(at, 0, max).map(i64::unsigned_abs)
}

/// `0-3,7`.
fn cpu_list(at: &Cursor<'_>) -> Option<String> {
    let text = some_text(at)?;
    let number = |part: &str| part.trim().parse::<u32>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first)
            .zip(number(last))
            .is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    };
    if !text.split(',').all(range) {
        at.error_with(format!("'{text}' names no processors"), "write a list such as 0-3,7");
        return None;
    }
    Some(text)
}

/// A number of microseconds, or a duration.
fn microseconds(at: &Cursor<'_>) -> Option<i64> {
    if scalar(at)?.text.trim().bytes().all(|byte| byte.is_ascii_digit()) {
        return integer(at, 0, i64::MAX);
    }
    let duration: DurationMs = parsed(at)?;
    i64::try_from(duration.0.saturating_mul(1000)).ok()
}

/// Memory and swap together; −1 is unlimited and 0 is not set.
fn swap(at: &Cursor<'_>) -> Option<SwapLimit> {
    if scalar(at)?.text.trim() == "-1" {
        return Some(SwapLimit::Unlimited);
    }
    parsed(at).and_then(non_zero).map(SwapLimit::Total)
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
    check_swap(service, resources);
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

/// Docker's rule: the limit of memory and swap includes the limit of memory.
fn check_swap(service: &Cursor<'_>, resources: &Resources) {
    let (Some(SwapLimit::Total(total)), Some(at)) = (resources.memory_swap_limit, service.get("memswap_limit")) else {
        return;
    };
    match resources.memory_limit {
        None => at.error_with(
            "needs a memory limit",
            "give mem_limit or deploy.resources.limits.memory",
        ),
        Some(limit) if total < limit => at.error_with(
            format!("{total} is below the memory limit of {limit}"),
            "it counts memory and swap together",
        ),
        Some(_) => {}
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
