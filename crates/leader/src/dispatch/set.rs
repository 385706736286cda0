//! The set of one node: what it was sent last, and the increments that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::NodeId;
use gantry_model::assignment::{Item, ItemKey};
use gantry_model::phase::Desired;
use gantry_state::{Change, State};

use super::items::{affected, all_keys, item, may_alter_networks, networks_of};
use super::routes::Pending;
use super::shared::Shared;

/// What a node was sent.
#[derive(Debug)]
pub struct NodeSet {
    node: NodeId,
    number: u64,
    /// That the node takes part in: with the ports that are published everywhere they decide which services it routes to.
    networks: BTreeSet<String>,
    sent: BTreeMap<ItemKey, Sent>,
}

/// As much of an item as it takes to see that another one differs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sent {
    /// Nothing else of a replica's item ever changes.
    Replica(Desired),
    Other(Arc<Item>),
}

/// What to send next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Increment {
    /// The set it applies to; 0 makes it a complete set.
    pub applies_to: u64,
    /// The set it results in.
    pub results_in: u64,
    /// New and changed items; what many nodes have alike is one item.
    pub put: Vec<Arc<Item>>,
    /// Items that are no longer in the set, or never were.
    pub remove: Vec<ItemKey>,
}

/// Other nodes are not kept per node, since that costs the square of their number: a change of one is told of without a look
/// at what was sent.
fn kept(item: &Arc<Item>) -> Option<Sent> {
    match item.as_ref() {
        Item::Peer(_) => None,
        Item::Replica(replica) => Some(Sent::Replica(replica.desired)),
        Item::Node(_) | Item::Service(_) | Item::Data(_) => Some(Sent::Other(item.clone())),
    }
}

impl NodeSet {
    /// A complete set from the state.
    #[must_use]
    pub fn complete(state: &State, shared: &mut Shared, node: NodeId, number: u64) -> (Self, Increment) {
        let networks = networks_of(state, node);
        let (mut sent, mut put) = (BTreeMap::new(), Vec::new());
        for key in all_keys(state, shared, node, &networks) {
            if let Some(item) = item(state, shared, node, &networks, &key) {
                sent.extend(kept(&item).map(|kept| (key, kept)));
                put.push(item);
            }
        }
        let increment = Increment {
            applies_to: 0,
            results_in: number,
            put,
            remove: Vec::new(),
        };
        let set = Self {
            node,
            number,
            networks,
            sent,
        };
        (set, increment)
    }

    /// The number of the set that was sent last.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The increment that `changes` make necessary; none when the node's set stays as it is.
    pub fn advance(&mut self, state: &State, changes: &[Change]) -> Option<Increment> {
        let mut pending = Pending::default();
        for change in changes {
            affected(state, self.node, change, &mut pending.keys);
            pending.networks |= may_alter_networks(self.node, change);
        }
        self.refresh(state, &mut Shared::of(state), pending)
    }

