//! Decisions as messages.

use gantry_api::v1::{self, change::Action as WireAction};

use gantry_leader::admission::{Action, Change};

/// The changes of a decision.
#[must_use]
pub fn changes(changes: &[Change]) -> Vec<v1::Change> {
    changes
        .iter()
        .map(|change| v1::Change {
            action: action(change.action).into(),
            kind: change.kind.to_string(),
            name: change.name.clone(),
            details: change.details.clone(),
            rollout: change.rollout,
        })
        .collect()
}

const fn action(action: Action) -> WireAction {
    match action {
        Action::Create => WireAction::Create,
        Action::Update => WireAction::Update,
        Action::Delete => WireAction::Delete,
        Action::Unchanged => WireAction::Unchanged,
    }
}
