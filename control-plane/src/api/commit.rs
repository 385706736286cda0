//! Decide on a linearizable view, commit, and decide again when what it was decided on has changed.

use gantry_model::{Class, Problem};
use gantry_state::{Key, Outcome, Precondition, State};

use crate::context::Context;
use gantry_leader::admission::Decision;

/// How often a decision is made anew before giving up: each refusal means that another write got through, so somebody makes
/// progress; more than this many in a row means a hot object.
const ATTEMPTS_MAX: usize = 16;

/// What was committed.
#[derive(Debug)]
pub struct Committed {
    /// The decision that got through.
    pub decision: Decision,
    /// The revision it made, or that it was read at when there was nothing to write.
    pub revision: u64,
}

impl Context {
    /// Commits what `decide` decides.
    ///
    /// # Errors
    /// What `decide` or the write reports; [`Class::Conflict`] when other writes were faster every time.
    pub async fn commit<F>(&self, mut decide: F) -> Result<Committed, Problem>
    where
        F: FnMut(&State) -> Result<Decision, Problem>,
    {
        let mut last = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let state = self.raft.linearizable().await?;
            let decision = decide(&state)?;
            if decision.transaction.ops.is_empty() {
                return Ok(Committed {
                    decision,
                    revision: state.revision(),
                });
            }
            match self.raft.propose(decision.transaction.clone()).await?.outcome {
                Outcome::Committed { revision } => return Ok(Committed { decision, revision }),
                Outcome::Refused(refusal) => last = refusal.to_string(),
            }
        }
        Err(Problem::new(Class::Conflict, "", format!("{last}, {ATTEMPTS_MAX} times in a row")).remedy("try again"))
    }
}

/// That an object still is as this view has it.
pub(crate) fn unchanged(state: &State, key: Key) -> Precondition {
    match state.modified(&key) {
        0 => Precondition::Absent(key),
        modified => Precondition::Unchanged { key, modified },
    }
}
