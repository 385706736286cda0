//! Defects that are put in on purpose, to see that they are found: each breaks another promise at another place.

use gantry_model::object::{Node, NodeStatus, Replica};
use gantry_model::phase::Desired;
use gantry_state::{Object, Op, Precondition, State, Transaction};

/// A defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// The leader takes every endpoint set for acknowledged at once.
    AckEarly,
    /// A replica that is to drain is stopped right away.
    SkipDrain,
    /// The controller puts every replica on the same node.
    Overbook,
    /// A leader goes on after it was deposed, and its writes do not name its term.
    NoFence,
    /// One server applies something else than the others.
    Diverge,
    /// An agent keeps nothing of its replicas on disk.
    Unsaved,
    /// A person is told that something is written when it is merely proposed.
    EarlyAnswer,
    /// An agent that starts puts the routes in effect that it saved, although the kernel has newer ones.
    OldRoutes,
    /// A node's change of status carries all of its former record along.
    StaleNode,
    /// A node has a lease only from its session.
    NoLease,
}

impl Plant {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 10] = [
        ("ack-early", Self::AckEarly),
        ("skip-drain", Self::SkipDrain),
        ("overbook", Self::Overbook),
        ("no-fence", Self::NoFence),
        ("diverge", Self::Diverge),
        ("unsaved", Self::Unsaved),
        ("early-answer", Self::EarlyAnswer),
        ("old-routes", Self::OldRoutes),
        ("stale-node", Self::StaleNode),
        ("no-lease", Self::NoLease),
    ];

    /// A defect by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, plant)| *plant)
    }
}

/// Spoils a transaction of the controller.
pub(crate) fn spoil(plant: Option<Plant>, write: &mut Transaction, state: &State) {
    match plant {
        Some(Plant::SkipDrain) => {
            for op in &mut write.ops {
                if let Op::Desire { desired, .. } = op
                    && *desired == Desired::Drain
                {
                    *desired = Desired::Stop;
                }
            }
        }
        Some(Plant::Overbook) => overbook(write, state),
        Some(Plant::NoFence) => write.require.retain(|one| !matches!(one, Precondition::Term(_))),
        Some(Plant::StaleNode) => stale_node(write, state),
        Some(
            Plant::AckEarly | Plant::Diverge | Plant::Unsaved | Plant::EarlyAnswer | Plant::OldRoutes | Plant::NoLease,
        )
        | None => {}
    }
}

fn overbook(write: &mut Transaction, state: &State) {
    let Some(first) = state.nodes().find(|node| node.takes_replicas()).map(|node| node.id) else {
        return;
    };
    for op in &mut write.ops {
        if let Op::Assign { node, .. } = op {
            *node = first;
        }
    }
}

/// The record as the leader has it, instead of the status alone.
fn stale_node(write: &mut Transaction, state: &State) {
    for op in &mut write.ops {
        if let Op::TakeDown { node, .. } = op
            && let Some(known) = state.node(*node)
        {
            let node = Node {
                status: NodeStatus::Down,
                ..known.clone()
            };
            *op = Op::Put(Box::new(Object::Node(node)));
        }
    }
}

/// What a server applies instead.
pub(crate) fn diverging(plant: Option<Plant>, server: usize, write: &Transaction) -> Option<Transaction> {
    if plant != Some(Plant::Diverge) || server != 1 {
        return None;
    }
    let mut other = write.clone();
    for op in &mut other.ops {
        if let Op::Observe { observed, .. } = op {
            observed.message.push('!');
        }
    }
    Some(other)
}

/// Whether a replica is to leave by way of the protocol that spares its traffic.
pub(crate) fn drains(replica: &Replica) -> bool {
    replica.desired == Desired::Drain
}