    /// The increment for the keys that changes concerned since the last one.
    pub fn refresh(&mut self, state: &State, shared: &mut Shared, pending: Pending) -> Option<Increment> {
        let mut keys = pending.keys;
        if pending.networks {
            let networks = networks_of(state, self.node);
            for network in networks.symmetric_difference(&self.networks) {
                keys.extend(shared.on(network).map(ItemKey::Service));
            }
            // A service that is on none of them any more.
            if !networks.is_superset(&self.networks) {
                keys.extend(self.sent.keys().filter(|key| matches!(key, ItemKey::Service(_))));
            }
            self.networks = networks;
        }
        let (mut put, mut remove) = (Vec::new(), Vec::new());
        for key in keys {
            match item(state, shared, self.node, &self.networks, &key) {
                Some(item) => {
                    let kept = kept(&item);
                    if kept.is_none() || self.sent.get(&key) != kept.as_ref() {
                        self.sent.extend(kept.map(|kept| (key, kept)));
                        put.push(item);
                    }
                }
                None => {
                    if self.sent.remove(&key).is_some() || matches!(key, ItemKey::Peer(id) if id != self.node) {
                        remove.push(key);
                    }
                }
            }
        }
        if put.is_empty() && remove.is_empty() {
            return None;
        }
        let applies_to = self.number;
        self.number += 1;
        Some(Increment {
            applies_to,
            results_in: self.number,
            put,
            remove,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Routes;
    use super::*;
    use gantry_model::object::{Node, Replica, Service};
    use gantry_model::phase::{Desired, Observed, Phase};
    use gantry_model::{ReplicaId, ServiceId, Timestamp};
    use gantry_state::{Key, Object, Op, Transaction};
    use serde_json::{Value, from_value, json};

    const HERE: NodeId = NodeId(1);

    fn put(object: Object) -> Op {
        Op::Put(Box::new(object))
    }

    fn node(id: u64, status: &str) -> Op {
        let node: Node = from_value(json!({
            "id": NodeId(id), "name": format!("n{id}"), "address": format!("10.0.0.{id}:7601"), "status": status,
            "subnet": format!("10.1.{id}.0/24"), "status_since": 0, "joined_at": 0, "facts": gantry_model::object::NodeFacts::default(),
        }))
        .expect("a node");
        put(Object::Node(node))
    }

    /// Service 1 and 2 share a network, service 3 has one of its own, service 4 none and a published port.
    fn service(id: u64, networks: &[&str], ports: &Value) -> Op {
        let networks: BTreeMap<&str, Value> = networks
            .iter()
            .map(|name| (*name, json!({ "vip": "10.96.0.1", "names": [] })))
            .collect();
        let service: Service = from_value(json!({
            "id": ServiceId(id), "namespace": "a", "name": format!("s{id}"), "revision": 1, "networks": networks, "ports": ports,
            "spec": { "mode": { "replicated": { "replicas": 1 } }, "container": { "image": "i" } },
            "created_at": 0, "updated_at": 0,
        }))
        .expect("a service");
        put(Object::Service(service))
    }

    fn replica(id: u64, service: u64) -> Op {
        let replica: Replica = from_value(json!({
            "id": ReplicaId(id), "service": ServiceId(service), "namespace": "a", "service_name": format!("s{service}"),
            "slot": { "index": id }, "revision": 1, "created_at": 0,
        }))
        .expect("a replica");
        put(Object::Replica(replica))
    }

    fn assign(id: u64, node: u64) -> Op {
        Op::Assign {
            replica: ReplicaId(id),
            node: NodeId(node),
            address: std::net::Ipv4Addr::new(10, 1, u8::try_from(node).unwrap_or(0), u8::try_from(id).unwrap_or(0)),
            explanation: None,
        }
    }

    fn observe(id: u64, phase: Phase) -> Op {
        let observed = Observed {
            phase,
            sequence: phase.rank().into(),
            ready: phase == Phase::Running,
            ..Observed::default()
        };
        Op::Observe {
            replica: ReplicaId(id),
            observed,
        }
    }

    fn history() -> Vec<Vec<Op>> {
        let port = json!([{ "target": 80, "published": 8080, "protocol": "tcp", "mode": "ingress" }]);
        vec![
            vec![node(1, "ready"), node(2, "ready")],
            vec![
                service(1, &["x"], &json!([])),
                service(2, &["x"], &json!([])),
                service(3, &["y"], &json!([])),
            ],
            vec![
                replica(1, 1),
                replica(2, 2),
                replica(3, 3),
                assign(1, 2),
                assign(2, 2),
                assign(3, 2),
            ],
            vec![
                observe(1, Phase::Running),
                observe(2, Phase::Running),
                observe(3, Phase::Running),
            ],
            // The first replica here brings the services of its network along.
            vec![replica(4, 1), assign(4, 1)],
            vec![observe(4, Phase::Running), service(4, &[], &port)],
            vec![replica(5, 3), assign(5, 1), observe(5, Phase::Running)],
            // A service moves to another network while a replica of it is here.
            vec![service(3, &["x", "z"], &json!([]))],
            vec![node(2, "down")],
            vec![node(2, "ready"), observe(1, Phase::Failed)],
            // The last replica here takes them away.
            vec![Op::Desire {
                replica: ReplicaId(5),
                desired: Desired::Stop,
                reason: String::new(),
            }],
            vec![observe(5, Phase::Stopped)],
            vec![observe(4, Phase::Stopped), Op::Delete(Key::Replica(ReplicaId(5)))],
            vec![
                Op::Delete(Key::Replica(ReplicaId(4))),
                Op::Delete(Key::Service(ServiceId(4))),
            ],
            vec![Op::Delete(Key::Node(NodeId(2)))],
        ]
    }

    fn apply(state: &mut State, index: u64, ops: Vec<Op>) -> Vec<Change> {
        let (outcome, changes) = state.apply(index, 1, &Transaction::new(Timestamp(index), ops));
        assert!(
            matches!(outcome, gantry_state::Outcome::Committed { .. }),
            "{outcome:?}"
        );
        changes
    }

    fn fresh(state: &State) -> NodeSet {
        NodeSet::complete(state, &mut Shared::of(state), HERE, 1).0
    }

    fn peers(increment: &Increment) -> BTreeSet<ItemKey> {
        let put = increment.put.iter().map(|item| item.key());
        let keys = put.chain(increment.remove.iter().copied());
        keys.filter(|key| matches!(key, ItemKey::Peer(_))).collect()
    }

    #[test]
    fn increments_lead_to_what_a_complete_set_holds() {
        let mut state = State::default();
        let mut set = fresh(&state);
        let mut routes = Routes::of(state.clone());
        routes.open(HERE);
        let mut routed = fresh(&state);
        let mut seen = BTreeSet::new();
        for (index, ops) in (1..).zip(history()) {
            let changes = apply(&mut state, index, ops);
            let all = set.advance(&state, &changes);
            routes.changed(state.clone(), &changes);
            let pending = routes.take(HERE);
            let (routed_state, shared) = routes.parts();
            let some = routed.refresh(routed_state, shared, pending);
            let fresh = fresh(&state);
            assert_eq!(set.sent, fresh.sent, "after step {index}");
            assert_eq!(routed.sent, fresh.sent, "by routes, after step {index}");
            assert_eq!(all, some, "step {index} sends the same");
            seen.extend(fresh.sent.into_keys());
        }
        let services = seen.iter().filter(|key| matches!(key, ItemKey::Service(_))).count();
        assert_eq!(services, 4, "the history must route to every service once");
    }

    #[test]
    fn increments_taken_late_and_in_any_batches_lead_there_as_well() {
        let steps = u64::try_from(history().len()).expect("a few");
        for number in 0..200u32 {
            // Multiplicative hashing: the patterns are spread over all there are.
            let batching = number.wrapping_mul(0x9E37_79B1) >> (32 - steps);
            let mut state = State::default();
            let mut routes = Routes::of(state.clone());
            routes.open(HERE);
            let mut set = fresh(&state);
            let mut batch = Vec::new();
            for (index, ops) in (1..).zip(history()) {
                batch.extend(apply(&mut state, index, ops));
                // A set bit: the update is published with the next; its sessions look at every third.
                if batching >> (index - 1) & 1 == 0 || index == steps {
                    routes.changed(state.clone(), &std::mem::take(&mut batch));
                    if index % 3 == 0 || index == steps {
                        let pending = routes.take(HERE);
                        let (state, shared) = routes.parts();
                        set.refresh(state, shared, pending);
                    }
                }
            }
            assert_eq!(set.sent, fresh(&state).sent, "batching {batching:b}");
        }
    }

    #[test]
    fn what_happens_elsewhere_on_foreign_networks_sends_nothing() {
        let mut state = State::default();
        let steps = history();
        let mut set = fresh(&state);
        let mut routes = Routes::of(state.clone());
        routes.open(HERE);
        for (index, ops) in (1..).zip(steps.into_iter().take(4)) {
            let changes = apply(&mut state, index, ops);
            let sent = set.advance(&state, &changes);
            assert_eq!(
                sent.is_some(),
                index == 1,
                "step {index} concerns other nodes: {sent:?}"
            );
            let concerned = routes.changed(state.clone(), &changes);
            assert_eq!(concerned.contains(&HERE), index == 1, "step {index}");
        }
    }

    #[test]
    fn another_node_is_told_of_when_others_see_something_of_its_change() {
        let mut state = State::default();
        let mut set = fresh(&state);
        let told: Vec<BTreeSet<ItemKey>> = [
            vec![node(1, "ready"), node(2, "ready")],
            vec![node(2, "down")],
            vec![Op::Delete(Key::Node(NodeId(2)))],
        ]
        .into_iter()
        .zip(1..)
        .map(|(ops, index)| {
            let changes = apply(&mut state, index, ops);
            set.advance(&state, &changes)
                .map(|sent| peers(&sent))
                .unwrap_or_default()
        })
        .collect();
        let other = BTreeSet::from([ItemKey::Peer(NodeId(2))]);
        assert_eq!(told, [other.clone(), BTreeSet::new(), other]);
    }
}
