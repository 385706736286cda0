//! One node and what is taken of it.
//!
//! **Invariant:** `take` followed by `give_back` of the same held replica restores the view exactly.

use std::collections::BTreeMap;

use gantry_model::object::Node;
use gantry_model::{ByteSize, MilliCpu, NodeId};

use crate::address::{self, AddressBook};
use crate::held::Held;
use crate::reservation::{HostPort, Reservation};

/// What is taken on one node id; the node's own record may arrive later or be gone already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeUse {
    pub(crate) id: NodeId,
    pub(crate) node: Option<Node>,
    /// What replicas may reserve; follows from the record.
    pub(crate) cpu_allocatable: MilliCpu,
    pub(crate) memory_allocatable: ByteSize,
    pub(crate) taken: Taken,
    /// Of `taken`, what is on its way out: told to end, not yet ended.
    pub(crate) leaving: Taken,
    /// Of `taken`, what stays, by priority.
    by_priority: BTreeMap<i32, Taken>,
    pub(crate) ports: BTreeMap<HostPort, u32>,
    pub(crate) addresses: AddressBook,
}

/// An amount of a node's resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) cpu: MilliCpu,
    pub(crate) memory: ByteSize,
    pub(crate) generic: BTreeMap<String, u64>,
    pub(crate) replicas: u32,
}

impl Taken {
    fn add(&mut self, reservation: &Reservation) {
        self.cpu += reservation.cpu;
        self.memory += reservation.memory;
        for (kind, value) in &reservation.generic {
            *self.generic.entry(kind.clone()).or_default() += value;
        }
        self.replicas += 1;
    }

    fn subtract(&mut self, reservation: &Reservation) {
        self.cpu -= reservation.cpu;
        self.memory -= reservation.memory;
        for (kind, value) in &reservation.generic {
            decrease(&mut self.generic, kind, *value);
        }
        self.replicas = self.replicas.saturating_sub(1);
    }
}

/// What is asked of each node in turn, close together in memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hot {
    pub(crate) id: u64,
    pub(crate) cpu_free: u64,
    pub(crate) memory_free: u64,
    pub(crate) cpu_taken: u64,
    pub(crate) memory_taken: u64,
    /// One over what may be reserved; 0 where that is nothing.
    pub(crate) cpu_scale: f64,
    pub(crate) memory_scale: f64,
    pub(crate) replicas: u32,
    pub(crate) addresses_free: u32,
}

impl NodeUse {
    pub(crate) fn new(id: NodeId) -> Self {
        Self {
            id,
            node: None,
            cpu_allocatable: MilliCpu::ZERO,
            memory_allocatable: ByteSize::ZERO,
            taken: Taken::default(),
            leaving: Taken::default(),
            by_priority: BTreeMap::new(),
            ports: BTreeMap::new(),
            addresses: AddressBook::default(),
        }
    }

    pub(crate) fn set_record(&mut self, node: Option<Node>) {
        self.cpu_allocatable = node.as_ref().map_or(MilliCpu::ZERO, Node::allocatable_cpu);
        self.memory_allocatable = node.as_ref().map_or(ByteSize::ZERO, Node::allocatable_memory);
        self.node = node;
    }

    /// Whether nothing is known of it any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.node.is_none() && self.taken.replicas == 0 && self.addresses.is_empty()
    }

    /// Its name for people.
    pub(crate) fn name(&self) -> String {
        self.node
            .as_ref()
            .map_or_else(|| self.id.to_string(), |node| node.name.clone())
    }

    pub(crate) fn cpu_free(&self) -> MilliCpu {
        self.cpu_allocatable - self.taken.cpu
    }

    pub(crate) fn memory_free(&self) -> ByteSize {
        self.memory_allocatable - self.taken.memory
    }

    pub(crate) fn generic_free(&self, kind: &str) -> u64 {
        let has = self.node.as_ref().map_or(0, |node| node.allocatable_generic(kind));
        has.saturating_sub(self.taken.generic.get(kind).copied().unwrap_or_default())
    }

    /// Addresses of its subnet that no replica holds.
    pub(crate) fn addresses_free(&self) -> u64 {
        let usable = self.node.as_ref().map_or(0, |node| address::usable(node.subnet));
        usable.saturating_sub(self.addresses.held())
    }

    /// What replicas of a priority below `priority` take, those not counted that leave anyway.
    pub(crate) fn taken_below(&self, priority: i32) -> (MilliCpu, ByteSize, u32) {
        let below = self.by_priority.range(..priority);
        below.fold(
            (MilliCpu::ZERO, ByteSize::ZERO, 0),
            |(cpu, memory, count), (_, taken)| (cpu + taken.cpu, memory + taken.memory, count + taken.replicas),
        )
    }

    pub(crate) fn hot(&self) -> Hot {
        let scale = |whole: u64| if whole == 0 { 0.0 } else { 1.0 / whole as f64 };
        Hot {
            id: self.id.0,
            cpu_free: self.cpu_free().0,
            memory_free: self.memory_free().0,
            cpu_taken: self.taken.cpu.0,
            memory_taken: self.taken.memory.0,
            cpu_scale: scale(self.cpu_allocatable.0),
            memory_scale: scale(self.memory_allocatable.0),
            replicas: self.taken.replicas,
            addresses_free: u32::try_from(self.addresses_free()).unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn take(&mut self, held: &Held) {
        if let Some(address) = held.address {
            self.addresses.take(address, held.holds);
        }
        if !held.holds {
            return;
        }
        let reservation = &held.reservation;
        self.taken.add(reservation);
        if held.wanted {
            self.by_priority
                .entry(reservation.priority)
                .or_default()
                .add(reservation);
        } else {
            self.leaving.add(reservation);
        }
        for port in &reservation.ports {
            *self.ports.entry(*port).or_default() += 1;
        }
    }

    pub(crate) fn give_back(&mut self, held: &Held) {
        if let Some(address) = held.address {
            self.addresses.give_back(address, held.holds);
        }
        if !held.holds {
            return;
        }
        let reservation = &held.reservation;
        self.taken.subtract(reservation);
        if held.wanted {
            if let Some(class) = self.by_priority.get_mut(&reservation.priority) {
                class.subtract(reservation);
                if class.replicas == 0 {
                    self.by_priority.remove(&reservation.priority);
                }
            }
        } else {
            self.leaving.subtract(reservation);
        }
        for port in &reservation.ports {
            decrease(&mut self.ports, port, 1);
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
