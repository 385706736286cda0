//! Machines that run replicas.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::net::Ipv4Net;
use crate::spec::{GenericResource, Taint, TaintEffect};
use crate::{ByteSize, MilliCpu, NodeId, Timestamp};

/// One machine with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id, from its certificate.
    pub id: NodeId,
    /// Its host name, or the name given to its agent; unique in the cluster.
    pub name: String,
    /// Where other nodes and servers reach its agent, `address:port`.
    pub address: String,
    /// Where its replicas get their addresses.
    pub subnet: Ipv4Net,
    /// Labels given by `gantry node update`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What a person wants of it.
    #[serde(default)]
    pub availability: Availability,
    /// Whether its lease is alive, written by the leader when that changes.
    pub status: NodeStatus,
    /// Since when it has that status.
    pub status_since: Timestamp,
    /// What its agent said of it at the start of its session.
    pub facts: NodeFacts,
    /// When it joined.
    pub joined_at: Timestamp,
}

/// What an agent says of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, as in image platforms.
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the agent.
    pub version: String,
    /// Processor time that replicas may reserve.
    pub cpu: MilliCpu,
    /// Memory that replicas may reserve.
    pub memory: ByteSize,
    /// Further things it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generic: Vec<GenericResource>,
    /// Labels of the agent's own configuration (`engine.labels.*`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The machine also runs a server (`node.role == manager`).
    #[serde(default)]
    pub runs_server: bool,
}

/// What a person wants of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Takes replicas.
    #[default]
    Active,
    /// Keeps what it has, takes no more.
    Pause,
    /// Gives its replicas to other nodes.
    Drain,
}

impl fmt::Display for Availability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        })
    }
}

/// Whether a node's lease is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Its agent sends heartbeats.
    Ready,
    /// Its lease has run out.
    Down,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ready => "ready",
            Self::Down => "down",
        })
    }
}

impl Node {
    /// Whether the scheduler may place new replicas here.
    #[must_use]
    pub fn takes_replicas(&self) -> bool {
        self.status == NodeStatus::Ready && self.availability == Availability::Active
    }

    /// The marks that keep replicas away: labels `gantry.taint.KEY=VALUE:EFFECT`.
    #[must_use]
    pub fn taints(&self) -> Vec<Taint> {
        let labels = self.labels.iter();
        labels.filter_map(|(key, value)| taint(key, value)).collect()
    }

    /// Processor time that replicas may reserve here: what there is, times `gantry.overcommit.cpu`, less `gantry.reserved.cpu`.
    #[must_use]
    pub fn allocatable_cpu(&self) -> MilliCpu {
        let reserved = self.label(&format!("{LABEL_RESERVED}cpu")).unwrap_or(MilliCpu::ZERO);
        MilliCpu(self.overcommitted("cpu", self.facts.cpu.0)) - reserved
    }

    /// Memory that replicas may reserve here: what there is, times `gantry.overcommit.memory`, less `gantry.reserved.memory`.
    #[must_use]
    pub fn allocatable_memory(&self) -> ByteSize {
        let reserved = self.label(&format!("{LABEL_RESERVED}memory")).unwrap_or(ByteSize::ZERO);
        ByteSize(self.overcommitted("memory", self.facts.memory.0)) - reserved
    }

    /// How much of a generic resource replicas may reserve here, likewise.
    #[must_use]
    pub fn allocatable_generic(&self, kind: &str) -> u64 {
        let facts = self.facts.generic.iter().filter(|one| one.kind == kind);
        let has = self.overcommitted(kind, facts.map(|one| one.value).sum());
        let reserved = self.label(&format!("{LABEL_RESERVED}{kind}")).unwrap_or(0);
        has.saturating_sub(reserved)
    }

    fn overcommitted(&self, kind: &str, has: u64) -> u64 {
        match self.label::<MilliCpu>(&format!("{LABEL_OVERCOMMIT}{kind}")) {
            // The ratio is read as decimal thousandths, like cores.
            Some(ratio) => {
                let much = u128::from(has) * u128::from(ratio.0) / 1000;
                u64::try_from(much).unwrap_or(u64::MAX)
            }
            None => has,
        }
    }

