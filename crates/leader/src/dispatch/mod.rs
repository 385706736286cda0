//! What each agent is told, kept up to date by increments, and what each has acknowledged.
//!
//! **Invariant:** pure. The session's task feeds it states and acknowledgements and sends what comes out.

mod acks;
mod ingress;
mod items;
mod routes;
mod set;
mod shared;

pub use acks::Acknowledgements;
pub use routes::{Pending, Routes};
pub use set::Increment;
pub(crate) use set::NodeSet;
pub(crate) use shared::Shared;
