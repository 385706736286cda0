//! No node is given more than it has.

use std::collections::BTreeMap;

use gantry_model::spec::Resources;
use gantry_model::{ByteSize, MilliCpu, NodeId};

use super::Findings;
use crate::State;

pub(super) fn check(state: &State, id: NodeId, findings: &mut Findings) {
    let Some(node) = state.node(id) else { return };
    let (mut cpu, mut memory) = (MilliCpu::ZERO, ByteSize::ZERO);
    let mut generic: BTreeMap<&str, u64> = BTreeMap::new();
    for resources in held(state, id) {
        cpu += resources.cpu_reservation;
        memory += resources.memory_reservation;
        for one in &resources.generic_reservations {
            *generic.entry(one.kind.as_str()).or_default() += one.value;
        }
    }
    if cpu > node.facts.cpu {
        findings.add(format!(
            "node {} has {} cores and gives {cpu}",
            node.name, node.facts.cpu
        ));
    }
    if memory > node.facts.memory {
        findings.add(format!(
            "node {} has {} and gives {memory}",
            node.name, node.facts.memory
        ));
    }
    for (kind, given) in generic {
        let own = node.facts.generic.iter().filter(|one| one.kind == kind);
        let has: u64 = own.map(|one| one.value).sum();
        if given > has {
            findings.add(format!("node {} has {has} of {kind} and gives {given}", node.name));
        }
    }
}

fn held(state: &State, id: NodeId) -> impl Iterator<Item = &Resources> {
    let holding = state.replicas_on(id).filter(|replica| replica.holds_resources());
    let records = holding.filter_map(|replica| state.revision_of(replica.service, replica.revision));
    records.map(|record| &record.spec.resources)
}
