//! One slot of a service: who fills it, who takes over, who leaves.

use gantry_model::Timestamp;
use gantry_model::object::{Replica, Slot};
use gantry_model::phase::{Desired, Phase};
use gantry_model::spec::UpdateOrder;
use gantry_scheduler::{FILTER_HOST_PORT, FILTER_MAX_PER_NODE};

use crate::backoff;
use crate::draft::{Draft, Fate};
use crate::standing::{Standing, may_still_run, node_is_live, standing};

/// What a slot should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Goal {
    /// The revision of a replica that is made for it.
    pub(crate) revision: u32,
    /// Replicas of other revisions give way, in this order; none lets them be.
    pub(crate) replacing: Option<UpdateOrder>,
}

impl Goal {
    fn replaces(self, replica: &Replica) -> bool {
        self.replacing.is_some() && replica.revision != self.revision
    }
}

/// Whether an empty slot gets a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Now.
    Create,
    /// Not before.
    Wait(Timestamp),
    /// Not until the spec changes: the last one ended by itself.
    Rest,
}

/// An active replica that has to go, and why.
struct Leaver<'a> {
    replica: &'a Replica,
    reason: String,
    stale: bool,
}

/// The active replicas of a slot by what becomes of them.
#[derive(Default)]
struct Crew<'a> {
    stayers: Vec<&'a Replica>,
    leavers: Vec<Leaver<'a>>,
    /// On nodes that cannot be reached.
    absent: Vec<Leaver<'a>>,
}

/// Brings one slot a step closer to its goal.
pub(crate) fn settle(draft: &mut Draft<'_>, slot: Slot, goal: Goal) {
    let replicas = draft.slot(slot);
    // What cannot be reached may still run; only its node, or who removes that, can say that it does not.
    let out_of_reach = |one: &&Replica| may_still_run(draft.view, one) && !node_is_live(draft.view, one);
    if draft.is_exclusive() && replicas.iter().any(out_of_reach) {
        return;
    }
    let crew = muster(draft, &replicas, goal);
    if crew.leavers.iter().any(|leaver| leaver.stale) {
        // Whoever supersedes the rollout meanwhile may want what this plan would replace.
        draft.require_unchanged_service();
    }
    let leavers = keep_one_incumbent(draft, crew.leavers);
    let placed = crew.stayers.iter().chain(leavers.iter().map(|leaver| &leaver.replica));
    let succeeded = placed.into_iter().any(|replica| replica.node.is_some());
    end_absent(draft, &crew.absent, goal, succeeded);
    match best(&crew.stayers, goal.revision) {
        Some(keeper) => hand_over(draft, keeper, &crew.stayers, &leavers),
        None if leavers.is_empty() => fill(draft, slot, &replicas, goal),
        None => replace(draft, slot, &replicas, &leavers, goal),
    }
}

fn muster<'a>(draft: &Draft<'_>, replicas: &[&'a Replica], goal: Goal) -> Crew<'a> {
    let mut crew = Crew::default();
    for &replica in replicas.iter().filter(|replica| replica.is_active()) {
        let leaver = |reason| Leaver {
            replica,
            reason,
            stale: goal.replaces(replica),
        };
        match standing(draft, replica) {
            Standing::Down(reason) => crew.absent.push(leaver(reason)),
            Standing::Misplaced(reason) => crew.leavers.push(leaver(reason)),
            Standing::Fit if goal.replaces(replica) => {
                crew.leavers
                    .push(leaver(format!("replaced by revision {}", goal.revision)));
            }
            Standing::Fit => crew.stayers.push(replica),
        }
    }
    crew
}

/// What cannot be reached is given up once another replica has a node. Until then one may as well go on when its node comes
/// back: a cut that hides every node, or the only one that would do, must not restart everything.
fn end_absent(draft: &mut Draft<'_>, absent: &[Leaver<'_>], goal: Goal, succeeded: bool) {
    let replicas: Vec<&Replica> = absent.iter().map(|leaver| leaver.replica).collect();
    let spared = best(&replicas, goal.revision)
        .filter(|_| !succeeded)
        .map(|replica| replica.id);
    for leaver in absent.iter().filter(|leaver| Some(leaver.replica.id) != spared) {
        draft.end(leaver.replica, &leaver.reason, Fate::Stop);
    }
}

