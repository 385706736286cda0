//! The service network of one node as data: what its kernel and its name server should hold, and what changes between two such
//! states.
//!
//! [`NodeNetwork`] gathers what the leader told the agent, [`NodeNetwork::plan`] turns it into a [`Plan`], [`diff`] compares two.
//!
//! **Invariant:** the same set of items gives the same plan, byte for byte, in whatever order it arrived.
//! **Invariant:** a change names only what differs; its cost follows the change, not the size of the cluster.
//! Deliberately not here: netlink, processes, sockets, clocks (`gantry-network`), and the choice of addresses (the leader's).

mod diff;
mod flows;
mod isolation;
mod network;
mod plan;
mod render;
mod rules;
mod ruleset;
mod zone;

pub use diff::{Change, diff};
pub use flows::{flows_marker, render_flows};
pub use network::{LocalReplica, NodeNetwork, Peer};
pub use plan::{Gateway, Plan, Warning};
pub use render::{render_commands, render_nft};
pub use ruleset::{Chain, Command, Key, Rule, Ruleset, Set, SetKind};
pub use zone::{Answer, Client, Named, Owner, Place, Zone};
