//! A batch of decisions.

use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::explain::Explanation;
use gantry_model::object::Slot;
use gantry_model::spec::ServiceSpec;
use gantry_model::{Name, NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_state::{Op, State};

use crate::filter::{Miss, Wants, check};
use crate::node_use::NodeUse;
use crate::reservation::Reservation;
use crate::score::{Context, count_groups, rank};
use crate::{Fleet, address, refusal};

/// A replica that needs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The replica.
    pub replica: ReplicaId,
    /// Its service.
    pub service: ServiceId,
    /// Namespace of the service.
    pub namespace: Name,
    /// Name of the service.
    pub service_name: Name,
    /// The position it fills.
    pub slot: Slot,
    /// Its revision.
    pub revision: u32,
    /// The spec of its revision.
    pub spec: Arc<ServiceSpec>,
    /// The one node it is for, in a global service or job.
    pub node: Option<NodeId>,
    /// Nodes that could not run earlier replicas of this slot: taken only when there is no other.
    pub avoid: Vec<NodeId>,
}

/// Where a replica goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The node.
    pub node: NodeId,
    /// Its address there.
    pub address: Ipv4Addr,
    /// Why there.
    pub explanation: Explanation,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The replica.
    pub replica: ReplicaId,
    /// Where it goes, or why nowhere.
    pub result: Result<Placed, Explanation>,
}

impl Decision {
    /// The operation that writes it down; none when `state` says the same already.
    #[must_use]
    pub fn op(&self, state: &State) -> Option<Op> {
        match &self.result {
            Ok(placed) => Some(Op::Assign {
                replica: self.replica,
                node: placed.node,
                address: placed.address,
                explanation: Some(placed.explanation.clone()),
            }),
            Err(explanation) => {
                let known = state
                    .replica(self.replica)
                    .and_then(|replica| replica.explanation.as_ref());
                (known != Some(explanation)).then(|| Op::Explain {
                    replica: self.replica,
                    explanation: Some(explanation.clone()),
                })
            }
        }
    }
}

impl Fleet {
    /// Decides the requests and reserves what it gives, so that later decisions see earlier ones. Decisions come in the order
    /// of the requests, and do not depend on it.
    pub fn place(&mut self, requests: &[Request], now: Timestamp) -> Vec<Decision> {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|index| sort_key(&requests[*index]));
        let mut decisions: Vec<Option<Decision>> = vec![None; requests.len()];
        for index in order {
            let request = &requests[index];
            let result = self.place_one(request, now);
            if let Ok(placed) = &result {
                self.reserve(request, placed);
            }
            decisions[index] = Some(Decision {
                replica: request.replica,
                result,
            });
        }
        decisions.into_iter().flatten().collect()
    }

    fn place_one(&self, request: &Request, now: Timestamp) -> Result<Placed, Explanation> {
        let reservation = self.reservation_of(request.service, &request.spec);
        let digest = request.spec.container.image_digest.as_deref();
        let wants = Wants {
            replica: request.replica,
            service: request.service,
            spec: &request.spec,
            reservation: &reservation,
            platform: digest.and_then(|digest| self.platforms.get(digest)).map(String::as_str),
        };
        match request.node {
            Some(node) => self.place_fixed(node, &wants),
            None => self.place_best(request, &wants, now),
        }
    }

    fn place_fixed(&self, node: NodeId, wants: &Wants<'_>) -> Result<Placed, Explanation> {
        let gone = NodeUse::default();
        let used = self.nodes.get(&node).unwrap_or(&gone);
        let name = used
            .node
            .as_ref()
            .map_or_else(|| node.to_string(), |one| one.name.clone());
        match check(used, wants) {
            Ok(()) => grant(
                used,
                wants,
                format!("placed on {name}: one replica on every eligible node"),
            ),
            Err(miss) => Err(refusal::explain_fixed(&name, node, &miss)),
        }
    }

    fn place_best(&self, request: &Request, wants: &Wants<'_>, now: Timestamp) -> Result<Placed, Explanation> {
        let mut misses: Vec<(NodeId, Miss)> = Vec::new();
        let mut fitting: Vec<(NodeId, &NodeUse)> = Vec::new();
        let known = self.nodes.iter().filter(|(_, used)| used.node.is_some());
        for (id, used) in known {
            match check(used, wants) {
                Ok(()) => fitting.push((*id, used)),
                Err(miss) => misses.push((*id, miss)),
            }
        }
        let groups = count_groups(self.nodes.values(), request);
        let context = Context {
            groups: &groups,
            reservation: wants.reservation,
            now,
        };
        let ranked = fitting
            .iter()
            .map(|(id, used)| (rank(used, *id, request, &context), *used));
        match ranked.min_by(|(one, _), (two, _)| one.cmp(two)) {
            Some((_, used)) => {
                let why = reason(used, request, fitting.len(), wants.reservation);
                grant(used, wants, why)
            }
            None => Err(refusal::explain(&misses)),
        }
    }
}

/// Turns a node that passed all filters into a placement.
fn grant(used: &NodeUse, wants: &Wants<'_>, summary: String) -> Result<Placed, Explanation> {
    let free = used.node.as_ref().and_then(|node| {
        let address = address::free_address(used, node.subnet, wants.replica)?;
        Some((node.id, address))
    });
    let explanation = |summary| Explanation {
        summary,
        ..Explanation::default()
    };
    match free {
        Some((node, address)) => Ok(Placed {
            node,
            address,
            explanation: explanation(summary),
        }),
        None => Err(explanation("no free address on the node".to_string())),
    }
}

fn reason(used: &NodeUse, request: &Request, fitting: usize, reservation: &Reservation) -> String {
    let name = used.node.as_ref().map_or("", |node| node.name.as_str());
    let (_, others) = used.wanted(request.service, request.revision);
    let rule = if reservation.has_weight() {
        "then the fullest that fits"
    } else {
        "then the one with the fewest replicas"
    };
    format!(
        "placed on {name}: {fitting} node(s) would do, it ran {others} of {}/{}; fewest of the service first, {rule}",
        request.namespace, request.service_name
    )
}

fn sort_key(request: &Request) -> (ServiceId, Slot, ReplicaId) {
    (request.service, request.slot, request.replica)
}
