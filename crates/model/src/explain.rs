//! Explanations as data: why a replica is not where the user wants it, and what would help.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{NodeId, Timestamp};

/// Why something is not (yet) as wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// One line: `no suitable node: 2 nodes lack memory, 1 node is drained`.
    pub summary: String,
    /// The next thing to do; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// Why each node was passed over, aggregated by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// One reason for which nodes were passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The filter that said no, such as `memory` or `constraint`.
    pub filter: String,
    /// The reason in words, such as `needs 512 MiB, 120 MiB free`.
    pub reason: String,
    /// The nodes it holds for, in order of id; of many, the first [`NODES_NAMED_MAX`].
    pub nodes: Vec<NodeId>,
    /// How many nodes it holds for.
    #[serde(default)]
    pub count: u32,
}

/// Nodes named per refusal at most: an explanation is stored with every pending replica, whatever the size of the cluster.
pub const NODES_NAMED_MAX: usize = 8;

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.summary)?;
        if self.remedy.is_empty() {
            Ok(())
        } else {
            write!(formatter, " ({})", self.remedy)
        }
    }
}

/// Something that happened, for `gantry events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the cluster's history; rises by one.
    pub sequence: u64,
    /// When the leader recorded it.
    pub at: Timestamp,
    /// What it is about: `replica shop/web.2`, `service shop/web`, `node alpha`.
    pub object: String,
    /// A word for filters: `running`, `failed`, `rollout_started`, `node_down`.
    pub kind: String,
    /// For people; lower case, no full stop.
    pub message: String,
}
