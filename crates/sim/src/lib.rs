//! A whole cluster in one thread, from a seed: production's cores with simulated clocks, networks, disks and machines.
//!
//! What runs here is what runs in production: the state machine, admission, the controller with `reconcile` and `scheduler`,
//! leases, sessions with their sets and acknowledgements, the agent's set and its replicas' life cycles. What is modelled is what
//! surrounds them: agreement on the log (production uses a library), connections, disks, containers, the data path.
//!
//! A script of people's actions and faults is played; then everything heals, and the cluster must become what was asked for within
//! a bounded time. Promises are checked all along, on the one sequence of entries that was agreed upon.
//!
//! **Invariant:** the same script gives the same run, to the last bit.

mod check;
mod dice;
mod faults;
mod history;
mod net;
mod node;
mod person;
mod plant;
mod raft;
mod run;
mod script;
mod server;
mod specs;
mod trace;
mod world;

pub use check::Violation;
pub use plant::Plant;
pub use run::{Verdict, run, run_all, shrink};
pub use script::{Act, Fault, Place, Script, Step};
