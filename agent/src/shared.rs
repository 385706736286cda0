//! What all tasks of an agent share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use arc_swap::ArcSwap;
use gantry_model::assignment::{Item, NodeItem, ServiceItem};
use gantry_model::object::DataRecord;
use gantry_model::spec::Autoscale;
use gantry_model::{DataId, NodeId, ReplicaId, ServiceId};

use crate::board::Board;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::drivers::Drivers;
use crate::ingress::NodeIngress;
use gantry_lifecycle::AssignmentSet;

/// See the module.
pub struct Shared {
    /// The machine.
    pub drivers: Drivers,
    /// Reports.
    pub board: Board,
    /// What is kept.
    pub disk: Disk,
    /// Time.
    pub clock: Clock,
    /// What replicas need of the set besides themselves.
    pub surroundings: ArcSwap<Surroundings>,
    /// HTTP from outside.
    pub ingress: NodeIngress,
}

/// The part of the set that preparations look at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    /// The node; none before the first complete set.
    pub node: Option<NodeItem>,
    /// Configs and secrets.
    pub data: BTreeMap<DataId, DataRecord>,
    /// Services that this node can route to.
    pub services: BTreeMap<ServiceId, ServiceItem>,
    /// Other nodes by the address of their agent.
    pub peers: BTreeMap<SocketAddr, NodeId>,
    /// Replicas whose services are scaled by what they use.
    pub measured: BTreeSet<ReplicaId>,
}

fn measured(item: &Item) -> Option<ReplicaId> {
    let Item::Replica(replica) = item else { return None };
    let autoscale = replica.spec.autoscale.as_ref();
    autoscale.is_some_and(Autoscale::is_measured).then_some(replica.id)
}

impl Surroundings {
    /// Of a set.
    #[must_use]
    pub fn of(set: &AssignmentSet) -> Self {
        Self {
            node: set.node().cloned(),
            data: set.data(),
            services: set.services(),
            peers: set.peers(),
            measured: set.items().filter_map(measured).collect(),
        }
    }
}
