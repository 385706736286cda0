//! Where replicas run: filter → score → place → explain.
//!
//! [`Fleet`] is a view of the nodes and of what is reserved on them, kept up to date change by change, so that a decision costs
//! what it decides and not what the cluster holds. [`Fleet::place`] decides a batch; decisions of one batch see each other.
//!
//! **Invariant:** a decision depends on the fleet and the batch alone, never on the order of the batch, a clock or chance.
//! **Invariant:** no node is given more than it has: processor time, memory, generic resources, ports, addresses.
//! Deliberately not here: which replicas there should be (`reconcile`), and writing decisions down (`control-plane`).

mod address;
mod constraint;
mod filter;
mod fleet;
mod node_use;
mod place;
mod refusal;
mod reservation;
mod score;

pub use constraint::{attribute, eligible};
pub use filter::{FILTER_HOST_PORT, FILTER_MAX_PER_NODE};
pub use fleet::Fleet;
pub use place::{Decision, Placed, Request};
pub use score::{FAILURE_WINDOW, FAILURES_MAX};
