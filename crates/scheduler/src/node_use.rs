//! One node and what is taken of it.
//!
//! **Invariant:** `take` followed by `give_back` of the same held replica restores the view exactly.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_model::object::Node;
use gantry_model::{ByteSize, MilliCpu, ServiceId, Timestamp};

use crate::fleet::Held;
use crate::reservation::HostPort;

/// What is taken on one node id; the node's own record may arrive later or be gone already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeUse {
    pub(crate) node: Option<Node>,
    pub(crate) cpu: MilliCpu,
    pub(crate) memory: ByteSize,
    pub(crate) generic: BTreeMap<String, u64>,
    pub(crate) ports: BTreeMap<HostPort, u32>,
    pub(crate) addresses: BTreeMap<Ipv4Addr, AddressUse>,
    /// Replicas that hold resources, of all services.
    pub(crate) replicas: u32,
    services: BTreeMap<(ServiceId, u32), Count>,
    failures: BTreeMap<(ServiceId, Timestamp), u32>,
}

/// Who has an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AddressUse {
    /// Replicas that hold it.
    pub(crate) holders: u32,
    /// Ended replicas whose record still names it: taken only when nothing else is left, since caches may still know it.
    pub(crate) resting: u32,
}

/// Replicas of one revision of a service on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    /// Holding resources.
    holding: u32,
    /// Of these, wanted to run.
    wanted: u32,
}

impl NodeUse {
    /// Whether nothing is known of it any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.node.is_none() && self.replicas == 0 && self.addresses.is_empty() && self.failures.is_empty()
    }

    /// Replicas of the service that hold resources here.
    pub(crate) fn holding(&self, service: ServiceId) -> u32 {
        self.counts(service).map(|(_, count)| count.holding).sum()
    }

    /// Replicas of the service wanted here: those of `revision`, and all of them.
    pub(crate) fn wanted(&self, service: ServiceId, revision: u32) -> (u32, u32) {
        self.counts(service).fold((0, 0), |(same, all), (number, count)| {
            let of_revision = if number == revision { count.wanted } else { 0 };
            (same + of_revision, all + count.wanted)
        })
    }

    /// How often replicas of the service failed here since then.
    pub(crate) fn failures_since(&self, service: ServiceId, since: Timestamp) -> u32 {
        let range = (service, since)..=(service, Timestamp(u64::MAX));
        self.failures.range(range).map(|(_, count)| count).sum()
    }

    fn counts(&self, service: ServiceId) -> impl Iterator<Item = (u32, &Count)> {
        let range = (service, 0)..=(service, u32::MAX);
        self.services
            .range(range)
            .map(|((_, revision), count)| (*revision, count))
    }

    pub(crate) fn take(&mut self, held: &Held) {
        self.touch_address(held, |count| *count += 1);
        if let Some(at) = held.failed_at {
            *self.failures.entry((held.service, at)).or_default() += 1;
        }
        if !held.holds {
            return;
        }
        self.replicas += 1;
        let count = self.services.entry((held.service, held.revision)).or_default();
        count.holding += 1;
        count.wanted += u32::from(held.wanted);
        self.cpu += held.reservation.cpu;
        self.memory += held.reservation.memory;
        for (kind, value) in &held.reservation.generic {
            *self.generic.entry(kind.clone()).or_default() += value;
        }
        for port in &held.reservation.ports {
            *self.ports.entry(*port).or_default() += 1;
        }
    }

    pub(crate) fn give_back(&mut self, held: &Held) {
        self.touch_address(held, |count| *count = count.saturating_sub(1));
        if let Some(at) = held.failed_at {
            decrease(&mut self.failures, &(held.service, at), 1);
        }
        if !held.holds {
            return;
        }
        self.replicas = self.replicas.saturating_sub(1);
        let key = (held.service, held.revision);
        if let Some(count) = self.services.get_mut(&key) {
            count.holding = count.holding.saturating_sub(1);
            count.wanted = count.wanted.saturating_sub(u32::from(held.wanted));
            if *count == Count::default() {
                self.services.remove(&key);
            }
        }
        self.cpu -= held.reservation.cpu;
        self.memory -= held.reservation.memory;
        for (kind, value) in &held.reservation.generic {
            decrease(&mut self.generic, kind, *value);
        }
        for port in &held.reservation.ports {
            decrease(&mut self.ports, port, 1);
        }
    }

    fn touch_address(&mut self, held: &Held, change: impl FnOnce(&mut u32)) {
        let Some(address) = held.address else { return };
        let entry = self.addresses.entry(address).or_default();
        change(if held.holds {
            &mut entry.holders
        } else {
            &mut entry.resting
        });
        if *entry == AddressUse::default() {
            self.addresses.remove(&address);
        }
    }
}

fn decrease<K, V>(map: &mut BTreeMap<K, V>, key: &K, by: V)
where
    K: Ord,
    V: Copy + Default + PartialEq + PartialOrd + std::ops::Sub<Output = V>,
{
    if let Some(value) = map.get_mut(key) {
        *value = if *value > by { *value - by } else { V::default() };
        if *value == V::default() {
            map.remove(key);
        }
    }
}
