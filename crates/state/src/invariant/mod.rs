//! What must be true after every transaction, checked in debug builds and by tests.

use std::fmt;

use gantry_model::object::Replica;

use crate::{Change, Object, State};

/// A broken promise: a defect of Gantry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong with which object.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl State {
    /// The invariants broken by `changes`; empty when all hold. Costs what the changes cost, not what the state holds.
    #[must_use]
    pub fn violations_of(&self, changes: &[Change]) -> Vec<Violation> {
        let mut violations = Vec::new();
        for change in changes {
            if let (Some(before), Some(after)) = (&change.before, &change.after)
                && let (Object::Replica(before), Object::Replica(after)) = (before.as_ref(), after.as_ref())
            {
                check_replica(before, after, &mut violations);
            }
        }
        violations
    }

    /// The invariants of the whole state, for tests and for a state that was just loaded.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut addresses = std::collections::BTreeMap::new();
        for replica in self.replicas().filter(|replica| replica.holds_resources()) {
            if let Some(address) = replica.address
                && let Some(other) = addresses.insert(address, replica.id)
            {
                violations.push(Violation {
                    message: format!("{} and replica {other} share the address {address}", replica.object()),
                });
            }
        }
        for service in self.services() {
            if self.revision_of(service.id, service.revision).is_none() {
                let message = format!(
                    "{} has no record of its revision {}",
                    service.object(),
                    service.revision
                );
                violations.push(Violation { message });
            }
        }
        violations
    }
}

fn check_replica(before: &Replica, after: &Replica, violations: &mut Vec<Violation>) {
    let mut require = |holds: bool, what: &str| {
        if !holds {
            violations.push(Violation {
                message: format!("{} ({}): {what}", after.object(), after.id),
            });
        }
    };
    require(after.observed.phase >= before.observed.phase, "its phase fell");
    require(after.desired >= before.desired, "what is desired of it fell");
    require(
        before.node.is_none() || after.node == before.node,
        "it moved to another node",
    );
    require(
        before.address.is_none() || after.address == before.address,
        "its address changed",
    );
    require(
        after.service == before.service && after.slot == before.slot,
        "it changed its slot",
    );
    require(after.revision == before.revision, "it changed its revision");
}