/// Of several leavers that serve, one is enough until the successor does.
fn keep_one_incumbent<'a>(draft: &mut Draft<'_>, leavers: Vec<Leaver<'a>>) -> Vec<Leaver<'a>> {
    let Some(incumbent) = leavers
        .iter()
        .find(|leaver| leaver.replica.is_endpoint())
        .map(|leaver| leaver.replica.id)
    else {
        return leavers;
    };
    let (kept, surplus): (Vec<_>, Vec<_>) = leavers
        .into_iter()
        .partition(|leaver| leaver.replica.id == incumbent || !leaver.replica.is_endpoint());
    for leaver in surplus {
        draft.retire(leaver.replica, &leaver.reason, Fate::Stop);
    }
    kept
}

/// The replica that stays when a slot has several: one that serves, of the right revision, furthest, oldest.
fn best<'a>(stayers: &[&'a Replica], revision: u32) -> Option<&'a Replica> {
    let merit = |replica: &&Replica| {
        let age = std::cmp::Reverse((replica.created_at, replica.id));
        (
            replica.is_endpoint(),
            replica.revision == revision,
            replica.observed.phase,
            age,
        )
    };
    stayers.iter().copied().max_by_key(merit)
}

fn hand_over(draft: &mut Draft<'_>, keeper: &Replica, stayers: &[&Replica], leavers: &[Leaver<'_>]) {
    for other in stayers.iter().filter(|other| other.id != keeper.id) {
        draft.retire(other, "another replica fills its slot", Fate::Stop);
    }
    // Ports and limits per node may leave no room for two at a time; then the old one has to go first.
    let (taken_over, in_the_way) = (keeper.is_endpoint(), stands_in_the_way(keeper));
    for leaver in leavers {
        let free = taken_over || !leaver.replica.is_endpoint();
        if free || (in_the_way && draft.may_disrupt(leaver.replica)) {
            draft.retire(leaver.replica, &leaver.reason, Fate::Stop);
        }
    }
}

/// Whether `successor` finds no node because of what is bound to nodes one by one, such as its predecessor's port; where the
/// slot is a node, that is whatever the node lacks.
fn stands_in_the_way(successor: &Replica) -> bool {
    let refusals = successor
        .explanation
        .iter()
        .flat_map(|explanation| &explanation.refusals);
    let bound = matches!(successor.slot, Slot::Node(_));
    let mut filters = refusals.map(|refusal| refusal.filter.as_str());
    let its_own = |filter| bound || filter == FILTER_HOST_PORT || filter == FILTER_MAX_PER_NODE;
    successor.node.is_none() && filters.any(its_own)
}

/// Nobody active in the slot.
fn fill(draft: &mut Draft<'_>, slot: Slot, replicas: &[&Replica], goal: Goal) {
    if replicas.iter().any(|replica| is_leaving(draft, replica)) {
        return;
    }
    act(draft, slot, verdict(replicas, goal, draft.view.now), goal);
}

/// Only leavers are active in the slot.
fn replace(draft: &mut Draft<'_>, slot: Slot, replicas: &[&Replica], leavers: &[Leaver<'_>], goal: Goal) {
    let stop_first = goal.replacing == Some(UpdateOrder::StopFirst) && leavers.iter().any(|leaver| leaver.stale);
    if stop_first || draft.is_exclusive() {
        for leaver in leavers {
            if draft.may_disrupt(leaver.replica) {
                draft.retire(leaver.replica, &leaver.reason, Fate::Stop);
            }
        }
        // One that never had a node leaves no trace; its successor has to be the trace that the slot's turn has come, unless one
        // that is on its way out is that trace: the successor must not run beside it.
        let unplaced = leavers.iter().all(|leaver| leaver.replica.node.is_none());
        if unplaced && !replicas.iter().any(|replica| is_leaving(draft, replica)) {
            draft.create(slot, goal.revision);
        }
        return;
    }
    let verdict = verdict(replicas, goal, draft.view.now);
    act(draft, slot, verdict, goal);
    for leaver in leavers.iter().filter(|leaver| !leaver.replica.is_endpoint()) {
        if verdict == Verdict::Create || !leaver.stale {
            draft.retire(leaver.replica, &leaver.reason, Fate::Stop);
        }
    }
}

