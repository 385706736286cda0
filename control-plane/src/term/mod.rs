//! The leader's work, for as long as it leads: one controller, the leases of nodes, the acknowledgements of their data paths.

mod controller;
mod encoded;
mod router;
mod shared;

pub use controller::lead;
pub use encoded::Encoded;
pub use router::route;
pub use shared::{Bell, TermHandle};