    fn label<T: FromStr>(&self, key: &str) -> Option<T> {
        self.labels.get(key)?.parse().ok()
    }
}

/// Labels with this prefix are taints.
pub const LABEL_TAINT: &str = "gantry.taint.";
/// Labels with this prefix set resources aside: `cpu`, `memory`, or a generic resource.
pub const LABEL_RESERVED: &str = "gantry.reserved.";
/// Labels with this prefix let replicas reserve more, or less, than there is: a ratio such as `1.5`.
pub const LABEL_OVERCOMMIT: &str = "gantry.overcommit.";

/// Largest ratio of overcommitment.
const OVERCOMMIT_MAX: MilliCpu = MilliCpu::cores(100);

/// Whether a label of a node that means something to the scheduler can be read; any other label is fine.
///
/// # Errors
/// What is wrong with the value.
pub fn check_label(key: &str, value: &str) -> Result<(), String> {
    let readable = if key.starts_with(LABEL_TAINT) {
        taint(key, value).is_some()
    } else if let Some(kind) = key.strip_prefix(LABEL_RESERVED) {
        match kind {
            "cpu" => value.parse::<MilliCpu>().is_ok(),
            "memory" => value.parse::<ByteSize>().is_ok(),
            _ => value.parse::<u64>().is_ok(),
        }
    } else if key.starts_with(LABEL_OVERCOMMIT) {
        value.parse::<MilliCpu>().is_ok_and(|ratio| ratio <= OVERCOMMIT_MAX)
    } else {
        true
    };
    if readable {
        return Ok(());
    }
    let hint = if key.starts_with(LABEL_TAINT) {
        "write VALUE:EFFECT with prefer_no_schedule, no_schedule or no_execute"
    } else if key.starts_with(LABEL_OVERCOMMIT) {
        "write a ratio from 0 to 100, such as 1.5"
    } else {
        "write an amount, such as 0.5 cores, 2g or 3"
    };
    Err(format!("'{value}' does not fit {key}: {hint}"))
}

fn taint(key: &str, value: &str) -> Option<Taint> {
    let name = key.strip_prefix(LABEL_TAINT).filter(|name| !name.is_empty())?;
    let (value, effect) = value.rsplit_once(':').unwrap_or(("", value));
    let effect = match effect {
        "prefer_no_schedule" => TaintEffect::PreferNoSchedule,
        "no_schedule" => TaintEffect::NoSchedule,
        "no_execute" => TaintEffect::NoExecute,
        _ => return None,
    };
    Some(Taint {
        key: name.to_string(),
        value: value.to_string(),
        effect,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_for_the_scheduler_are_checked() {
        for (key, value, fine) in [
            ("disk", "anything", true),
            ("gantry.taint.dedicated", "gpu:no_schedule", true),
            ("gantry.taint.dedicated", "no_execute", true),
            ("gantry.taint.dedicated", "gpu", false),
            ("gantry.taint.", "gpu:no_schedule", false),
            ("gantry.reserved.cpu", "0.5", true),
            ("gantry.reserved.cpu", "half", false),
            ("gantry.reserved.memory", "2g", true),
            ("gantry.reserved.gpu", "1", true),
            ("gantry.reserved.gpu", "1.5", false),
            ("gantry.overcommit.cpu", "1.5", true),
            ("gantry.overcommit.cpu", "101", false),
        ] {
            assert_eq!(check_label(key, value).is_ok(), fine, "{key}={value}");
        }
    }

    #[test]
    fn taints_are_read_from_labels() {
        let read = taint("gantry.taint.dedicated", "gpu:no_schedule");
        let expected = Taint {
            key: "dedicated".to_string(),
            value: "gpu".to_string(),
            effect: TaintEffect::NoSchedule,
        };
        assert_eq!(read, Some(expected));
        assert_eq!(taint("dedicated", "gpu:no_schedule"), None);
    }
}
