//! Leases of nodes: leader memory, since heartbeats are not replicated.
//!
//! A new leader gives every ready node a fresh lease from the start of its term, so that a failover alone takes no node down.
//!
//! **Invariant:** every node that the leader knows to be ready has a lease, or is being taken down: one without would stay ready
//! for ever, and what drains would wait for its acknowledgement as long.

use std::collections::BTreeMap;

use gantry_model::{DurationMs, NodeId, SessionId};

/// When each node's lease runs out, on the monotonic clock.
#[derive(Debug, Default)]
pub struct Leases {
    deadlines: BTreeMap<NodeId, DurationMs>,
    sessions: BTreeMap<NodeId, SessionId>,
}

impl Leases {
    /// The node's lease now runs until `deadline`.
    pub fn extend(&mut self, node: NodeId, deadline: DurationMs) {
        let current = self.deadlines.entry(node).or_insert(deadline);
        *current = (*current).max(deadline);
    }

    /// A node that is ready without a lease gets one: it was stored as ready, and no session came of that.
    pub fn grant(&mut self, node: NodeId, deadline: DurationMs) {
        self.deadlines.entry(node).or_insert(deadline);
    }

    /// The node's session is `session` from now on; an older one is over.
    pub fn begin_session(&mut self, node: NodeId, session: SessionId) {
        self.sessions.insert(node, session);
    }

    /// Whether `session` is still the node's session.
    #[must_use]
    pub fn is_current(&self, node: NodeId, session: SessionId) -> bool {
        self.sessions.get(&node) == Some(&session)
    }

    /// The session is over, unless a newer one has taken its place. Returns whether it was the current one.
    pub fn end_session(&mut self, node: NodeId, session: SessionId) -> bool {
        let current = self.is_current(node, session);
        if current {
            self.sessions.remove(&node);
        }
        current
    }

    /// The nodes whose lease has run out, and forgets their leases.
    pub fn take_expired(&mut self, now: DurationMs) -> Vec<NodeId> {
        let expired: Vec<NodeId> = self
            .deadlines
            .iter()
            .filter(|(_, deadline)| **deadline <= now)
            .map(|(node, _)| *node)
            .collect();
        for node in &expired {
            self.deadlines.remove(node);
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_until_its_latest_deadline() {
        let mut leases = Leases::default();
        let node = NodeId(1);
        leases.extend(node, DurationMs(100));
        leases.extend(node, DurationMs(50));
        assert!(leases.take_expired(DurationMs(99)).is_empty());
        assert_eq!(leases.take_expired(DurationMs(100)), [node]);
        assert!(leases.take_expired(DurationMs(200)).is_empty(), "a lease runs out once");
    }

    #[test]
    fn what_is_granted_does_not_change_a_lease() {
        let mut leases = Leases::default();
        let (one, other) = (NodeId(1), NodeId(2));
        leases.extend(one, DurationMs(100));
        leases.grant(one, DurationMs(200));
        leases.grant(other, DurationMs(200));
        assert_eq!(leases.take_expired(DurationMs(199)), [one]);
        assert_eq!(leases.take_expired(DurationMs(200)), [other]);
    }

    #[test]
    fn a_newer_session_outlives_the_end_of_the_older() {
        let mut leases = Leases::default();
        let node = NodeId(1);
        leases.begin_session(node, SessionId(1));
        leases.begin_session(node, SessionId(2));
        assert!(!leases.end_session(node, SessionId(1)));
        assert!(leases.is_current(node, SessionId(2)));
        assert!(leases.end_session(node, SessionId(2)));
    }
}
