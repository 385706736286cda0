//! The one place where the state changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::explain::Event;
use gantry_model::object::{ImageRecord, Node, NodeStatus, Replica};
use gantry_model::phase::{Desired, Observed, Phase};
use gantry_model::{NodeId, ReplicaId, Timestamp};

use crate::state::EVENTS_KEPT;
use crate::{Change, Key, NewEvent, Object, Op, Outcome, Precondition, Refusal, State, Stored, Transaction};

impl State {
    /// Applies the log entry at `index`, committed in `term`, and returns what changed.
    ///
    /// An entry at or below the present revision has been applied already and changes nothing.
    pub fn apply(&mut self, index: u64, term: u64, transaction: &Transaction) -> (Outcome, Vec<Change>) {
        if index <= self.revision {
            return (
                Outcome::Committed {
                    revision: self.revision,
                },
                Vec::new(),
            );
        }
        self.revision = index;
        if let Some(refusal) = transaction.require.iter().find_map(|one| self.refusal(one, term)) {
            return (Outcome::Refused(refusal), Vec::new());
        }
        let mut changes = Vec::new();
        for op in &transaction.ops {
            self.apply_op(op, transaction.at, &mut changes);
        }
        debug_assert_eq!(
            self.violations_of(&changes),
            Vec::new(),
            "applying entry {index} broke an invariant"
        );
        (Outcome::Committed { revision: index }, changes)
    }

    /// Marks an entry without a transaction (a new leader's blank one, a membership change) as applied.
    pub fn skip(&mut self, index: u64) {
        self.revision = self.revision.max(index);
    }

    fn refusal(&self, precondition: &Precondition, term: u64) -> Option<Refusal> {
        match precondition {
            Precondition::Absent(key) => self.get(key).map(|_| Refusal::Exists(key.clone())),
            Precondition::Unchanged { key, modified } => match self.get(key) {
                None => Some(Refusal::Gone(key.clone())),
                Some(stored) if stored.modified != *modified => Some(Refusal::Changed(key.clone())),
                Some(_) => None,
            },
            Precondition::Term(wanted) => (*wanted != term).then_some(Refusal::Term {
                wanted: *wanted,
                actual: term,
            }),
            Precondition::ServiceNameFree(name) => self
                .indexes
                .service_named(name)
                .map(|_| Refusal::NameTaken(name.clone())),
        }
    }

    fn apply_op(&mut self, op: &Op, at: Timestamp, changes: &mut Vec<Change>) {
        match op {
            Op::Put(object) => self.put(object.as_ref().clone(), at, changes),
            Op::Delete(key) => self.delete(key, changes),
            Op::Assign {
                replica,
                node,
                address,
                explanation,
            } => {
                self.edit_replica(*replica, at, changes, |edited| {
                    // One that was seen beyond pending (stopped before it was placed, say) would fall back.
                    if edited.node.is_some() || edited.observed.phase != Phase::Pending {
                        return false;
                    }
                    edited.node = Some(*node);
                    edited.address = Some(*address);
                    edited.assigned_at = Some(at);
                    edited.explanation.clone_from(explanation);
                    edited.observed.phase = Phase::Assigned;
                    true
                });
            }
            Op::Desire {
                replica,
                desired,
                reason,
            } => self.desire(*replica, *desired, reason, at, changes),
            Op::GiveUp {
                replica,
                desired,
                reason,
                down_since,
            } => {
                if self.is_still_down(*replica, *down_since) {
                    self.desire(*replica, *desired, reason, at, changes);
                }
            }
            Op::Admit { replica } => {
                self.edit_replica(*replica, at, changes, |edited| std::mem::take(&mut edited.held));
            }
            Op::Observe { replica, observed } => {
                self.edit_replica(*replica, at, changes, |edited| edited.observed.merge(observed));
            }
            Op::Explain { replica, explanation } => {
                self.edit_replica(*replica, at, changes, |edited| {
                    let differs = edited.explanation != *explanation;
                    edited.explanation.clone_from(explanation);
                    differs
                });
            }
            Op::Hold { image, node } => self.hold(image, *node, changes),
            Op::Release { digest, node } => self.release(digest, *node, changes),
            Op::TakeDown { node, ready_since } => self.take_down(*node, *ready_since, at, changes),
            Op::Record(event) => self.record(event, at),
        }
    }

