//! What would happen: how many more replicas fit, and where those of some nodes would go.
//!
//! Nothing is changed: all questions are asked of a copy.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::explain::Explanation;
use gantry_model::object::{Replica, Slot};
use gantry_model::phase::Desired;
use gantry_model::{NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_state::State;

use crate::Fleet;
use crate::place::Request;

/// How many more replicas like one find room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomFor {
    /// So many.
    pub more: u32,
    /// Why not one more; none when the search ended before that.
    pub limit: Option<Explanation>,
}

/// What would become of the replicas that a service has on nodes that go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The service.
    pub service: ServiceId,
    /// So many would run elsewhere.
    pub moved: u32,
    /// So many would not.
    pub stranded: u32,
    /// Why not.
    pub why: Option<Explanation>,
}

impl Fleet {
    /// How many more replicas like this one find room, looked for up to `most`.
    #[must_use]
    pub fn room_for(&self, like: &Request, most: u32, now: Timestamp) -> RoomFor {
        let mut what_if = self.clone();
        let ids = (0..u64::MAX).rev().map(ReplicaId);
        let unused = ids.filter(|id| !self.held.contains_key(id));
        let requests: Vec<Request> = (1..=most)
            .zip(unused)
            .map(|(number, replica)| Request {
                replica,
                slot: Slot::Index(number),
                ..like.clone()
            })
            .collect();
        let decisions = what_if.place(&requests, now);
        let more = decisions.iter().filter(|one| one.result.is_ok()).count();
        RoomFor {
            more: u32::try_from(more).unwrap_or(u32::MAX),
            limit: decisions.into_iter().find_map(|one| one.result.err()),
        }
    }

    /// Where the replicas of these nodes would go without them, service by service. What runs once per node goes nowhere, and
    /// is not missed.
    #[must_use]
    pub fn without(&self, state: &State, nodes: &[NodeId], now: Timestamp) -> Vec<Loss> {
        let mut what_if = self.clone();
        let gone: BTreeSet<NodeId> = nodes.iter().copied().collect();
        let mut requests = Vec::new();
        for replica in gone.iter().flat_map(|node| state.replicas_on(*node)) {
            let runs = replica.desired == Desired::Run && replica.holds_resources();
            requests.extend(what_if.request_again(replica).filter(|_| runs));
            what_if.forget(replica.id);
        }
        for node in &gone {
            what_if.nodes.set_record(*node, None);
        }
        let services: BTreeMap<ReplicaId, ServiceId> = requests.iter().map(|one| (one.replica, one.service)).collect();
        let mut losses: BTreeMap<ServiceId, Loss> = BTreeMap::new();
        for decision in what_if.place(&requests, now) {
            let Some(&service) = services.get(&decision.replica) else {
                continue;
            };
            let loss = losses.entry(service).or_insert(Loss {
                service,
                moved: 0,
                stranded: 0,
                why: None,
            });
            match decision.result {
                Ok(_) => loss.moved += 1,
                Err(why) => {
                    loss.stranded += 1;
                    loss.why.get_or_insert(why);
                }
            }
        }
        losses.into_values().collect()
    }

    /// The request by which a replica that has a node would be placed again.
    fn request_again(&self, replica: &Replica) -> Option<Request> {
        let spec = self.spec_of(replica.service, replica.revision)?;
        matches!(replica.slot, Slot::Index(_)).then(|| Request {
            replica: replica.id,
            service: replica.service,
            namespace: replica.namespace.clone(),
            service_name: replica.service_name.clone(),
            slot: replica.slot,
            revision: replica.revision,
            spec,
            node: None,
            avoid: Vec::new(),
            volumes_on: Vec::new(),
            may_displace: false,
        })
    }
}
