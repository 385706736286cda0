//! Up to which revision each node's data path is known to be.
//!
//! A replica that drains may stop once every node with a live lease has acknowledged a set computed from a state in which it
//! was no endpoint any more. This is leader memory: after a failover the sessions open anew with complete sets, and their
//! acknowledgements say the same again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gantry_model::{NodeId, SessionId};

/// The acknowledgements of all sessions.
///
/// **Invariant:** only the newest session of a node counts: sets are numbered per session, so that what a late message of an
/// older one says would be taken for another set.
#[derive(Debug, Default)]
pub struct Acknowledgements {
    nodes: BTreeMap<NodeId, NodeProgress>,
    /// Up to here it is known whom the changes concern.
    routed: u64,
}

#[derive(Debug)]
struct NodeProgress {
    session: SessionId,
    /// Sets sent, each with the revision it reflects, oldest first. The front one may be acknowledged already; the newest
    /// one's revision moves on while later changes do not concern the node.
    sent: VecDeque<(u64, u64)>,
    /// The newest set that the node has in effect.
    applied: Option<u64>,
    /// The newest set reflects all that is routed: nothing that concerns the node is pending.
    follows: bool,
}

impl Acknowledgements {
    /// A session begins with nothing acknowledged.
    pub fn begin(&mut self, node: NodeId, session: SessionId) {
        let progress = NodeProgress {
            session,
            sent: VecDeque::new(),
            applied: None,
            follows: false,
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

    /// It is known whom the changes up to `revision` concern; `concerned` have something pending now. All others that have
    /// been told everything go on with it.
    pub fn routed(&mut self, revision: u64, concerned: &BTreeSet<NodeId>) {
        let before = self.routed;
        for node in concerned {
            if let Some(progress) = self.nodes.get_mut(node) {
                progress.stop_following(before);
            }
        }
        self.routed = revision;
    }

    /// `set`, the latest sent to the node, reflects all that is routed, until something concerns the node.
    pub fn follows(&mut self, node: NodeId, session: SessionId, set: u64) {
        let routed = self.routed;
        self.reflects(node, session, set, routed);
        if let Some(progress) = self.of(node, session) {
            progress.follows = true;
        }
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
            (Some(applied), Some((front, _))) if *front == applied && progress.sent.len() == 1 && progress.follows => {
                self.routed
            }
            (Some(applied), Some((front, revision))) if *front == applied => *revision,
            _ => 0,
        }
    }
}

impl NodeProgress {
    fn stop_following(&mut self, routed: u64) {
        if std::mem::take(&mut self.follows)
            && let Some((_, revision)) = self.sent.back_mut()
        {
            *revision = routed;
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
    fn a_node_that_nothing_concerns_goes_on_with_what_is_routed() {
        let mut acks = Acknowledgements::default();
        let (concerned, nobody) = (BTreeSet::from([NODE]), BTreeSet::new());
        acks.routed(10, &nobody);
        acks.begin(NODE, SESSION);
        acks.follows(NODE, SESSION, 1);
        acks.routed(11, &nobody);
        assert_eq!(acks.revision(NODE), 0, "sent is not applied");
        acks.applied(NODE, SESSION, 1);
        assert_eq!(acks.revision(NODE), 11);
        acks.routed(12, &nobody);
        assert_eq!(acks.revision(NODE), 12);
        acks.routed(15, &concerned);
        acks.routed(16, &nobody);
        assert_eq!(acks.revision(NODE), 12, "something is pending since");
        acks.follows(NODE, SESSION, 2);
        acks.routed(17, &nobody);
        assert_eq!(acks.revision(NODE), 12, "set 2 is not in effect");
        acks.applied(NODE, SESSION, 2);
        assert_eq!(acks.revision(NODE), 17);
        acks.routed(18, &concerned);
        acks.routed(19, &concerned);
        acks.follows(NODE, SESSION, 2);
        assert_eq!(acks.revision(NODE), 19, "what was pending made no difference");
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
