//! What is written: a batch of operations under preconditions.

use std::net::Ipv4Addr;

use gantry_model::explain::Explanation;
use gantry_model::object::ImageRecord;
use gantry_model::phase::{Desired, Observed};
use gantry_model::{NodeId, ReplicaId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Key, Object};

/// One entry of the log. It carries every time and id it needs: applying it reads no clock and makes nothing up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The proposer's wall clock, recorded in events.
    pub at: Timestamp,
    /// All must hold, or nothing is done.
    #[serde(default)]
    pub require: Vec<Precondition>,
    /// Done in this order.
    pub ops: Vec<Op>,
}

/// What must be true for a transaction to take effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// There is no such object.
    Absent(Key),
    /// The object is there, last modified at that revision.
    Unchanged {
        /// The object.
        key: Key,
        /// [`crate::Stored::modified`] of the view that the proposer decided on.
        modified: u64,
    },
    /// The entry is committed in this Raft term: the write of a leader that has been deposed meanwhile is refused.
    Term(u64),
    /// No service of that name exists in the namespace.
    ServiceNameFree(gantry_model::QualifiedName),
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Creates or replaces an object. A replica can only be created this way, never replaced.
    Put(Box<Object>),
    /// Removes an object, if it is there.
    Delete(Key),
    /// Places a pending replica; ignored if it is placed already, or gone.
    Assign {
        /// The replica.
        replica: ReplicaId,
        /// Where it is to run.
        node: NodeId,
        /// Its address.
        address: Ipv4Addr,
        /// Why there.
        explanation: Option<Explanation>,
    },
    /// Raises what is desired of a replica; ignored if it would lower it.
    Desire {
        /// The replica.
        replica: ReplicaId,
        /// What is wanted now.
        desired: Desired,
        /// Why.
        reason: String,
    },
    /// Raises what is desired of a replica that cannot be reached; ignored if it would lower it, and if the node has come back
    /// since: what it runs may serve again, and is to leave by the way that spares its traffic.
    GiveUp {
        /// The replica.
        replica: ReplicaId,
        /// What is wanted now.
        desired: Desired,
        /// Why.
        reason: String,
        /// Since when its node was down.
        down_since: Timestamp,
    },
    /// Lets a replica that was held back get traffic.
    Admit {
        /// The replica.
        replica: ReplicaId,
    },
    /// Takes over an agent's report, if it is newer.
    Observe {
        /// The replica.
        replica: ReplicaId,
        /// The report.
        observed: Observed,
    },
    /// Says why a replica is still pending.
    Explain {
        /// The replica.
        replica: ReplicaId,
        /// Why; `None` when nothing stands in its way any more.
        explanation: Option<Explanation>,
    },
    /// A node holds all of an image; the record is made when it is the first.
    Hold {
        /// The image; of the nodes it names, only whether `node` is among its keepers counts.
        image: Box<ImageRecord>,
        /// Who holds it.
        node: NodeId,
    },
    /// A node holds an image no more; the record goes with the last one.
    Release {
        /// The image's manifest digest.
        digest: String,
        /// Who held it.
        node: NodeId,
    },
    /// A node's lease has run out; ignored unless it still is as the leader saw it: gone, down already, or taken in anew since.
    /// Nothing else of its record is touched, which a person may have changed meanwhile.
    TakeDown {
        /// The node.
        node: NodeId,
        /// Since when it was ready.
        ready_since: Timestamp,
    },
    /// Records something that happened.
    Record(NewEvent),
}

/// An event to be recorded; its number and time come from the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEvent {
    /// What it is about.
    pub object: String,
    /// A word for filters.
    pub kind: String,
    /// For people.
    pub message: String,
}

impl NewEvent {
    /// An event from its three parts.
    pub fn new(object: impl Into<String>, kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            kind: kind.into(),
            message: message.into(),
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It took effect.
    Committed {
        /// The revision it made: its index in the log.
        revision: u64,
    },
    /// It changed nothing.
    Refused(Refusal),
}

/// Why a transaction was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// An object is there that should not be.
    #[error("{0} exists already")]
    Exists(Key),
    /// An object is gone.
    #[error("{0} does not exist any more")]
    Gone(Key),
    /// An object changed since it was read.
    #[error("{0} was changed meanwhile")]
    Changed(Key),
    /// The proposer is no longer leader.
    #[error("written in term {wanted}, committed in term {actual}")]
    Term {
        /// The proposer's term.
        wanted: u64,
        /// The entry's term.
        actual: u64,
    },
    /// The service name is taken.
    #[error("service {0} exists already")]
    NameTaken(gantry_model::QualifiedName),
}

impl Transaction {
    /// A transaction without preconditions.
    #[must_use]
    pub fn new(at: Timestamp, ops: Vec<Op>) -> Self {
        Self {
            at,
            require: Vec::new(),
            ops,
        }
    }

    /// Adds a precondition.
    #[must_use]
    pub fn requiring(mut self, precondition: Precondition) -> Self {
        self.require.push(precondition);
        self
    }
}
