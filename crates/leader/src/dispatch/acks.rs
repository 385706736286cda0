//! Up to which revision each node's data path is known to be.
//!
//! A replica that drains may stop once every node with a live lease has acknowledged a set computed from a state in which it
//! was no endpoint any more. This is leader memory: after a failover the sessions open anew with complete sets, and their
//! acknowledgements say the same again.

use std::collections::{BTreeMap, VecDeque};

use gantry_model::{NodeId, SessionId};

/// The acknowledgements of all sessions.
///
/// **Invariant:** only the newest session of a node counts: sets are numbered per session, so that what a late message of an
/// older one says would be taken for another set.
#[derive(Debug, Default)]
pub struct Acknowledgements {
    nodes: BTreeMap<NodeId, NodeProgress>,
}

#[derive(Debug)]
struct NodeProgress {
    session: SessionId,
    /// Sets sent, each with the revision it reflects, oldest first. The front one may be acknowledged already; the newest
    /// one's revision moves on while later changes do not concern the node.
    sent: VecDeque<(u64, u64)>,
    /// The newest set that the node has in effect.
    applied: Option<u64>,
}

impl Acknowledgements {
    /// A session begins with nothing acknowledged.
    pub fn begin(&mut self, node: NodeId, session: SessionId) {
        let progress = NodeProgress {
            session,
            sent: VecDeque::new(),
            applied: None,
        };
        self.nodes.insert(node, progress);
    }

    /// A session is over.
    pub fn end(&mut self, node: NodeId, session: SessionId) {
        if self.of(node, session).is_some() {
            self.nodes.remove(&node);
        }
    }

    fn of(&mut self, node: NodeId, session: SessionId) -> Option<&mut NodeProgress> {
        self.nodes.get_mut(&node).filter(|progress| progress.session == session)
    }

    /// `set`, the latest sent to the node, reflects the state at `revision`.
    pub fn reflects(&mut self, node: NodeId, session: SessionId, set: u64, revision: u64) {
        let Some(progress) = self.of(node, session) else {
            return;
        };
        match progress.sent.back_mut() {
            Some((last, reflected)) if *last == set => *reflected = revision,
            _ => progress.sent.push_back((set, revision)),
        }
    }

    /// The node has `set` in effect. Returns whether that is news.
    pub fn applied(&mut self, node: NodeId, session: SessionId, set: u64) -> bool {
        let Some(progress) = self.of(node, session) else {
            return false;
        };
        if progress.applied >= Some(set) {
            return false;
        }
        progress.applied = Some(set);
        while progress.sent.front().is_some_and(|(front, _)| *front < set) {
            progress.sent.pop_front();
        }
        true
    }

    /// The revision up to which the node's data path is known to be; 0 without a session or acknowledgement.
    #[must_use]
    pub fn revision(&self, node: NodeId) -> u64 {
        let Some(progress) = self.nodes.get(&node) else {
            return 0;
        };
        match (progress.applied, progress.sent.front()) {
            (Some(applied), Some((front, revision))) if *front == applied => *revision,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    const SESSION: SessionId = SessionId(7);

    #[test]
    fn an_acknowledged_set_moves_on_with_changes_that_do_not_concern_the_node() {
        let mut acks = Acknowledgements::default();
        assert_eq!(acks.revision(NODE), 0);
        acks.begin(NODE, SESSION);
        acks.reflects(NODE, SESSION, 1, 10);
        assert_eq!(acks.revision(NODE), 0, "sent is not applied");
        assert!(acks.applied(NODE, SESSION, 1));
        assert_eq!(acks.revision(NODE), 10);
        acks.reflects(NODE, SESSION, 1, 15);
        assert_eq!(acks.revision(NODE), 15);
        acks.reflects(NODE, SESSION, 2, 16);
        acks.reflects(NODE, SESSION, 2, 20);
        assert_eq!(acks.revision(NODE), 15, "set 2 is not in effect yet");
        assert!(!acks.applied(NODE, SESSION, 1));
        assert!(acks.applied(NODE, SESSION, 2));
        assert_eq!(acks.revision(NODE), 20);
        acks.end(NODE, SESSION);
        assert_eq!(acks.revision(NODE), 0);
    }

    #[test]
    fn late_messages_of_an_older_session_are_not_heeded() {
        let mut acks = Acknowledgements::default();
        acks.begin(NODE, SESSION);
        acks.reflects(NODE, SESSION, 3, 10);
        let newer = SessionId(8);
        acks.begin(NODE, newer);
        acks.reflects(NODE, newer, 1, 20);
        assert!(!acks.applied(NODE, SESSION, 3));
        acks.reflects(NODE, SESSION, 4, 30);
        assert_eq!(acks.revision(NODE), 0, "the newer session has acknowledged nothing");
        acks.reflects(NODE, newer, 3, 40);
        assert_eq!(acks.revision(NODE), 0, "set 3 of this session is not in effect");
        acks.end(NODE, SESSION);
        assert!(acks.applied(NODE, newer, 3));
        assert_eq!(acks.revision(NODE), 40);
    }
}
