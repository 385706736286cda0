//! Replicas that are not interchangeable.

use serde::{Deserialize, Serialize};

/// How the slots of a stateful service relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stateful {
    /// In which order slots start and stop.
    pub start: StartOrder,
    /// A slot has one replica at most that may run, whatever the network does: one whose node cannot be reached is replaced only
    /// when the node was removed, or said itself that the replica has ended.
    #[serde(default)]
    pub exclusive: bool,
}

/// In which order slots start and stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartOrder {
    /// Each slot starts when all lower ones serve, and stops when all higher ones are gone; rollouts go from the highest down.
    Ordered,
    /// All at once.
    Parallel,
}
