//! The replicated state machine: tables, indexes, transactions, and what changed.
//!
//! **Invariant:** [`State::apply`] is a function of the state and the log entry alone: no clock, no randomness, no iteration
//! over unordered maps. Servers that applied the same entries hold equal states, and [`State::fingerprint`] says so.
//! **Invariant:** a transaction takes effect as a whole or not at all.
//! **Invariant:** the observed phase of a replica and what is desired of it only rise; placement never changes once made.
//!
//! The tables are persistent maps: a clone of the whole [`State`] costs a few pointer copies, so every reader works on a
//! consistent view of its own without a lock.
//! Deliberately not here: how entries are agreed upon and stored (`raft`), what to write (`reconcile`, `scheduler`).

mod apply;
mod change;
mod index;
mod invariant;
mod object;
mod registry;
mod snapshot;
mod state;
mod transaction;

pub use change::Change;
pub use invariant::Violation;
pub use object::{Key, Object, RegistryKey, RegistryObject, Table};
pub use snapshot::{SNAPSHOT_FORMAT, SnapshotError};
pub use state::{EVENTS_KEPT, State, Stored};
pub use transaction::{NewEvent, Op, Outcome, Precondition, Refusal, Transaction};
