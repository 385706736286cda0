//! A replica has one node, one address, one slot and one revision in its life.

use gantry_model::object::Replica;

use super::Findings;

pub(super) fn check(before: &Replica, after: &Replica, findings: &mut Findings) {
    let stays = before.node.is_none() || after.node == before.node;
    findings.require(stays, after, "it moved to another node");
    let keeps = before.address.is_none() || after.address == before.address;
    findings.require(keeps, after, "its address changed");
    let fills = after.service == before.service && after.slot == before.slot;
    findings.require(fills, after, "it changed its slot");
    findings.require(after.revision == before.revision, after, "it changed its revision");
}
