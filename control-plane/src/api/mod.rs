//! The API of people and programs: each call is authenticated, decided on a linearizable view, and committed or refused.

mod commit;
mod explain;
pub(crate) mod find;
mod members;
mod nodes;
mod plan;
mod proxy;
mod read;
pub(crate) mod record;
mod relay;
pub(crate) mod removal;
mod service;
mod steer;
mod tokens;
mod watch;
mod wire;

pub(crate) use commit::unchanged;
pub use relay::{EngineRelay, NodeAgentRelay};
pub use service::ClusterService;
pub use tokens::TOKEN_TTL_DEFAULT;