    fn desire(&mut self, id: ReplicaId, desired: Desired, reason: &str, at: Timestamp, changes: &mut Vec<Change>) {
        self.edit_replica(id, at, changes, |edited| {
            if desired <= edited.desired {
                return false;
            }
            edited.desired = desired;
            reason.clone_into(&mut edited.desired_reason);
            edited.desired_since = Some(at);
            true
        });
    }

    /// Whether the replica's node is gone, or down as it was seen.
    fn is_still_down(&self, id: ReplicaId, down_since: Timestamp) -> bool {
        let node = self.replica(id).and_then(|replica| self.node(replica.node?));
        node.is_none_or(|node| node.status == NodeStatus::Down && node.status_since == down_since)
    }

    fn take_down(&mut self, id: NodeId, ready_since: Timestamp, at: Timestamp, changes: &mut Vec<Change>) {
        let seen = |node: &&Node| node.status == NodeStatus::Ready && node.status_since == ready_since;
        let Some(node) = self.node(id).filter(seen) else { return };
        let down = Node {
            status: NodeStatus::Down,
            status_since: at,
            ..node.clone()
        };
        self.put(Object::Node(down), at, changes);
    }

    fn hold(&mut self, image: &ImageRecord, node: NodeId, changes: &mut Vec<Change>) {
        let known = self.image(&image.digest);
        let mut record = known.cloned().unwrap_or_else(|| ImageRecord {
            nodes: BTreeSet::new(),
            keepers: BTreeSet::new(),
            ..image.clone()
        });
        // A node that runs an older version does not say what the manifest holds; what a newer one said stays.
        if record.manifest.media_type.is_empty() {
            record.manifest.clone_from(&image.manifest);
        }
        record.nodes.insert(node);
        // Whoever says what the manifest holds also says whether it keeps it.
        if image.keepers.contains(&node) {
            record.keepers.insert(node);
        } else if !image.manifest.media_type.is_empty() {
            record.keepers.remove(&node);
        }
        if known == Some(&record) {
            return;
        }
        self.store(
            Key::Image(record.digest.clone()),
            Arc::new(Object::Image(record)),
            changes,
        );
    }

    fn release(&mut self, digest: &str, node: NodeId, changes: &mut Vec<Change>) {
        let Some(known) = self.image(digest).filter(|known| known.nodes.contains(&node)) else {
            return;
        };
        let mut record = known.clone();
        record.nodes.remove(&node);
        record.keepers.remove(&node);
        let key = Key::Image(record.digest.clone());
        if record.nodes.is_empty() {
            self.delete(&key, changes);
        } else {
            self.store(key, Arc::new(Object::Image(record)), changes);
        }
    }

    fn put(&mut self, object: Object, at: Timestamp, changes: &mut Vec<Change>) {
        let key = object.key();
        let replaces = self.get(&key).is_some();
        if replaces && matches!(object, Object::Replica(_)) {
            return;
        }
        if let Object::Node(node) = &object {
            self.record_node_transition(node, at);
        }
        self.store(key, Arc::new(object), changes);
    }

    fn delete(&mut self, key: &Key, changes: &mut Vec<Change>) {
        let Some(stored) = self.objects.remove(key) else { return };
        self.indexes.remove(&stored.object);
        changes.push(Change {
            revision: self.revision,
            key: key.clone(),
            before: Some(stored.object),
            after: None,
        });
    }