fn act(draft: &mut Draft<'_>, slot: Slot, verdict: Verdict, goal: Goal) {
    match verdict {
        Verdict::Create => draft.create(slot, goal.revision),
        Verdict::Wait(at) => draft.wake(at),
        Verdict::Rest => {}
    }
}

/// Told to end, and still on its way.
pub(crate) fn is_leaving(draft: &Draft<'_>, replica: &Replica) -> bool {
    replica.desired > Desired::Run && replica.holds_resources() && node_is_live(draft.view, replica)
}

/// Whether to make another replica after the newest one of the slot; `replicas` oldest first.
pub(crate) fn verdict(replicas: &[&Replica], goal: Goal, now: Timestamp) -> Verdict {
    let Some(last) = replicas.last() else {
        return Verdict::Create;
    };
    if last.desired > Desired::Run {
        return Verdict::Create;
    }
    match last.observed.phase {
        Phase::Pending | Phase::Assigned | Phase::Preparing | Phase::Starting | Phase::Running => Verdict::Create,
        Phase::Stopped | Phase::Lost => Verdict::Create,
        Phase::Completed | Phase::Failed | Phase::Rejected if goal.replaces(last) => Verdict::Create,
        Phase::Completed | Phase::Failed => Verdict::Rest,
        Phase::Rejected => match backoff::retry_at(replicas) {
            Some(at) if at > now => Verdict::Wait(at),
            Some(_) | None => Verdict::Create,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::phase::Observed;
    use gantry_model::{Name, ReplicaId, ServiceId};

    fn replica(created: u64, revision: u32, desired: Desired, phase: Phase) -> Replica {
        Replica {
            id: ReplicaId(created),
            service: ServiceId(1),
            namespace: Name::new("shop").expect("a valid name"),
            service_name: Name::new("web").expect("a valid name"),
            slot: Slot::Index(1),
            revision,
            node: None,
            address: None,
            desired,
            desired_reason: String::new(),
            observed: Observed {
                phase,
                ..Observed::default()
            },
            explanation: None,
            created_at: Timestamp(created),
            assigned_at: None,
            desired_since: None,
            held: false,
        }
    }

    /// Every phase, every desire, of the same and of another revision, with and without replacement.
    #[test]
    fn a_slot_is_filled_again_unless_its_replica_ended_by_itself() {
        const DESIRES: [Desired; 4] = [Desired::Run, Desired::Drain, Desired::Stop, Desired::Remove];
        for phase in Phase::ALL {
            for desired in DESIRES {
                for (replacing, revision) in [(false, 2), (true, 2), (false, 1), (true, 1)] {
                    let goal = Goal {
                        revision: 2,
                        replacing: replacing.then_some(UpdateOrder::StopFirst),
                    };
                    let last = replica(1_000, revision, desired, phase);
                    let by_itself = desired == Desired::Run;
                    let replaced = replacing && revision == 1;
                    let expected = match phase {
                        Phase::Completed | Phase::Failed if by_itself && !replaced => Verdict::Rest,
                        Phase::Rejected if by_itself && !replaced => Verdict::Wait(Timestamp(6_000)),
                        _ => Verdict::Create,
                    };
                    let found = verdict(&[&last], goal, Timestamp(1_000));
                    assert_eq!(found, expected, "{phase} {desired:?} {goal:?} revision {revision}");
                }
            }
        }
    }

    #[test]
    fn rejected_replicas_are_tried_again_after_ever_longer_waits() {
        let goal = Goal {
            revision: 1,
            replacing: None,
        };
        let mut history = vec![replica(0, 1, Desired::Run, Phase::Rejected)];
        let mut waits = Vec::new();
        for _ in 0..9 {
            let replicas: Vec<&Replica> = history.iter().collect();
            let last = replicas.last().map_or(0, |one| one.created_at.0);
            let Verdict::Wait(at) = verdict(&replicas, goal, Timestamp(last)) else {
                panic!("it should wait");
            };
            assert_eq!(verdict(&replicas, goal, at), Verdict::Create);
            waits.push((at.0 - last) / 1000);
            history.push(replica(at.0, 1, Desired::Run, Phase::Rejected));
            history.drain(..history.len().saturating_sub(3));
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }
}
