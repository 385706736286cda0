//! A replica's address in its node's subnet.
//!
//! The search starts at a place that follows from the replica's id, so that an address is rarely used again soon after it was
//! freed: caches and connection tables elsewhere may still know its former owner.

use std::net::Ipv4Addr;

use gantry_model::ReplicaId;
use gantry_model::net::Ipv4Net;

use crate::node_use::NodeUse;

/// The first index for replicas: 0 names the network, 1 is the gateway.
const FIRST_INDEX: u64 = 2;

/// How many replicas can have an address in the subnet; the last one is for broadcasts.
pub(crate) fn usable(subnet: Ipv4Net) -> u64 {
    subnet.size().saturating_sub(FIRST_INDEX + 1)
}

/// A free address: one that no record names if possible, else one whose former owner has ended.
pub(crate) fn free_address(used: &NodeUse, subnet: Ipv4Net, replica: ReplicaId) -> Option<Ipv4Addr> {
    let count = usable(subnet);
    if count == 0 {
        return None;
    }
    let start = mix(replica.0) % count;
    let candidates = (0..count).filter_map(|step| subnet.address(FIRST_INDEX + (start + step) % count));
    let mut second_choice = None;
    for address in candidates {
        match used.addresses.get(&address) {
            None => return Some(address),
            Some(one) if one.holders == 0 => second_choice = second_choice.or(Some(address)),
            Some(_) => {}
        }
    }
    second_choice
}

/// Spreads ids that lie close together: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
