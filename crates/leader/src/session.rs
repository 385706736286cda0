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
    ///
    /// # Errors
    /// When the node has opened a newer one: what is pending for the node is that one's to tell.
    pub fn begin(
        &mut self,
        leases: &Leases,
        routes: &mut Routes,
        acks: &mut Acknowledgements,
    ) -> Result<Increment, Problem> {
        self.check_current(leases)?;
        routes.open(self.node);
        let (state, shared) = routes.parts();
        let increment = self.whole(state, shared);
        acks.follows(self.node, self.id, increment.results_in);
        Ok(increment)
    }

    /// All that is pending for the node, as one increment.
    ///
    /// # Errors
    /// When the node has opened a newer one. Nothing is taken then: the newer session would believe that nothing was pending, and
    /// its acknowledgement would stand for changes that its node was never told of.
    pub fn refresh(
        &mut self,
        leases: &Leases,
        routes: &mut Routes,
        acks: &mut Acknowledgements,
    ) -> Result<Told, Problem> {
        self.check_current(leases)?;
        let Some(set) = &mut self.set else {
            return self.begin(leases, routes, acks).map(Told::Increment);
        };
        let pending = routes.take(self.node);
        if pending.everything {
            return self.begin(leases, routes, acks).map(Told::Increment);
        }
        let (state, shared) = routes.parts();
        let increment = set.refresh(state, shared, pending);
        acks.follows(self.node, self.id, set.number());
        Ok(increment.map_or(Told::UpToDate, Told::Increment))
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

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::Timestamp;
    use gantry_model::assignment::Item;
    use gantry_model::object::Node;
    use gantry_state::{Object, Op, Transaction};

    /// The state goes on: node 2 has this address.
    fn step(state: &mut State, address: &str) -> Vec<Change> {
        let node = serde_json::json!({
            "id": NodeId(2), "name": "beta", "address": address, "subnet": "10.128.1.0/24", "status": "ready", "status_since": 1,
            "joined_at": 1, "facts": gantry_model::object::NodeFacts::default(),
        });
        let node: Node = serde_json::from_value(node).expect("a node");
        let write = Transaction::new(Timestamp(1), vec![Op::Put(Box::new(Object::Node(node)))]);
        state.apply(state.revision() + 1, 1, &write).1
    }

    fn peer(increment: &Increment) -> Option<String> {
        increment.put.iter().find_map(|item| match item.as_ref() {
            Item::Peer(peer) => Some(peer.address.to_string()),
            _ => None,
        })
    }

    /// What happened in between is not known then: an increment made from what is pending would leave it out, and say that the
    /// node knows all.
    #[test]
    fn a_feed_that_lost_track_leads_to_a_complete_set() {
        let (mut leases, mut acks) = (Leases::default(), Acknowledgements::default());
        let mut session = Session::open(NodeId(1), SessionId(1), DurationMs(10), &mut leases, &mut acks);
        let mut state = State::default();
        step(&mut state, "192.0.2.1:1");
        let mut routes = Routes::of(state.clone());
        let first = session
            .begin(&leases, &mut routes, &mut acks)
            .expect("it is the only one");
        assert_eq!(peer(&first).as_deref(), Some("192.0.2.1"));
        step(&mut state, "192.0.2.2:1");
        routes.start_over(state.clone());
        acks.routed(state.revision(), &[NodeId(1)].into());
        let Ok(Told::Increment(complete)) = session.refresh(&leases, &mut routes, &mut acks) else {
            panic!("the node has to be told");
        };
        assert_eq!(
            (complete.applies_to, peer(&complete).as_deref()),
            (0, Some("192.0.2.2"))
        );
        assert!(session.applied(first.results_in, &mut acks));
        assert!(
            acks.revision(NodeId(1)) < state.revision(),
            "only the first set is in effect"
        );
        assert!(session.applied(complete.results_in, &mut acks));
        assert_eq!(acks.revision(NodeId(1)), state.revision());
        let changes = step(&mut state, "192.0.2.3:1");
        let concerned = routes.changed(state.clone(), &changes);
        acks.routed(state.revision(), &concerned);
        let Ok(Told::Increment(increment)) = session.refresh(&leases, &mut routes, &mut acks) else {
            panic!("a change after that is told");
        };
        assert_eq!(
            (increment.applies_to, peer(&increment).as_deref()),
            (complete.results_in, Some("192.0.2.3"))
        );
    }

    #[test]
    fn an_older_session_takes_nothing_from_the_newer_one() {
        let (mut leases, mut acks) = (Leases::default(), Acknowledgements::default());
        let mut state = State::default();
        step(&mut state, "192.0.2.1:1");
        let mut routes = Routes::of(state.clone());
        let mut open = |id| Session::open(NodeId(1), SessionId(id), DurationMs(10), &mut leases, &mut acks);
        let (mut older, mut newer) = (open(1), open(2));
        assert!(older.begin(&leases, &mut routes, &mut acks).is_err());
        let first = newer.begin(&leases, &mut routes, &mut acks).expect("it is the newest");
        assert!(newer.applied(first.results_in, &mut acks));
        let changes = step(&mut state, "192.0.2.2:1");
        let concerned = routes.changed(state.clone(), &changes);
        acks.routed(state.revision(), &concerned);
        assert!(older.refresh(&leases, &mut routes, &mut acks).is_err());
        let told = newer.refresh(&leases, &mut routes, &mut acks);
        assert!(
            matches!(&told, Ok(Told::Increment(one)) if peer(one).as_deref() == Some("192.0.2.2")),
            "{told:?}"
        );
        assert!(acks.revision(NodeId(1)) < state.revision(), "it is told, not in effect");
    }
}
