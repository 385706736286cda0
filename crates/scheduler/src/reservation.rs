//! What one replica takes from its node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_model::spec::{PortMode, PortSpec, Protocol, ServiceSpec};
use gantry_model::{ByteSize, MilliCpu};

/// Resources and ports of one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) cpu: MilliCpu,
    pub(crate) memory: ByteSize,
    pub(crate) generic: BTreeMap<String, u64>,
    pub(crate) ports: Vec<HostPort>,
    /// Lower ones may have to give way to higher ones.
    pub(crate) priority: i32,
}

/// A port taken on the node itself; none as address means all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) address: Option<IpAddr>,
}

impl Reservation {
    /// What a replica of `spec` takes; `numbered` are the service's ports with the automatic ones filled in.
    pub(crate) fn of(spec: &ServiceSpec, numbered: &[PortSpec]) -> Self {
        let mut generic = BTreeMap::new();
        for resource in &spec.resources.generic_reservations {
            *generic.entry(resource.kind.clone()).or_default() += resource.value;
        }
        Self {
            cpu: spec.resources.cpu_reservation,
            memory: spec.resources.memory_reservation,
            generic,
            ports: host_ports(&spec.ports, numbered),
            priority: spec.placement.priority,
        }
    }

    /// Whether it wants what few replicas want: generic resources or ports.
    pub(crate) fn is_rare(&self) -> bool {
        !self.generic.is_empty() || !self.ports.is_empty()
    }

    /// Whether it sets aside anything that can be packed.
    pub(crate) fn has_weight(&self) -> bool {
        self.cpu > MilliCpu::ZERO || self.memory > ByteSize::ZERO
    }
}

impl HostPort {
    /// Whether both cannot be open on one node.
    pub(crate) fn clashes(self, other: Self) -> bool {
        let overlap = match (self.address, other.address) {
            (Some(one), Some(two)) => one == two,
            (None, _) | (_, None) => true,
        };
        self.protocol == other.protocol && self.port == other.port && overlap
    }
}

fn host_ports(ports: &[PortSpec], numbered: &[PortSpec]) -> Vec<HostPort> {
    let host = ports.iter().filter(|port| port.mode == PortMode::Host);
    host.filter_map(|port| {
        Some(HostPort {
            protocol: port.protocol,
            port: port.published.or_else(|| number_of(port, numbered))?,
            address: port.host_ip.filter(|address| !address.is_unspecified()),
        })
    })
    .collect()
}

/// The number that was given to an automatic port.
fn number_of(port: &PortSpec, numbered: &[PortSpec]) -> Option<u16> {
    let same = |other: &&PortSpec| {
        other.target == port.target
            && other.protocol == port.protocol
            && other.mode == port.mode
            && other.name == port.name
    };
    numbered.iter().find(same)?.published
}
