//! The observed phase of a replica only rises, and so does what is desired of it.

use gantry_model::object::Replica;

use super::Findings;

pub(super) fn check(before: &Replica, after: &Replica, findings: &mut Findings) {
    let rises = after.observed.phase >= before.observed.phase;
    findings.require(rises, after, "its phase fell");
    findings.require(after.desired >= before.desired, after, "what is desired of it fell");
}
