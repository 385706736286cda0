//! A port of a node is one replica's.

use gantry_model::NodeId;
use gantry_model::object::Replica;
use gantry_model::spec::{PortMode, PortSpec};

use super::Findings;
use crate::State;

pub(super) fn check(state: &State, id: NodeId, findings: &mut Findings) {
    let mut taken: Vec<(&PortSpec, &Replica)> = Vec::new();
    for replica in state.replicas_on(id).filter(|replica| replica.holds_resources()) {
        let Some(record) = state.revision_of(replica.service, replica.revision) else {
            continue;
        };
        let own = record.spec.ports.iter();
        for port in own.filter(|port| port.mode == PortMode::Host && port.published.is_some()) {
            let other = taken
                .iter()
                .find(|(other, holder)| holder.id != replica.id && clash(port, other));
            if let Some((_, holder)) = other {
                findings.add(format!(
                    "{} ({}) and {} ({}) both have port {port} of their node",
                    replica.object(),
                    replica.id,
                    holder.object(),
                    holder.id
                ));
            }
            taken.push((port, replica));
        }
    }
}

fn clash(one: &PortSpec, two: &PortSpec) -> bool {
    let everywhere = |port: &PortSpec| port.host_ip.is_none_or(|address| address.is_unspecified());
    let overlap = everywhere(one) || everywhere(two) || one.host_ip == two.host_ip;
    one.published == two.published && one.protocol == two.protocol && overlap
}
