//! What a user sees when something cannot be done: the object, the reason, and the next thing to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The small vocabulary of failure; `rpc` maps it to gRPC codes and `cli` to exit codes, each in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The input is wrong; trying again without changing it is useless.
    Invalid,
    /// The object does not exist.
    NotFound,
    /// The object changed meanwhile or is already there; read again and decide anew.
    Conflict,
    /// Who asks is not known or not allowed.
    Denied,
    /// A limit, quota or pool is used up.
    Exhausted,
    /// Not now (no leader, no quorum, node away); trying again may help.
    Unavailable,
    /// A deadline passed; whether it was done is not known.
    Timeout,
    /// A defect of Gantry or damage to its data.
    Internal,
}

/// A failed operation as a person should read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Problem {
    /// What kind of failure.
    pub class: Class,
    /// What it is about, such as `service shop/web` or `node alpha`.
    pub object: String,
    /// Why: lower case, no full stop.
    pub reason: String,
    /// The next thing to do, empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Problem {
    /// A problem without a remedy; add one with [`Problem::remedy`].
    pub fn new(class: Class, object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            class,
            object: object.into(),
            reason: reason.into(),
            remedy: String::new(),
        }
    }

    /// Adds the next thing to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object.is_empty() {
            formatter.write_str(&self.reason)?;
        } else {
            write!(formatter, "{}: {}", self.object, self.reason)?;
        }
        if self.remedy.is_empty() {
            return Ok(());
        }
        write!(formatter, " ({})", self.remedy)
    }
}
