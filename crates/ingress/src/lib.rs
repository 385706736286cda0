//! The HTTP ingress of a node: requests from outside, by host and path, to the replicas of services.
//!
//! ```text
//!   table ─ apply ─→ every worker ─ acknowledged
//!   client ── listener ── worker: connection → request → forward → upstream ── replica
//! ```
//!
//! One thread per core, each with its own reactor, connections and upstream connections, so that nothing is locked on the way of
//! a request; what they share is the table, read only, and counters.
//!
//! **Invariant:** once [`Ingress::apply`] has returned, no worker hands a request to a replica that the table does not name, and
//! no idle connection to one is kept. Requests handed over before go on.
//! **Invariant:** what a client sends is parsed by hyper and written anew: no byte of a request's framing is passed on.
//! Deliberately not here: which rules there are (`model`, `leader`), how a set reaches the node (`agent`).

mod access_log;
mod body;
mod certificates;
mod connection;
mod forward;
mod headers;
mod ingress;
mod limits;
mod listener;
mod peek;
mod request;
mod routing;
mod stats;
mod table;
mod target;
mod upgrade;
mod upstream;
mod worker;

pub use certificates::{CertificateError, Certificates};
pub use ingress::{Config, Ingress, IngressError};
pub use limits::Limits;
pub use stats::{Report, RouteReport};
pub use table::{Backend, Route, Table};
