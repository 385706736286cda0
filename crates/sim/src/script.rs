//! What happens to a cluster in one run: people's actions and faults, each at its time. It follows from a seed, and a part of it
//! can be run alone, which is how a failure is made small.

use std::collections::BTreeMap;

use gantry_model::spec::ServiceSpec;
use serde::{Deserialize, Serialize};

use crate::dice::Dice;
use crate::specs;

/// People and faults act for so long; then everything heals.
pub const TROUBLE_MS: u64 = 40_000;
/// Servers of a run.
pub const SERVERS: usize = 3;
/// Nodes that are there at the beginning.
pub const NODES: usize = 4;
/// Nodes that may join later.
pub const SPARE_NODES: usize = 2;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// All further chance follows from it.
    pub seed: u64,
    /// In order of time.
    pub steps: Vec<Step>,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds after the beginning.
    pub at: u64,
    /// What.
    pub act: Act,
}

/// A person's action, or a fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// A service is applied.
    Apply {
        /// Its name.
        service: String,
        /// Its spec.
        spec: Box<ServiceSpec>,
    },
    /// A service is scaled.
    Scale {
        /// Its name.
        service: String,
        /// Wanted replicas.
        replicas: u32,
    },
    /// A service is deleted.
    Delete {
        /// Its name.
        service: String,
    },
    /// A service goes back to its previous revision.
    Rollback {
        /// Its name.
        service: String,
    },
    /// All replicas of a service are replaced.
    Restart {
        /// Its name.
        service: String,
    },
    /// A node is made active, paused or drained.
    Availability {
        /// Which.
        node: usize,
        /// `active`, `pause` or `drain`.
        to: String,
    },
    /// A node is labelled.
    Label {
        /// Which.
        node: usize,
        /// Its zone.
        zone: String,
    },
    /// A register (a label nobody else uses) of a node is written.
    Write {
        /// Which.
        node: usize,
        /// The value.
        value: u64,
    },
    /// A register is read.
    Read {
        /// Which.
        node: usize,
    },
    /// A node is removed from the cluster, as with `--force`; its agent goes away for good.
    RemoveNode {
        /// Which.
        node: usize,
    },
    /// A spare node joins.
    Join {
        /// Which.
        node: usize,
    },
    /// A fault, for some time.
    Fault {
        /// What.
        fault: Fault,
        /// For how long, in milliseconds.
        lasts: u64,
    },
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A server crashes: what its disk had not synced is lost.
    ServerDown(usize),
    /// A machine crashes with all its containers.
    NodeDown(usize),
    /// An agent crashes; its containers go on.
    AgentDown(usize),
    /// Nothing gets from the first to the second.
    Cut(Place, Place),
    /// A server is cut off from everybody else, in both directions.
    Isolate(Place),
    /// So many in a thousand messages between servers are lost, and as many come twice.
    Loss(u64),
    /// Messages take up to so many milliseconds longer.
    Slow(u64),
    /// A server's disk takes so many milliseconds to sync.
    SlowDisk(usize, u64),
    /// A server's wall clock is wrong by so many milliseconds.
    Skew(usize, i64),
}

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A server, by number.
    Server(usize),
    /// A node, by number.
    Node(usize),
    /// A person.
    Person,
}

impl Script {
    /// The script of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5EED);
        let mut steps = opening(&mut dice);
        let count = dice.between(12, 40);
        // Some runs are without faults, so that what people alone break is seen alone.
        let calm = dice.one_in(8);
        for _ in 0..count {
            let at = dice.between(3_000, TROUBLE_MS);
            let act = if calm || dice.one_in(2) {
                action(&mut dice)
            } else {
                fault(&mut dice)
            };
            steps.push(Step { at, act });
        }
        steps.extend(calls(&mut dice));
        steps.sort_by_key(|step| step.at);
        Self { seed, steps }
    }
}

