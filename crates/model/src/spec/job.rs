//! Work that ends: how often it may fail, how long it may take, what stays of it.
//!
//! **Guarantee:** a slot of a job never has two replicas that may run at a time while its node can be reached. When a node
//! cannot be reached its work is started elsewhere, and may then run twice: an agent that is cut off goes on. A slot whose
//! completion was not reported before its node was lost is run again. A job that must not has to be idempotent, or `exclusive`.

use serde::{Deserialize, Serialize};

use crate::DurationMs;

/// Limits of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The job has failed once its containers failed more often than this, all slots together; none never gives up for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_limit: Option<u32>,
    /// The job has failed when it is not complete after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DurationMs>,
    /// The job is deleted this long after it ended; none keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationMs>,
}

impl JobSpec {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
