//! Who has which address. Pure.
//!
//! Addresses are given in turn, so that one that was just given back rests for as long as possible: what still remembers the
//! former holder (a neighbour, a tracked connection) has time to forget it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use gantry_model::ReplicaId;
use gantry_model::net::Ipv4Net;

/// The first address is the gateway's, the one before it the network's own.
const FIRST: u64 = 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    held: BTreeMap<ReplicaId, Ipv4Addr>,
    taken: BTreeSet<Ipv4Addr>,
    next: u64,
}

impl Addresses {
    /// The container has that address already.
    pub(super) fn take(&mut self, container: ReplicaId, address: Ipv4Addr) {
        self.release(container);
        self.held.insert(container, address);
        self.taken.insert(address);
    }

    /// The container's address; none when all are taken.
    pub(super) fn give(&mut self, container: ReplicaId, pool: Ipv4Net) -> Option<Ipv4Addr> {
        if let Some(address) = self.held.get(&container).filter(|address| pool.contains(**address)) {
            return Some(*address);
        }
        // The last one is for broadcasts.
        let last = pool.size().checked_sub(2)?;
        let count = (last + 1).checked_sub(FIRST)?;
        let start = self.next.max(FIRST);
        let indexes = (0..count).map(|step| FIRST + (start - FIRST + step) % count);
        let mut free = indexes.filter_map(|index| Some((index, pool.address(index)?)));
        let (index, address) = free.find(|(_, address)| !self.taken.contains(address))?;
        self.next = index + 1;
        self.take(container, address);
        Some(address)
    }

    /// The container's address is free again.
    pub(super) fn release(&mut self, container: ReplicaId) {
        if let Some(address) = self.held.remove(&container) {
            self.taken.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(prefix: u8) -> Ipv4Net {
        Ipv4Net::new(Ipv4Addr::new(172, 30, 0, 0), prefix)
    }

    #[test]
    fn addresses_rest_before_they_are_given_again() {
        let mut addresses = Addresses::default();
        let first = addresses.give(ReplicaId(1), pool(29)).expect("free");
        assert_eq!(first, Ipv4Addr::new(172, 30, 0, 2), "the gateway has the first");
        addresses.release(ReplicaId(1));
        let given: Vec<_> = (2..7).map(|id| addresses.give(ReplicaId(id), pool(29))).collect();
        let last: Vec<u8> = given.iter().flatten().map(|address| address.octets()[3]).collect();
        assert_eq!(last, [3, 4, 5, 6, 2]);
        assert_eq!(
            addresses.give(ReplicaId(9), pool(29)),
            None,
            "neither gateway nor broadcast"
        );
        assert_eq!(addresses.give(ReplicaId(2), pool(29)), given[0], "who has one keeps it");
    }

    proptest! {
        #[test]
        fn no_two_containers_share_an_address(steps in proptest::collection::vec((0u64..12, any::<bool>()), 0..200)) {
            let mut addresses = Addresses::default();
            let mut held = BTreeMap::new();
            for (id, gives) in steps {
                let id = ReplicaId(id);
                if gives {
                    if let Some(address) = addresses.give(id, pool(28)) {
                        held.insert(id, address);
                    }
                } else {
                    addresses.release(id);
                    held.remove(&id);
                }
                let distinct: BTreeSet<_> = held.values().collect();
                prop_assert_eq!(distinct.len(), held.len());
            }
        }
    }
}