/// Somebody who writes registers and reads them, often right after one another: what was answered too early is missing then.
fn calls(dice: &mut Dice) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..dice.between(10, 30) {
        let (at, node) = (dice.between(3_000, TROUBLE_MS), dice.below(2) as usize);
        let value = dice.roll() >> 32;
        let write = Act::Write { node, value };
        steps.push(Step { at, act: write });
        let at = at + dice.between(2, 120);
        steps.push(Step {
            at,
            act: Act::Read { node },
        });
    }
    steps
}

/// The services that are there before the trouble begins.
fn opening(dice: &mut Dice) -> Vec<Step> {
    let count = dice.between(1, 4) as usize;
    let names = specs::NAMES.iter().take(count);
    let opening = names.map(|name| Step {
        at: dice.between(1_500, 2_500),
        act: Act::Apply {
            service: (*name).to_string(),
            spec: Box::new(specs::random(name, dice)),
        },
    });
    opening.collect()
}

fn name(dice: &mut Dice) -> String {
    dice.pick(specs::NAMES).unwrap_or("web").to_string()
}

fn action(dice: &mut Dice) -> Act {
    let node = dice.below(NODES as u64) as usize;
    match dice.below(24) {
        0..=6 => {
            let service = name(dice);
            let spec = Box::new(specs::random(&service, dice));
            Act::Apply { service, spec }
        }
        7..=9 => Act::Scale {
            service: name(dice),
            replicas: dice.below(7) as u32,
        },
        10 => Act::Delete { service: name(dice) },
        11 | 12 => Act::Rollback { service: name(dice) },
        13 | 14 => Act::Restart { service: name(dice) },
        15..=17 => Act::Availability {
            node,
            to: dice.pick(&["active", "pause", "drain"]).unwrap_or("active").to_string(),
        },
        18 => Act::Label {
            node,
            zone: dice.pick(&["a", "b"]).unwrap_or("a").to_string(),
        },
        19 | 20 => Act::Write {
            node: node % 2,
            value: dice.roll() >> 32,
        },
        21 | 22 => Act::Read { node: node % 2 },
        _ if dice.one_in(2) => Act::RemoveNode {
            node: dice.between(2, NODES as u64 - 1) as usize,
        },
        _ => Act::Join {
            node: NODES + dice.below(SPARE_NODES as u64) as usize,
        },
    }
}

fn fault(dice: &mut Dice) -> Act {
    let server = dice.below(SERVERS as u64) as usize;
    let node = dice.below(NODES as u64) as usize;
    let any = |dice: &mut Dice| match dice.below(2) {
        0 => Place::Server(dice.below(SERVERS as u64) as usize),
        _ => Place::Node(dice.below(NODES as u64) as usize),
    };
    let fault = match dice.below(16) {
        0..=2 => Fault::ServerDown(server),
        3 => Fault::NodeDown(node),
        4 | 5 => Fault::AgentDown(node),
        6 | 7 => Fault::Cut(any(dice), any(dice)),
        8 | 9 => Fault::Isolate(Place::Server(server)),
        10 => Fault::Isolate(Place::Node(node)),
        11 => Fault::Loss(dice.between(50, 400)),
        12 => Fault::Slow(dice.between(50, 800)),
        13 => Fault::SlowDisk(server, dice.between(20, 600)),
        _ => Fault::Skew(server, dice.between(0, 20_000) as i64 - 10_000),
    };
    let lasts = lasts(&fault, dice);
    Act::Fault { fault, lasts }
}

fn lasts(fault: &Fault, dice: &mut Dice) -> u64 {
    let lasts = dice.pick(&[300, 900, 2_000, 4_000, 8_000, 15_000]).unwrap_or(300);
    match fault {
        // No machine is back within a lease.
        Fault::NodeDown(_) => lasts.max(6_000),
        _ => lasts,
    }
}

/// How nodes are called and labelled at the beginning.
#[must_use]
pub fn node_labels(node: usize) -> BTreeMap<String, String> {
    let zone = if node.is_multiple_of(2) { "a" } else { "b" };
    BTreeMap::from([("zone".to_string(), zone.to_string())])
}