    fn store(&mut self, key: Key, object: Arc<Object>, changes: &mut Vec<Change>) {
        let stored = Stored {
            modified: self.revision,
            object: object.clone(),
        };
        let before = self.objects.insert(key.clone(), stored).map(|stored| stored.object);
        if let Some(before) = &before {
            self.indexes.remove(before);
        }
        self.indexes.insert(&object);
        changes.push(Change {
            revision: self.revision,
            key,
            before,
            after: Some(object),
        });
    }

    /// Edits a replica in place, if it exists and `edit` says that it changed something.
    fn edit_replica(
        &mut self,
        id: ReplicaId,
        at: Timestamp,
        changes: &mut Vec<Change>,
        edit: impl FnOnce(&mut Replica) -> bool,
    ) {
        let Some(replica) = self.replica(id) else { return };
        let mut edited = replica.clone();
        let observed_before = edited.observed.clone();
        if !edit(&mut edited) {
            return;
        }
        if edited.observed.phase != observed_before.phase {
            let message = self.phase_message(&edited);
            self.record(
                &NewEvent::new(edited.object(), edited.observed.phase.to_string(), message),
                at,
            );
        } else if edited.observed.restarts > observed_before.restarts {
            let reason = restart_reason(&observed_before, &edited.observed);
            self.record(&NewEvent::new(edited.object(), "restarted", reason), at);
        }
        self.store(Key::Replica(id), Arc::new(Object::Replica(edited)), changes);
    }

    fn phase_message(&self, replica: &Replica) -> String {
        let observed = &replica.observed;
        if !observed.message.is_empty() {
            return observed.message.clone();
        }
        match (observed.phase, replica.node) {
            (Phase::Assigned, Some(id)) => {
                let node = self.node(id).map_or_else(|| id.to_string(), |node| node.name.clone());
                format!("placed on {node}")
            }
            _ => String::new(),
        }
    }

    fn record_node_transition(&mut self, node: &gantry_model::object::Node, at: Timestamp) {
        let object = format!("node {}", node.name);
        let event = match self.node(node.id) {
            None => NewEvent::new(object, "joined", format!("joined at {}", node.address)),
            Some(before) if before.status != node.status => NewEvent::new(
                object,
                node.status.to_string(),
                format!("was {}, is {}", before.status, node.status),
            ),
            Some(before) if before.availability != node.availability => NewEvent::new(
                object,
                node.availability.to_string(),
                format!("was {}, is {}", before.availability, node.availability),
            ),
            Some(_) => return,
        };
        self.record(&event, at);
    }

    fn record(&mut self, event: &NewEvent, at: Timestamp) {
        self.events_recorded += 1;
        self.events.push_back(Arc::new(Event {
            sequence: self.events_recorded,
            at,
            object: event.object.clone(),
            kind: event.kind.clone(),
            message: event.message.clone(),
        }));
        while self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
        }
    }
}

