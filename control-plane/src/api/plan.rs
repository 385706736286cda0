//! What applying an application would do, and where its replicas would go: the real decision on a copy of the state.

use std::collections::BTreeMap;

use gantry_api::v1::{Placement, PlanReply};
use gantry_env::{Env, FreshIds};
use gantry_model::object::{Replica, Service};
use gantry_model::phase::{Desired, Observed};
use gantry_model::{Name, Problem};
use gantry_reconcile::{Acks, View, reconcile};
use gantry_scheduler::Fleet;
use gantry_state::{Op, State};

use super::wire;
use gantry_leader::admission::Decision;

/// Passes over the services: each may create replicas that a later one's dependencies wait for, so what a plan shows is the
/// placement of everything that could be placed at once.
struct Everything;

impl Acks for Everything {
    fn drained(&self, _: &Replica) -> bool {
        true
    }
}

/// Applies `decision` to a copy of `state` and places what would be created.
///
/// # Errors
/// None today; the signature leaves room for limits on the size of a plan.
pub fn plan(state: &State, env: &dyn Env, decision: &Decision, namespace: &Name) -> Result<PlanReply, Problem> {
    let mut copy = state.clone();
    let index = copy.revision() + 1;
    let _ = copy.apply(index, 0, &decision.transaction);
    let mut fleet = Fleet::from_state(&copy);
    let mut counts: BTreeMap<(String, String, String), u32> = BTreeMap::new();
    let services: Vec<Service> = copy
        .services_in(namespace)
        .filter(|service| !service.deleting)
        .cloned()
        .collect();
    for service in services {
        let view = View {
            state: &copy,
            now: env.now(),
            acks: &Everything,
        };
        let mut ids = || env.replica_id();
        let planned = reconcile(&view, service.id, &mut ids);
        for placed in fleet.place(&planned.place, env.now()) {
            let (node, reason) = match placed.result {
                Ok(placed) => (
                    copy.node(placed.node)
                        .map_or_else(|| placed.node.to_string(), |node| node.name.clone()),
                    String::new(),
                ),
                Err(explanation) => (String::new(), explanation.to_string()),
            };
            *counts.entry((service.name.to_string(), node, reason)).or_default() += 1;
        }
        waiting(&planned.ops, &service, &mut counts);
    }
    let placements = counts
        .into_iter()
        .map(|((service, node, reason), count)| Placement {
            service,
            node,
            count,
            reason,
        })
        .collect();
    Ok(PlanReply {
        changes: wire::changes(&decision.changes),
        placements,
    })
}

/// Replicas that are created but wait, such as for a dependency.
fn waiting(ops: &[Op], service: &Service, counts: &mut BTreeMap<(String, String, String), u32>) {
    for op in ops {
        if let Op::Put(object) = op
            && let gantry_state::Object::Replica(replica) = object.as_ref()
            && replica.desired == Desired::Run
            && replica.observed == Observed::default()
            && let Some(explanation) = &replica.explanation
        {
            let key = (service.name.to_string(), String::new(), explanation.to_string());
            *counts.entry(key).or_default() += 1;
        }
    }
}
