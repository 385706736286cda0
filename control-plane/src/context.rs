//! What every service of a server works with.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gantry_env::Env;
use gantry_model::object::{ClusterConfig, ClusterRecord};
use gantry_model::{Class, DurationMs, Problem, ServerId};
use gantry_raft::Replicated;
use gantry_rpc::Channels;
use gantry_state::State;

use crate::term::TermHandle;

/// Shared by all services of one server.
pub struct Context {
    /// This server.
    pub server: ServerId,
    /// The replicated state.
    pub raft: Replicated,
    /// Clock, randomness and ids.
    pub env: Arc<dyn Env>,
    /// Connections to servers and agents.
    pub channels: Channels,
    /// The term that this server leads, while it leads.
    pub term: ArcSwapOption<TermHandle>,
}

/// How often nodes are heard of, and how long they are trusted in between.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often agents send heartbeats.
    pub heartbeat: DurationMs,
    /// How long a node without heartbeat is trusted to be there.
    pub lease: DurationMs,
}

impl Context {
    /// The cluster's settings, or the defaults before it has any.
    #[must_use]
    pub fn timing(&self) -> Timing {
        let state = self.raft.state();
        let config = state
            .cluster()
            .map_or_else(ClusterConfig::default, |cluster| cluster.config.clone());
        Timing {
            heartbeat: config.heartbeat,
            lease: config.lease,
        }
    }

    /// The cluster's record.
    ///
    /// # Errors
    /// Before the first server has written it.
    pub fn cluster<'a>(&self, state: &'a State) -> Result<&'a ClusterRecord, Problem> {
        state.cluster().ok_or_else(|| {
            Problem::new(Class::Unavailable, "cluster", "is being initialised").remedy("try again in a moment")
        })
    }
}
