//! Reports of agents as operations on the state. Nothing is believed about replicas that are not the node's own.

use gantry_model::phase::{Desired, Observed};
use gantry_model::{NodeId, ReplicaId};
use gantry_state::{Key, Op, State};

/// What a node says of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// How far it is.
    Observed(Box<Observed>),
    /// Nothing of it is left there.
    Removed,
}

/// The operation that a report asks for; none when it is about a replica that is not the node's own, or is to stay.
#[must_use]
pub fn report(state: &State, node: NodeId, id: ReplicaId, report: Report) -> Option<Op> {
    let replica = state.replica(id).filter(|replica| replica.node == Some(node))?;
    match report {
        Report::Observed(observed) => Some(Op::Observe {
            replica: id,
            observed: *observed,
        }),
        Report::Removed => (replica.desired == Desired::Remove).then_some(Op::Delete(Key::Replica(id))),
    }
}
