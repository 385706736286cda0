//! What the leader decides, as state machines without a clock, a thread or a socket.
//!
//! | module | decides |
//! |---|---|
//! | `admission` | what a person's request writes |
//! | `controller` | what the stored state asks for: one transaction at a time |
//! | `autoscale` | how many replicas there are of services that follow their load |
//! | `dispatch` | what each node must know, and up to where it is known to know it |
//! | `session`, `lease`, `register`, `report` | which nodes are there, how they enter the state, what of their reports is believed |
//!
//! `control-plane` drives it with Raft, gRPC and a real clock; the simulator drives the same code with seeded ones.
//!
//! **Invariant:** nothing here waits, and nothing that must outlive a failover is only here.
//! Deliberately not here: what a service needs (`reconcile`), where replicas go (`scheduler`), how entries are agreed upon.

pub mod admission;
mod autoscale;
mod controller;
pub mod dispatch;
mod lease;
mod register;
mod report;
mod session;
mod work;

pub use autoscale::AUTOSCALE_INTERVAL;
pub use controller::{Controller, Failed, Moment, Verdict};
pub use lease::Leases;
pub use register::{Introduction, register};
pub use report::{Report, report};
pub use session::{Session, Told};
