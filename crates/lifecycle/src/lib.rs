//! One node and its replicas: what the leader wants of them, what has happened so far, and what to do about what happens next.
//!
//! [`Machine::step`] takes an [`Event`] and returns [`Action`]s; the agent's worker carries them out and feeds their outcome
//! back as further events. The machine is data: it is saved at every transition, and goes on after the agent was restarted.
//!
//! **Invariant:** the reported phase only rises, and `Observed::sequence` rises with each report.
//! **Invariant:** once the leader wants a replica stopped, no container of it is started any more.
//! **Invariant:** an end is reported only after the network and root of the replica were released: its address is free then.
//! Deliberately not here: clocks, processes, files, sockets; how an image is fetched; who gets traffic (the leader decides).

mod event;
mod health;
mod machine;
mod policy;
mod restart;
mod set;

pub use event::{Action, Attempt, Event, Failure, Found};
pub use health::{EARLY_PROBE_DELAY, HealthState};
pub use machine::{End, KILL_AGAIN, Machine, PREPARE_ATTEMPTS_MAX, PREPARE_RETRY, REMOVE_RETRY, State, StopCause};
pub use policy::Policy;
pub use restart::{RAN_LONG_ENOUGH, RestartBook};
pub use set::{AssignmentSet, Delta, Unchained, Update};
