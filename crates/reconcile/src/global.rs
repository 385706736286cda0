//! Services with one replica on every eligible node.
//!
//! As in Swarm, a paused node keeps what it has and a drained one loses it. What is on a node that is down is left alone: it
//! cannot run elsewhere, and goes on serving when the node was only out of reach.

use gantry_model::object::{Availability, NodeStatus, Service, Slot};
use gantry_scheduler::{eligible, may_stay};
use gantry_state::State;

use crate::plan::Wanted;

/// The nodes that should run the service, in order of id.
pub(crate) fn slots(state: &State, service: &Service) -> Wanted {
    let digest = service.spec.container.image_digest.as_deref();
    let platform = digest
        .and_then(|digest| state.image(digest))
        .map(|image| image.platform.as_str());
    let mut wanted = Wanted::default();
    for node in state.nodes() {
        let eligible = eligible(node, &service.spec, platform).is_ok();
        match (node.status, node.availability) {
            (NodeStatus::Down, _) => {
                wanted.left_alone.insert(Slot::Node(node.id));
            }
            (NodeStatus::Ready, Availability::Active) if eligible => {
                wanted.slots.insert(Slot::Node(node.id));
            }
            // A taint against new replicas lets those be that are there.
            (NodeStatus::Ready, Availability::Pause | Availability::Active)
                if may_stay(node, &service.spec).is_ok() =>
            {
                wanted.left_alone.insert(Slot::Node(node.id));
            }
            (NodeStatus::Ready, Availability::Active | Availability::Pause | Availability::Drain) => {}
        }
    }
    wanted
}
