//! One agent's session with the leader: its set of assignments, and what is made of its messages.
//!
//! A session is over for good once the node opens a newer one. Several tasks may still hold messages of older ones; what these
//! say of sets that are in effect is not heeded, since sets are numbered per session.

use gantry_model::object::NodeStatus;
use gantry_model::{Class, DurationMs, NodeId, Problem, SessionId};
use gantry_state::{Change, State};

use crate::Leases;
use crate::dispatch::{Acknowledgements, Increment, NodeSet, Routes, Shared};

/// See the module.
#[derive(Debug)]
pub struct Session {
    node: NodeId,
    id: SessionId,
    set: Option<NodeSet>,
}

/// What following the state leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// To be sent to the agent.
    Increment(Increment),
    /// Nothing that concerns the node changed: what it has in effect reflects the newer state as well.
    UpToDate,
}

impl Session {
    /// A session of a node that has just been registered; it takes the place of any older one.
    #[must_use]
    pub fn open(
        node: NodeId,
        id: SessionId,
        deadline: DurationMs,
        leases: &mut Leases,
        acks: &mut Acknowledgements,
    ) -> Self {
        leases.begin_session(node, id);
        acks.begin(node, id);
        leases.extend(node, deadline);
        Self { node, id, set: None }
    }

    /// The session is over.
    pub fn close(&self, leases: &mut Leases, acks: &mut Acknowledgements) {
        if leases.end_session(self.node, self.id) {
            acks.end(self.node, self.id);
        }
    }

    /// Whether the node has opened no newer one.
    ///
    /// # Errors
    /// When it has.
    pub fn check_current(&self, leases: &Leases) -> Result<(), Problem> {
        if leases.is_current(self.node, self.id) {
            return Ok(());
        }
        Err(Problem::new(Class::Conflict, "session", "the node opened a newer one"))
    }

    /// A complete set, to begin with, and whenever the agent or the change feed has lost track.
    pub fn complete(&mut self, state: &State, acks: &mut Acknowledgements) -> Increment {
        let increment = self.whole(state, &mut Shared::of(state));
        acks.reflects(self.node, self.id, increment.results_in, state.revision());
        increment
    }

    fn whole(&mut self, state: &State, shared: &mut Shared) -> Increment {
        let number = self.set.as_ref().map_or(1, |set| set.number() + 1);
        let (set, increment) = NodeSet::complete(state, shared, self.node, number);
        self.set = Some(set);
        increment
    }

    /// As [`Session::complete`], for a session that goes on with [`Session::refresh`].
    pub fn begin(&mut self, routes: &mut Routes, acks: &mut Acknowledgements) -> Increment {
        routes.open(self.node);
        let (state, shared) = routes.parts();
        let increment = self.whole(state, shared);
        acks.follows(self.node, self.id, increment.results_in);
        increment
    }

    /// All that is pending for the node, as one increment.
    pub fn refresh(&mut self, routes: &mut Routes, acks: &mut Acknowledgements) -> Told {
        let Some(set) = &mut self.set else {
            return Told::Increment(self.begin(routes, acks));
        };
        let pending = routes.take(self.node);
        let (state, shared) = routes.parts();
        let increment = set.refresh(state, shared, pending);
        acks.follows(self.node, self.id, set.number());
        increment.map_or(Told::UpToDate, Told::Increment)
    }

    /// The state went on.
    pub fn tell(&mut self, state: &State, changes: &[Change], acks: &mut Acknowledgements) -> Told {
        let Some(set) = &mut self.set else {
            return Told::Increment(self.complete(state, acks));
        };
        let increment = set.advance(state, changes);
        acks.reflects(self.node, self.id, set.number(), state.revision());
        increment.map_or(Told::UpToDate, Told::Increment)
    }

    /// The agent was heard of: its lease begins anew.
    ///
    /// A connection may outlast a lease, when the network was away for as long: the agent registers anew then, since only that
    /// makes a node ready again.
    ///
    /// # Errors
    /// When the node's lease ran out before, or the node was removed: the session ends.
    pub fn heard(&self, state: &State, deadline: DurationMs, leases: &mut Leases) -> Result<(), Problem> {
        match state.node(self.node).map(|node| node.status) {
            Some(NodeStatus::Ready) => {}
            Some(NodeStatus::Down) => {
                return Err(Problem::new(Class::Conflict, "session", "the node's lease ran out"));
            }
            None => return Err(Problem::new(Class::NotFound, "session", "the node was removed")),
        }
        leases.extend(self.node, deadline);
        Ok(())
    }

    /// The agent has `set` in effect. Says whether that is news.
    pub fn applied(&self, set: u64, acks: &mut Acknowledgements) -> bool {
        acks.applied(self.node, self.id, set)
    }
}
