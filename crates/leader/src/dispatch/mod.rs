//! What each agent is told, kept up to date by increments, and what each has acknowledged.
//!
//! **Invariant:** pure. The session's task feeds it states and acknowledgements and sends what comes out.

mod acks;
mod items;
mod set;

pub use acks::Acknowledgements;
pub use set::{Increment, NodeSet};
