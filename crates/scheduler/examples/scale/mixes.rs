//! Mixes of sizes like those of large clusters.
//!
//! Machines: shaped after Google's cluster trace of 2011 (Reiss et al.: Heterogeneity and Dynamicity of Clouds at Scale, SoCC
//! 2012, table 1), whose largest machine is taken as 64 cores and 256 GiB. Services: **estimates**, named after the clusters whose
//! published distributions they imitate (Google 2011; Azure, Cortez et al., SOSP 2017; Alibaba 2018). Their weights were not
//! computed from the traces, and are no figures to cite.

use std::sync::Arc;

use gantry_model::spec::{Preference, ServiceSpec};

use crate::cluster::{self, Dice};

/// Cores and GiB of machines, with thousandths of the cluster.
pub const GOOGLE_MACHINES: &[(u64, (u64, u64))] = &[
    (535, (32, 128)),
    (307, (32, 64)),
    (79, (32, 192)),
    (63, (64, 256)),
    (10, (16, 64)),
    (4, (32, 31)),
];

/// Thousandths of a core and MiB per replica, with weights.
pub type Mix = &'static [(u64, (u64, u64))];

pub const GOOGLE_TASKS: Mix = &[
    (18, (400, 512)),
    (16, (800, 1_024)),
    (14, (400, 2_048)),
    (12, (1_600, 1_536)),
    (10, (800, 4_096)),
    (10, (2_000, 8_192)),
    (8, (4_000, 4_096)),
    (6, (1_600, 12_288)),
    (4, (6_400, 16_384)),
    (2, (16_000, 32_768)),
];

pub const AZURE_MACHINES: Mix = &[
    (30, (1_000, 1_792)),
    (17, (1_000, 768)),
    (22, (2_000, 3_584)),
    (11, (2_000, 7_168)),
    (9, (4_000, 7_168)),
    (5, (4_000, 14_336)),
    (3, (8_000, 14_336)),
    (2, (8_000, 28_672)),
    (1, (16_000, 57_344)),
];

pub const ALIBABA_CONTAINERS: Mix = &[
    (45, (4_000, 8_192)),
    (25, (4_000, 16_384)),
    (15, (8_000, 16_384)),
    (8, (8_000, 32_768)),
    (4, (16_000, 32_768)),
    (3, (1_000, 4_096)),
];

/// A service of the speed run: every second one is bound to a disk, every third spread over zones and racks, every fifth over
/// zones within bounds. Sizes are such that the cluster is nine tenths full in the end.
pub fn service(index: u64, nodes: u64, replicas: u64, services: u64, dice: &mut Dice) -> Arc<ServiceSpec> {
    // A machine of the mix has about 34 cores and 116 GiB, a task of the mix about 1.9 and 5.
    let share = replicas as f64 / nodes as f64;
    let (cpu, mib) = dice.pick(GOOGLE_TASKS);
    let (cpu_mean, mib_mean) = mean(GOOGLE_TASKS);
    let cpu = (cpu as f64 * 34_000.0 * 0.85 / share / cpu_mean) as u64;
    let mib = (mib as f64 * 112_000.0 * 0.85 / share / mib_mean) as u64;
    let mut spec = cluster::spec(replicas / services, cpu.max(1), mib.max(1));
    let key = |text: &str| text.parse().expect("a valid attribute");
    if index.is_multiple_of(2) {
        let constraint = if index.is_multiple_of(4) {
            "node.labels.disk==ssd"
        } else {
            "node.labels.disk!=nvme"
        };
        spec.placement
            .constraints
            .push(constraint.parse().expect("a valid constraint"));
    }
    if index.is_multiple_of(3) {
        spec.placement.preferences = vec![
            Preference::Spread(key("node.labels.zone")),
            Preference::Spread(key("node.labels.rack")),
        ];
    } else if index.is_multiple_of(5) {
        spec.placement.preferences = vec![Preference::Even {
            by: key("node.labels.zone"),
            max_skew: 2,
        }];
    }
    Arc::new(spec)
}

fn mean(mix: Mix) -> (f64, f64) {
    let total: u64 = mix.iter().map(|(weight, _)| weight).sum();
    let sum = |size: fn(&(u64, u64)) -> u64| {
        let sum: u64 = mix.iter().map(|(weight, one)| weight * size(one)).sum();
        sum as f64 / total as f64
    };
    (sum(|one| one.0), sum(|one| one.1))
}
