//! What is forgotten: old replicas of a slot, records of removed nodes, revisions that nothing runs.

use std::collections::BTreeSet;

use gantry_model::object::{HISTORY_REVISIONS, Replica};
use gantry_model::phase::{Desired, Phase};
use gantry_state::{Key, Op};

use crate::draft::{Draft, Fate};
use crate::plan::Wanted;

/// Ended replicas kept per slot, as in Swarm (`task-history-limit`).
pub const HISTORY_PER_SLOT: usize = 5;

/// Forgets what is beyond the limits.
pub(crate) fn reap(draft: &mut Draft<'_>, wanted: &Wanted) {
    reap_slots(draft, wanted);
    reap_orphans(draft);
    reap_revisions(draft);
}

fn reap_slots(draft: &mut Draft<'_>, wanted: &Wanted) {
    for &slot in &wanted.slots {
        let replicas = draft.slot(slot);
        let current = replicas
            .last()
            .filter(|last| last.desired == Desired::Run)
            .map(|last| last.id);
        let ended = replicas
            .iter()
            .rev()
            .filter(|one| one.observed.phase.is_terminal() && Some(one.id) != current && one.desired < Desired::Remove)
            .filter(|one| !counts_as_failure(draft, one));
        for old in ended.skip(HISTORY_PER_SLOT).collect::<Vec<_>>() {
            draft.end(old, "older than the kept history of its slot", Fate::Remove);
        }
    }
}

/// What a job's back-off limit still counts is kept.
fn counts_as_failure(draft: &Draft<'_>, replica: &Replica) -> bool {
    let limited = draft.service.spec.job.backoff_limit.is_some();
    let failed = replica.observed.phase == Phase::Failed || replica.observed.restarts > 0;
    limited && failed && replica.revision == draft.service.revision
}

/// Nobody will report the end of a replica that never had a node, or whose node is gone.
pub(crate) fn reap_orphans(draft: &mut Draft<'_>) {
    for replica in draft.replicas() {
        let node_known = replica.node.is_some_and(|node| draft.view.state.node(node).is_some());
        let never_placed = replica.node.is_none() && replica.desired > Desired::Run;
        let node_gone = replica.node.is_some() && !node_known && replica.desired == Desired::Remove;
        if never_placed || node_gone {
            draft.forget(replica);
        }
    }
}

fn reap_revisions(draft: &mut Draft<'_>) {
    let numbers: Vec<u32> = draft
        .view
        .state
        .revisions_of(draft.service.id)
        .map(|one| one.number)
        .collect();
    let old = numbers.len().saturating_sub(HISTORY_REVISIONS);
    if old == 0 {
        return;
    }
    let mut used: BTreeSet<u32> = draft.replicas().iter().map(|replica| replica.revision).collect();
    used.insert(draft.service.revision);
    if let Some(rollout) = &draft.service.rollout {
        used.extend([rollout.from, rollout.to]);
    }
    for number in numbers.into_iter().take(old).filter(|number| !used.contains(number)) {
        draft.require_unchanged_service();
        draft.push(Op::Delete(Key::Revision(draft.service.id, number)));
    }
}
