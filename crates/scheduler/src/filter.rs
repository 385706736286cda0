//! What a node must have to run a replica, as a list in the order of asking; each filter says why it refuses.

use gantry_model::object::{Availability, NodeStatus};
use gantry_model::spec::ServiceSpec;
use gantry_model::{ByteSize, MilliCpu, ReplicaId, ServiceId};

use crate::address;
use crate::constraint::{holds, runs_platform};
use crate::node_use::NodeUse;
use crate::reservation::Reservation;

/// The filter that refuses a node on which the port is taken.
pub const FILTER_HOST_PORT: &str = "host_port";
/// The filter that refuses a node with as many replicas of the service as allowed.
pub const FILTER_MAX_PER_NODE: &str = "max_replicas_per_node";

/// What a replica wants of its node.
pub(crate) struct Wants<'a> {
    pub(crate) replica: ReplicaId,
    pub(crate) service: ServiceId,
    pub(crate) spec: &'a ServiceSpec,
    pub(crate) reservation: &'a Reservation,
    pub(crate) platform: Option<&'a str>,
}

/// Why a node was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Miss {
    pub(crate) filter: &'static str,
    /// Refusals of one kind are counted together; of these the closest speaks for all.
    pub(crate) kind: String,
    pub(crate) reason: String,
    /// How close it was; higher is closer.
    pub(crate) closeness: u64,
}

type Check = fn(&NodeUse, &Wants<'_>) -> Result<(), Miss>;

/// All filters; the first refusal counts.
const FILTERS: [Check; 10] = [
    node_is_ready,
    node_takes_replicas,
    constraints_hold,
    platform_fits,
    cpu_fits,
    memory_fits,
    generic_resources_fit,
    host_ports_are_free,
    few_enough_on_node,
    address_is_free,
];

/// Asks all filters in turn.
pub(crate) fn check(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    FILTERS.iter().try_for_each(|filter| filter(used, wants))
}

fn miss(filter: &'static str, kind: impl Into<String>, reason: impl Into<String>, closeness: u64) -> Result<(), Miss> {
    Err(Miss {
        filter,
        kind: kind.into(),
        reason: reason.into(),
        closeness,
    })
}

fn node_is_ready(used: &NodeUse, _: &Wants<'_>) -> Result<(), Miss> {
    match used.node.as_ref().map(|node| node.status) {
        Some(NodeStatus::Ready) => Ok(()),
        Some(NodeStatus::Down) => miss("ready", "is down", "is down", 0),
        None => miss("ready", "is removed", "is removed", 0),
    }
}

fn node_takes_replicas(used: &NodeUse, _: &Wants<'_>) -> Result<(), Miss> {
    match used.node.as_ref().map(|node| node.availability) {
        Some(Availability::Pause) => miss("availability", "is paused", "is paused", 0),
        Some(Availability::Drain) => miss("availability", "is drained", "is drained", 0),
        Some(Availability::Active) | None => Ok(()),
    }
}

fn constraints_hold(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    let Some(node) = &used.node else { return Ok(()) };
    let broken = wants.spec.placement.constraints.iter().find(|one| !holds(one, node));
    broken.map_or(Ok(()), |constraint| {
        let reason = format!("does not satisfy {constraint}");
        miss("constraint", reason.clone(), reason, 0)
    })
}

fn platform_fits(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    match (&used.node, wants.platform) {
        (Some(node), Some(platform)) if !runs_platform(node, platform) => {
            let reason = format!("image is for {platform}, node is {}/{}", node.facts.os, node.facts.arch);
            miss("platform", reason.clone(), reason, 0)
        }
        _ => Ok(()),
    }
}

fn cpu_fits(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    let needed = wants.reservation.cpu;
    let free = used
        .node
        .as_ref()
        .map_or(MilliCpu::ZERO, |node| node.facts.cpu - used.cpu);
    if needed == MilliCpu::ZERO || needed <= free {
        return Ok(());
    }
    miss("cpu", "", format!("needs {needed} cores, {free} free"), free.0)
}

fn memory_fits(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    let needed = wants.reservation.memory;
    let free = used
        .node
        .as_ref()
        .map_or(ByteSize::ZERO, |node| node.facts.memory - used.memory);
    if needed == ByteSize::ZERO || needed <= free {
        return Ok(());
    }
    miss("memory", "", format!("needs {needed}, {free} free"), free.0)
}

fn generic_resources_fit(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    for (kind, needed) in &wants.reservation.generic {
        let facts = used.node.iter().flat_map(|node| &node.facts.generic);
        let has: u64 = facts.filter(|one| one.kind == *kind).map(|one| one.value).sum();
        let free = has.saturating_sub(used.generic.get(kind).copied().unwrap_or_default());
        if free < *needed {
            return miss(
                "generic_resource",
                kind,
                format!("needs {needed} {kind}, {free} free"),
                free,
            );
        }
    }
    Ok(())
}

fn host_ports_are_free(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    let taken = |port| used.ports.keys().any(|other| other.clashes(port));
    let clash = wants.reservation.ports.iter().find(|port| taken(**port));
    clash.map_or(Ok(()), |port| {
        let reason = format!("port {}/{} is taken", port.port, port.protocol);
        miss(FILTER_HOST_PORT, reason.clone(), reason, 0)
    })
}

fn few_enough_on_node(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    let most = wants.spec.placement.max_replicas_per_node;
    let here = used.holding(wants.service);
    if most == 0 || here < most {
        return Ok(());
    }
    miss(
        FILTER_MAX_PER_NODE,
        "",
        format!("runs {here} of this service, {most} allowed per node"),
        0,
    )
}

fn address_is_free(used: &NodeUse, wants: &Wants<'_>) -> Result<(), Miss> {
    let Some(node) = &used.node else { return Ok(()) };
    match address::free_address(used, node.subnet, wants.replica) {
        Some(_) => Ok(()),
        None => {
            let reason = format!(
                "all {} addresses of its subnet are in use",
                address::usable(node.subnet)
            );
            miss("address", "", reason, 0)
        }
    }
}
