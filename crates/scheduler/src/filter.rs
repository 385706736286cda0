//! What a node must have to run a replica; each refusal says which wish it was.
//!
//! The order of asking is the order of the checks in [`Ground::refuses`]: first what the node's record says, then what is taken.

use gantry_model::object::{Availability, NodeStatus};
use gantry_model::spec::{NeighbourRule, TaintEffect, VolumeRule};
use gantry_model::{ByteSize, MilliCpu};

use crate::address;
use crate::constraint::{Barrier, barrier};
use crate::ground::Ground;
use crate::node_use::NodeUse;
use crate::nodes::{NodeIx, Nodes};
use crate::reservation::{HostPort, Reservation};

/// The filter that refuses a node on which the port is taken.
pub const FILTER_HOST_PORT: &str = "host_port";
/// The filter that refuses a node with as many replicas of the service as allowed.
pub const FILTER_MAX_PER_NODE: &str = "max_replicas_per_node";

/// Why a node was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Miss {
    Removed,
    Down,
    Paused,
    Drained,
    Barrier(Barrier),
    Volume,
    /// The rule about neighbours at this place of the list.
    Neighbour(usize),
    Cpu {
        free: MilliCpu,
    },
    Memory {
        free: ByteSize,
    },
    Generic {
        kind: String,
        needed: u64,
        free: u64,
    },
    Port(HostPort),
    MaxPerNode {
        here: u32,
    },
    Address {
        usable: u64,
    },
    /// The group at this level would be too far ahead of the others.
    Skew(usize),
}

impl Miss {
    /// The filter's name.
    pub(crate) const fn filter(&self) -> &'static str {
        match self {
            Self::Removed | Self::Down => "ready",
            Self::Paused | Self::Drained => "availability",
            Self::Barrier(Barrier::Constraint(_)) => "constraint",
            Self::Barrier(Barrier::Taint(_)) => "taint",
            Self::Barrier(Barrier::Platform) => "platform",
            Self::Volume => "volume",
            Self::Neighbour(_) => "neighbour",
            Self::Cpu { .. } => "cpu",
            Self::Memory { .. } => "memory",
            Self::Generic { .. } => "generic_resource",
            Self::Port(_) => FILTER_HOST_PORT,
            Self::MaxPerNode { .. } => FILTER_MAX_PER_NODE,
            Self::Address { .. } => "address",
            Self::Skew(_) => "spread",
        }
    }

    /// How close it was; higher is closer. Of refusals of one kind the closest speaks for all.
    pub(crate) const fn closeness(&self) -> u64 {
        match self {
            Self::Cpu { free } => free.0,
            Self::Memory { free } => free.0,
            Self::Generic { free, .. } => *free,
            Self::Removed | Self::Down | Self::Paused | Self::Drained | Self::Barrier(_) | Self::Volume => 0,
            Self::Neighbour(_) | Self::Port(_) | Self::MaxPerNode { .. } | Self::Address { .. } | Self::Skew(_) => 0,
        }
    }
}

impl Ground<'_> {
    /// Why the node is refused, if it is; the spread over groups is not asked here, since it depends on the other nodes.
    pub(crate) fn refuses(&self, node: NodeIx, used: &NodeUse) -> Option<Miss> {
        self.record_refuses(used)
            .or_else(|| self.company_refuses(node))
            .or_else(|| resources_refuse(used, &self.reservation))
            .or_else(|| self.count_refuses(node, used))
    }

    fn record_refuses(&self, used: &NodeUse) -> Option<Miss> {
        let Some(node) = &used.node else {
            return Some(Miss::Removed);
        };
        if node.status == NodeStatus::Down {
            return Some(Miss::Down);
        }
        match node.availability {
            Availability::Pause => return Some(Miss::Paused),
            Availability::Drain => return Some(Miss::Drained),
            Availability::Active => {}
        }
        let placement = &self.request.spec.placement;
        barrier(node, placement, self.platform.as_deref(), TaintEffect::NoSchedule).map(Miss::Barrier)
    }

    /// Whether volumes and neighbours allow the node.
    pub(crate) fn accepts_company(&self, node: NodeIx) -> bool {
        self.is_plain || self.company_refuses(node).is_none()
    }

    fn company_refuses(&self, node: NodeIx) -> Option<Miss> {
        let bound = self.request.spec.placement.volumes == VolumeRule::Stay && !self.volumes_on.is_empty();
        if bound && !self.volumes_on.contains(&node) {
            return Some(Miss::Volume);
        }
        self.broken_neighbour(node).map(Miss::Neighbour)
    }

    /// The first rule about neighbours that does not hold.
    pub(crate) fn broken_neighbour(&self, node: NodeIx) -> Option<usize> {
        self.neighbours.iter().position(|neighbour| match neighbour.rule {
            NeighbourRule::With => !neighbour.is_near(node),
            NeighbourRule::Apart => neighbour.is_near(node),
            NeighbourRule::Weight(_) => false,
        })
    }

    fn count_refuses(&self, node: NodeIx, used: &NodeUse) -> Option<Miss> {
        let most = self.request.spec.placement.max_replicas_per_node;
        let here = self.count(node).holding;
        if most > 0 && here >= most {
            return Some(Miss::MaxPerNode { here });
        }
        (used.addresses_free() == 0).then(|| Miss::Address {
            usable: used.node.as_ref().map_or(0, |node| address::usable(node.subnet)),
        })
    }

    /// The same question about what changes while replicas are placed, for a node whose record and company are fine.
    pub(crate) fn still_fits(&self, node: NodeIx, nodes: &Nodes) -> bool {
        let Some(hot) = nodes.hot().get(node as usize) else {
            return false;
        };
        let needed = &self.reservation;
        let most = self.request.spec.placement.max_replicas_per_node;
        (needed.cpu.0 == 0 || needed.cpu.0 <= hot.cpu_free)
            && (needed.memory.0 == 0 || needed.memory.0 <= hot.memory_free)
            && hot.addresses_free > 0
            && (most == 0 || self.count(node).holding < most)
            && (!needed.is_rare() || nodes.get(node).is_some_and(|used| has_rare(used, needed)))
    }
}

/// What of the reservation the node does not have.
fn resources_refuse(used: &NodeUse, needed: &Reservation) -> Option<Miss> {
    let free = used.cpu_free();
    if needed.cpu > MilliCpu::ZERO && needed.cpu > free {
        return Some(Miss::Cpu { free });
    }
    let free = used.memory_free();
    if needed.memory > ByteSize::ZERO && needed.memory > free {
        return Some(Miss::Memory { free });
    }
    for (kind, value) in &needed.generic {
        let free = used.generic_free(kind);
        if free < *value {
            return Some(Miss::Generic {
                kind: kind.clone(),
                needed: *value,
                free,
            });
        }
    }
    let taken = |port: &&HostPort| used.ports.keys().any(|other| other.clashes(**port));
    needed.ports.iter().find(taken).map(|port| Miss::Port(*port))
}

/// Whether the node has what is rarely asked for: generic resources and ports.
fn has_rare(used: &NodeUse, needed: &Reservation) -> bool {
    let generic = needed
        .generic
        .iter()
        .all(|(kind, value)| used.generic_free(kind) >= *value);
    let taken = |port: &HostPort| used.ports.keys().any(|other| other.clashes(*port));
    generic && !needed.ports.iter().any(taken)
}