/// Why a replica was started again: what was said while it waited, else how it ended. An agent that sends both reports as one
/// says only the latter.
fn restart_reason(before: &Observed, after: &Observed) -> String {
    let said = [&after.message, &before.message]
        .into_iter()
        .find(|said| !said.is_empty());
    match (said, after.last_exit) {
        (Some(said), _) => said.clone(),
        (None, Some(exit)) if exit.oom_killed => "it was killed for lack of memory".to_string(),
        (None, Some(exit)) => format!("it ended with exit status {}", exit.code),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::phase::Exit;

    fn node(status_since: u64, labels: &[(&str, &str)]) -> Node {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_string(), (*value).to_string()));
        Node {
            id: NodeId(1),
            name: "alpha".to_string(),
            address: "192.0.2.1:7420".to_string(),
            subnet: "10.128.0.0/24".parse().expect("a network"),
            labels: labels.collect(),
            availability: gantry_model::object::Availability::Active,
            status: NodeStatus::Ready,
            status_since: Timestamp(status_since),
            facts: gantry_model::object::NodeFacts::default(),
            joined_at: Timestamp(1),
        }
    }

    /// The write may be long under way: what people and the node did meanwhile stays.
    #[test]
    fn a_lease_that_ran_out_changes_the_status_alone_and_only_of_the_node_as_it_was_seen() {
        let mut state = State::default();
        let mut write = |ops: Vec<Op>| {
            let index = state.revision() + 1;
            state.apply(index, 1, &Transaction::new(Timestamp(index * 100), ops));
            state.node(NodeId(1)).cloned()
        };
        let take_down = |ready_since| Op::TakeDown {
            node: NodeId(1),
            ready_since: Timestamp(ready_since),
        };
        let put = |node| Op::Put(Box::new(Object::Node(node)));
        write(vec![put(node(5, &[]))]);
        write(vec![put(node(5, &[("zone", "a")]))]);
        assert_eq!(
            write(vec![take_down(4)]),
            Some(node(5, &[("zone", "a")])),
            "taken in anew"
        );
        let down = write(vec![take_down(5)]).expect("it is there");
        assert_eq!((down.status, down.status_since), (NodeStatus::Down, Timestamp(400)));
        assert_eq!(down.labels, node(5, &[("zone", "a")]).labels);
        assert_eq!(write(vec![take_down(400)]), Some(down), "down already");
        write(vec![Op::Delete(Key::Node(NodeId(1)))]);
        assert_eq!(
            write(vec![take_down(5)]),
            None,
            "a node that was removed does not come back"
        );
    }

    /// It was decided on while the node was away, and written when it was back.
    #[test]
    fn a_replica_is_not_given_up_once_its_node_is_back() {
        let mut state = State::default();
        let mut write = |ops: Vec<Op>| {
            let index = state.revision() + 1;
            state.apply(index, 1, &Transaction::new(Timestamp(index * 100), ops));
            state.replica(ReplicaId(7)).map(|one| one.desired)
        };
        let name = |text| gantry_model::Name::new(text).expect("a name");
        let replica = Replica {
            id: ReplicaId(7),
            service: gantry_model::ServiceId(1),
            namespace: name("shop"),
            service_name: name("web"),
            slot: gantry_model::object::Slot::Index(1),
            revision: 1,
            node: Some(NodeId(1)),
            address: None,
            desired: Desired::Run,
            desired_reason: String::new(),
            held: false,
            observed: Observed::default(),
            explanation: None,
            created_at: Timestamp(1),
            assigned_at: None,
            desired_since: None,
        };
        let put = |object| Op::Put(Box::new(object));
        let give_up = |down_since| Op::GiveUp {
            replica: ReplicaId(7),
            desired: Desired::Stop,
            reason: "node alpha is down".to_string(),
            down_since: Timestamp(down_since),
        };
        let down = Node {
            status: NodeStatus::Down,
            ..node(5, &[])
        };
        write(vec![put(Object::Node(node(5, &[]))), put(Object::Replica(replica))]);
        assert_eq!(write(vec![give_up(5)]), Some(Desired::Run), "it is there");
        write(vec![put(Object::Node(down))]);
        assert_eq!(write(vec![give_up(4)]), Some(Desired::Run), "it was back in between");
        assert_eq!(write(vec![give_up(5)]), Some(Desired::Stop));
    }

    #[test]
    fn a_restart_says_why() {
        let exit = |code, oom_killed| {
            let at = Timestamp(1);
            Some(Exit { code, oom_killed, at })
        };
        let observed = |message: &str, last_exit| Observed {
            message: message.to_string(),
            last_exit,
            ..Observed::default()
        };
        let waiting = observed("health check failed 3 times: no", exit(137, false));
        let cases = [
            (
                &waiting,
                observed("", exit(137, false)),
                "health check failed 3 times: no",
            ),
            (
                &observed("", None),
                observed("", exit(3, false)),
                "it ended with exit status 3",
            ),
            (
                &observed("", None),
                observed("", exit(137, true)),
                "it was killed for lack of memory",
            ),
        ];
        for (before, after, reason) in cases {
            assert_eq!(restart_reason(before, &after), reason);
        }
    }
}
