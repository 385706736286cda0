//! A replica's address in its node's subnet.
//!
//! The search starts at a place that follows from the replica's id, so that an address is rarely used again soon after it was
//! freed: caches and connection tables elsewhere may still know its former owner.
//!
//! **Invariant:** `take` followed by `give_back` of the same address restores the book exactly.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_model::ReplicaId;
use gantry_model::net::Ipv4Net;

use crate::id_map::mix;

/// The first index for replicas: 0 names the network, 1 is the gateway.
const FIRST_INDEX: u64 = 2;

/// Addresses per page: one bit each.
const PAGE_BITS: u32 = u64::BITS;

/// How many replicas can have an address in the subnet; the last one is for broadcasts.
pub(crate) fn usable(subnet: Ipv4Net) -> u64 {
    subnet.size().saturating_sub(FIRST_INDEX + 1)
}

/// Who has which address on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AddressBook {
    /// In order of number, none of them empty.
    pages: Vec<Page>,
    /// Claims beyond the first of their kind: a state may say that two replicas have one address.
    more: BTreeMap<(Ipv4Addr, bool), u32>,
    held: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Page {
    number: u32,
    /// Held by replicas.
    held: u64,
    /// Named by ended replicas: taken only when nothing else is left, since caches may still know them.
    resting: u64,
}

impl Page {
    fn bits(&mut self, holds: bool) -> &mut u64 {
        if holds { &mut self.held } else { &mut self.resting }
    }
}

impl AddressBook {
    /// Different addresses that replicas hold.
    pub(crate) const fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// One more claim: held, or resting.
    pub(crate) fn take(&mut self, address: Ipv4Addr, holds: bool) {
        let number = u32::from(address) / PAGE_BITS;
        let index = match self.pages.binary_search_by_key(&number, |page| page.number) {
            Ok(index) => index,
            Err(index) => {
                let page = Page {
                    number,
                    ..Page::default()
                };
                self.pages.insert(index, page);
                index
            }
        };
        let bits = self.pages[index].bits(holds);
        let bit = bit_of(address);
        if *bits & bit != 0 {
            *self.more.entry((address, holds)).or_default() += 1;
        } else {
            *bits |= bit;
            self.held += u64::from(holds);
        }
    }

    /// One claim less.
    pub(crate) fn give_back(&mut self, address: Ipv4Addr, holds: bool) {
        if let Some(more) = self.more.get_mut(&(address, holds)) {
            *more -= 1;
            if *more == 0 {
                self.more.remove(&(address, holds));
            }
            return;
        }
        let number = u32::from(address) / PAGE_BITS;
        let Ok(index) = self.pages.binary_search_by_key(&number, |page| page.number) else {
            return;
        };
        let bits = self.pages[index].bits(holds);
        let bit = bit_of(address);
        if *bits & bit != 0 {
            *bits &= !bit;
            self.held -= u64::from(holds);
        }
        if self.pages[index].held == 0 && self.pages[index].resting == 0 {
            self.pages.remove(index);
        }
    }

    /// A free address: one that no record names if possible, else one whose former owner has ended.
    pub(crate) fn free(&self, subnet: Ipv4Net, replica: ReplicaId) -> Option<Ipv4Addr> {
        let count = usable(subnet);
        if count == 0 {
            return None;
        }
        let address = |index| subnet.address(FIRST_INDEX + index).map(u32::from);
        let (first, last) = (address(0)?, address(count - 1)?);
        let start = address(mix(replica.0) % count)?;
        let search = |taken: fn(&Page) -> u64| {
            self.first_free(start, last, taken)
                .or_else(|| self.first_free(first, start, taken))
        };
        search(|page| page.held | page.resting)
            .or_else(|| search(|page| page.held))
            .map(Ipv4Addr::from)
    }

    /// The first address from `first` to `last` that is not taken.
    fn first_free(&self, first: u32, last: u32, taken: fn(&Page) -> u64) -> Option<u32> {
        let mut number = first / PAGE_BITS;
        let mut index = self.pages.partition_point(|page| page.number < number);
        while number <= last / PAGE_BITS {
            let page = self.pages.get(index).filter(|page| page.number == number);
            let mut free = !page.map_or(0, taken);
            if number == first / PAGE_BITS {
                free &= u64::MAX << (first % PAGE_BITS);
            }
            if free != 0 {
                let found = number * PAGE_BITS + free.trailing_zeros();
                return (found <= last).then_some(found);
            }
            index += usize::from(page.is_some());
            number += 1;
        }
        None
    }
}

fn bit_of(address: Ipv4Addr) -> u64 {
    1 << (u32::from(address) % PAGE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a valid network")
    }

    #[test]
    fn every_address_is_given_once_and_then_none() {
        for subnet in ["10.0.0.0/29", "10.0.3.0/24", "10.0.4.0/22", "10.0.0.64/26"].map(net) {
            let mut book = AddressBook::default();
            for replica in 0..usable(subnet) {
                let address = book.free(subnet, ReplicaId(replica)).expect("one is free");
                let edges = [subnet.address(0), subnet.address(1), subnet.address(subnet.size() - 1)];
                assert!(subnet.contains(address) && !edges.contains(&Some(address)), "{address}");
                book.take(address, true);
                assert_eq!(book.held(), replica + 1, "{address} was free");
            }
            assert_eq!(book.free(subnet, ReplicaId(7)), None);
        }
    }

    #[test]
    fn claims_are_counted_and_forgotten() {
        let subnet = net("10.0.0.0/30");
        let one = subnet.address(2).expect("it has one");
        let mut book = AddressBook::default();
        book.take(one, true);
        book.take(one, true);
        book.give_back(one, true);
        assert_eq!(book.free(subnet, ReplicaId(1)), None, "the second claim is left");
        book.take(one, false);
        book.give_back(one, true);
        assert_eq!(book.free(subnet, ReplicaId(1)), Some(one), "resting is second choice");
        book.give_back(one, false);
        assert_eq!(book, AddressBook::default());
    }
}
