//! Where replicas run: filter → score → place → explain.
//!
//! [`Fleet`] is a view of the nodes and of what is reserved on them, kept up to date change by change, so that a decision costs
//! what it decides and not what the cluster holds. [`Fleet::place`] decides a batch; decisions of one batch see each other.
//! Replicas that ask for the same are decided together: one look at the nodes, then a queue of them in order of rank.
//! [`Fleet::displace`] finds who gives way to what matters more; [`Fleet::room_for`] and [`Fleet::without`] ask what would be.
//!
//! **Invariant:** a decision depends on the fleet and the batch alone, never on the order of the batch, a clock or chance.
//! **Invariant:** no node is given more than it has: processor time, memory, generic resources, ports, addresses.
//! Deliberately not here: which replicas there should be (`reconcile`), and writing decisions down (`control-plane`).

mod address;
mod classes;
mod constraint;
mod displace;
mod filter;
mod fleet;
mod ground;
mod held;
mod id_map;
mod node_use;
mod nodes;
mod place;
mod queue;
mod refusal;
mod reservation;
mod score;
mod topology;
mod what_if;

pub use constraint::{attribute, eligible, may_stay};
pub use displace::Displacement;
pub use filter::{FILTER_HOST_PORT, FILTER_MAX_PER_NODE};
pub use fleet::Fleet;
pub use place::{DISPLACED, Decision, Placed, Request, Rule, Why};
pub use score::{FAILURE_WINDOW, FAILURES_MAX};
pub use what_if::{Loss, RoomFor};
