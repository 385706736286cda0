//! The present revision of a service is kept.

use super::Findings;
use crate::State;

pub(super) fn check(state: &State, findings: &mut Findings) {
    for service in state.services() {
        if state.revision_of(service.id, service.revision).is_none() {
            findings.add(format!(
                "{} has no record of its revision {}",
                service.object(),
                service.revision
            ));
        }
    }
}
