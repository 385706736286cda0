//! No two replicas that run, or may, share an address.

use std::collections::BTreeMap;

use super::Findings;
use crate::State;

pub(super) fn check(state: &State, findings: &mut Findings) {
    let mut addresses = BTreeMap::new();
    for replica in state.replicas().filter(|replica| replica.holds_resources()) {
        if let Some(address) = replica.address
            && let Some(other) = addresses.insert(address, replica.id)
        {
            findings.add(format!(
                "{} and replica {other} share the address {address}",
                replica.object()
            ));
        }
    }
}
