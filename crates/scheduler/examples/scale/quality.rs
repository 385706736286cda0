//! Nodes used, against first-fit-decreasing and a lower bound.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::{ByteSize, MilliCpu};
use gantry_scheduler::Request;

use crate::NOW;
use crate::cluster::{self, Dice};
use crate::mixes::{self, Mix};

const REPLICAS: u64 = 20_000;
const NODES: u64 = 6_000;

/// Packs each mix on nodes of one size, once as one batch and once service by service.
pub fn run() {
    let cases: [(&str, Mix, u64, u64); 5] = [
        ("google 2011, 64 cores 256 GiB", mixes::GOOGLE_TASKS, 64, 256),
        ("google 2011, 32 cores 128 GiB", mixes::GOOGLE_TASKS, 32, 128),
        ("azure 2017, 64 cores 128 GiB", mixes::AZURE_MACHINES, 64, 128),
        ("azure 2017, 40 cores 96 GiB", mixes::AZURE_MACHINES, 40, 96),
        ("alibaba 2018, 96 cores 256 GiB", mixes::ALIBABA_CONTAINERS, 96, 256),
    ];
    for (name, mix, cores, gib) in cases {
        let (cpu, memory) = (MilliCpu::cores(cores), ByteSize::mib(gib << 10));
        let mut dice = Dice(7);
        let services: Vec<Vec<Request>> = (0..REPLICAS / 20)
            .map(|service| {
                let count = dice.pick(&[(50, 2), (30, 8), (15, 40), (5, 190)]);
                let (cpu, mib) = dice.pick(mix);
                cluster::requests(service, &Arc::new(cluster::spec(count, cpu, mib)), count)
            })
            .collect();
        let all: Vec<Request> = services.iter().flatten().cloned().collect();
        let bound = lower_bound(&all, cpu, memory);
        let first_fit = first_fit_decreasing(&all, cpu, memory);
        let batch = used(std::slice::from_ref(&all), cpu, memory);
        let one_by_one = used(&services, cpu, memory);
        let above = |nodes: u64| (nodes as f64 / bound as f64 - 1.0) * 100.0;
        println!(
            "{name}: {} replicas, at least {bound} nodes; first fit decreasing {first_fit} (+{:.1} %), one batch {batch} \
             (+{:.1} %), service by service {one_by_one} (+{:.1} %)",
            all.len(),
            above(first_fit),
            above(batch),
            above(one_by_one)
        );
    }
}

fn used(batches: &[Vec<Request>], cpu: MilliCpu, memory: ByteSize) -> u64 {
    let nodes = (1..=NODES).map(|number| cluster::node(number, cpu, memory)).collect();
    let mut fleet = cluster::fleet_of(nodes);
    let mut used = BTreeSet::new();
    for batch in batches {
        for decision in fleet.place(batch, NOW) {
            used.insert(decision.result.expect("there are nodes enough").node);
        }
    }
    used.len() as u64
}

/// No packing can need fewer: the sum of each resource over what one node has.
fn lower_bound(all: &[Request], cpu: MilliCpu, memory: ByteSize) -> u64 {
    let sum = |size: fn(&Request) -> u64| -> u64 { all.iter().map(size).sum() };
    let by_cpu = sum(|one| one.spec.resources.cpu_reservation.0).div_ceil(cpu.0);
    let by_memory = sum(|one| one.spec.resources.memory_reservation.0).div_ceil(memory.0);
    by_cpu.max(by_memory)
}

/// The largest first, each on the first node where it fits.
fn first_fit_decreasing(all: &[Request], cpu: MilliCpu, memory: ByteSize) -> u64 {
    let mut sizes: Vec<(u64, u64)> = all
        .iter()
        .map(|one| {
            (
                one.spec.resources.cpu_reservation.0,
                one.spec.resources.memory_reservation.0,
            )
        })
        .collect();
    let weight = |size: &(u64, u64)| size.0 as f64 / cpu.0 as f64 + size.1 as f64 / memory.0 as f64;
    sizes.sort_by(|one, two| weight(two).total_cmp(&weight(one)));
    let mut nodes: Vec<(u64, u64)> = Vec::new();
    for (needs_cpu, needs_memory) in sizes {
        let fits = nodes
            .iter_mut()
            .find(|(cpu, memory)| *cpu >= needs_cpu && *memory >= needs_memory);
        match fits {
            Some(node) => *node = (node.0 - needs_cpu, node.1 - needs_memory),
            None => nodes.push((cpu.0 - needs_cpu, memory.0 - needs_memory)),
        }
    }
    nodes.len() as u64
}
