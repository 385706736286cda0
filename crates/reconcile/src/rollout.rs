//! From one revision to another, batch by batch.
//!
//! Slots are *fresh* (never filled), *waiting* (run another revision), *in flight* (being replaced) or *settled* (the new
//! replica serves, or its failure has been counted). The next batch starts when nothing is in flight and the delay has passed;
//! the rollout is complete when nothing waits and the monitor time of the last batch has passed without too many failures.
//!
//! A canary or blue-green rollout goes through stages (see `stage`).
//!
//! **Invariant:** at most one batch of slots that served is in flight.
//! **Invariant:** a rollout ends: what does not settle within its deadline has failed (see `failures`).
//! **Invariant:** all progress is in [`Rollout`] and the replicas; batches are timed by the leader's clock.

use std::sync::Arc;

use gantry_model::object::{Replica, Rollout, RolloutKind, RolloutState, Slot};
use gantry_model::phase::Desired;
use gantry_model::spec::{FailureAction, Mode, PortSpec, ServiceSpec, UpdateConfig, UpdateOrder};
use gantry_model::{DurationMs, ServiceId, Timestamp};
use gantry_state::State;

use crate::draft::Draft;
use crate::slot::Goal;
use crate::standing::node_is_live;
use crate::{budget, failures, stage, stateful};

/// How far one slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Fresh,
    Waiting {
        serves: bool,
    },
    InFlight,
    /// The new replica is ready, without traffic yet.
    Held,
    Settled,
}

/// What each slot should come to now; advances the stored rollout on the way.
pub(crate) fn goals(draft: &mut Draft<'_>, slots: &[Slot]) -> Vec<(Slot, Goal)> {
    match draft.service.rollout.clone() {
        Some(rollout) if rollout.state == RolloutState::Running => advance(draft, slots, &rollout),
        Some(rollout) if rollout.state == RolloutState::Paused => paused_goals(draft, slots, &rollout),
        Some(_) | None => steady_goals(draft, slots),
    }
}

/// Every slot keeps what it has.
fn paused_goals(draft: &Draft<'_>, slots: &[Slot], rollout: &Rollout) -> Vec<(Slot, Goal)> {
    let fresh = if draft.has_revision(rollout.from) {
        rollout.from
    } else {
        rollout.to
    };
    let goal = |slot: &Slot| Goal {
        revision: kept_revision(draft, *slot).unwrap_or(fresh),
        replacing: None,
    };
    slots.iter().map(|slot| (*slot, goal(slot))).collect()
}

/// No rollout: the present revision everywhere. Leftovers of another one, as on a node that was away, get a rollout of their own.
fn steady_goals(draft: &mut Draft<'_>, slots: &[Slot]) -> Vec<(Slot, Goal)> {
    let to = draft.service.revision;
    let pseudo = Rollout::new(to, to, RolloutKind::Update, Timestamp::default());
    let waiting = |slot: &&Slot| matches!(progress(draft, **slot, &pseudo), Progress::Waiting { .. });
    let leftover = slots.iter().find(waiting).and_then(|slot| kept_revision(draft, *slot));
    if let Some(from) = leftover {
        let now = draft.view.now;
        // Its revision has been through all stages already.
        draft.edit_service().rollout = Some(Rollout {
            stage: u32::MAX,
            ..Rollout::new(from, to, RolloutKind::Update, now)
        });
        draft.record(
            "rollout_started",
            format!("replicas of revision {from} remain, rolling out {to}"),
        );
        draft.wake(now);
    }
    let order = Some(budget::order(draft.budget, draft.service.spec.update.order));
    let goal = |slot: &Slot| match progress(draft, *slot, &pseudo) {
        Progress::Waiting { .. } => keep(draft, *slot, to),
        Progress::Fresh | Progress::InFlight | Progress::Held | Progress::Settled => Goal {
            revision: to,
            replacing: order,
        },
    };
    slots.iter().map(|slot| (*slot, goal(slot))).collect()
}

/// One step of a running rollout.
fn advance(draft: &mut Draft<'_>, slots: &[Slot], stored: &Rollout) -> Vec<(Slot, Goal)> {
    let config = config_of(&draft.service.spec, stored.kind).clone();
    let mut rollout = stored.clone();
    let failed = failures::new_failures(draft, &rollout, stage::monitor(&rollout, &config));
    rollout.failed.extend(failed);
    let stuck = failures::stuck(draft, slots, &rollout, config.progress_deadline);
    rollout.failed.extend(stuck);
    if let Some(message) = exceeded(&rollout, &config, slots.len())
        && config.failure_action != FailureAction::Continue
    {
        give_up(draft, rollout, &config, message);
        let after = draft.edit_service().rollout.clone();
        return after.map_or_else(Vec::new, |after| paused_goals(draft, slots, &after));
    }
    let progress: Vec<(Slot, Progress)> = slots
        .iter()
        .map(|slot| (*slot, progress(draft, *slot, &rollout)))
        .collect();
    let selected = schedule(draft, &mut rollout, &progress, &config);
    let order = budget::order(draft.budget, stage::order(&config));
    let to = rollout.to;
    if rollout != *stored {
        draft.edit_service().rollout = Some(rollout);
    }
    let goal = |slot: Slot, progress: Progress| match progress {
        Progress::Waiting { .. } if !selected.contains(&slot) => keep(draft, slot, to),
        Progress::Waiting { .. } | Progress::Fresh | Progress::InFlight | Progress::Held | Progress::Settled => Goal {
            revision: to,
            replacing: Some(order),
        },
    };
    progress
        .iter()
        .map(|(slot, progress)| (*slot, goal(*slot, *progress)))
        .collect()
}

/// Decides what the moment allows: the next batch, waiting, or the end. Returns the slots of a new batch.
fn schedule(
    draft: &mut Draft<'_>,
    rollout: &mut Rollout,
    slots: &[(Slot, Progress)],
    config: &UpdateConfig,
) -> Vec<Slot> {
    let now = draft.view.now;
    if slots.iter().any(|one| is_under_way(draft, one, slots)) {
        rollout.batch_done_at = None;
        return Vec::new();
    }
    // A clock that was set back must not make the next batch wait for the time that it takes to come back.
    let ahead = rollout.batch_done_at.is_some_and(|at| at > now);
    if ahead || (rollout.batch_done_at.is_none() && has_begun(draft, rollout)) {
        rollout.batch_done_at = Some(now);
    }
    let most = stage::room(rollout, config, slots).min(stage::batch(config, slots.len()));
    let next = next_batch(slots, most, stateful::is_ordered(draft.service));
    let batch = within_budget(draft, &next, slots, stage::order(config));
    if batch.is_empty() && !next.is_empty() {
        wait_for_budget(draft, rollout, config);
        return Vec::new();
    }
    if batch.is_empty() && stage::hold(draft, rollout, config) {
        return Vec::new();
    }
    let pause = if batch.is_empty() { config.monitor } else { config.delay };
    let due = rollout.batch_done_at.map_or(now, |at| at.after(pause));
    if due > now {
        draft.wake(due);
        return Vec::new();
    }
    if batch.is_empty() {
        complete(draft, rollout);
    } else {
        rollout.batch_done_at = None;
    }
    batch
}

/// Whether a slot is being replaced, or filled for the first time. One whose turn has not come holds up nothing: it may wait
/// for the very slots that this rollout is to mend.
fn is_under_way(draft: &Draft<'_>, (slot, progress): &(Slot, Progress), slots: &[(Slot, Progress)]) -> bool {
    match progress {
        Progress::InFlight => true,
        Progress::Fresh => {
            let all: Vec<Slot> = slots.iter().map(|(slot, _)| *slot).collect();
            stateful::may_fill(draft, *slot, &all)
        }
        Progress::Waiting { .. } | Progress::Held | Progress::Settled => false,
    }
}

/// Slots that serve nobody first, since replacing them costs nothing; then in order. Slots that start one after the other are
/// replaced from the highest down, as in Kubernetes: the first one is the least dispensable.
fn next_batch(slots: &[(Slot, Progress)], most: usize, highest_first: bool) -> Vec<Slot> {
    let waiting = slots.iter().filter_map(|(slot, progress)| match progress {
        Progress::Waiting { serves } => Some((*serves, *slot)),
        Progress::Fresh | Progress::InFlight | Progress::Held | Progress::Settled => None,
    });
    let mut waiting: Vec<(bool, Slot)> = waiting.collect();
    waiting.sort_unstable();
    if highest_first {
        waiting.sort_by_key(|(serves, slot)| (*serves, std::cmp::Reverse(*slot)));
    }
    waiting.into_iter().take(most).map(|(_, slot)| slot).collect()
}

/// As many of the next slots as the disruption budget lets go: those that serve nobody, and those whose successor starts first,
/// cost nothing.
fn within_budget(draft: &Draft<'_>, next: &[Slot], slots: &[(Slot, Progress)], order: UpdateOrder) -> Vec<Slot> {
    let mut left = match (draft.budget_left(), budget::order(draft.budget, order)) {
        (Some(left), UpdateOrder::StopFirst) => left,
        (Some(_) | None, _) => return next.to_vec(),
    };
    let serves = |slot: &Slot| slots.contains(&(*slot, Progress::Waiting { serves: true }));
    let mut goes = |slot: &&Slot| {
        let costs = u32::from(serves(slot));
        let goes = costs <= left;
        left -= if goes { costs } else { 0 };
        goes
    };
    next.iter().filter(|slot| goes(slot)).copied().collect()
}

/// Too much is away already, for whatever reason; it may come back. After the progress deadline a person has to look.
fn wait_for_budget(draft: &mut Draft<'_>, rollout: &mut Rollout, config: &UpdateConfig) {
    if config.progress_deadline == DurationMs::ZERO {
        return;
    }
    let since = rollout.batch_done_at.unwrap_or(rollout.started_at);
    let due = since
        .max(rollout.resumed_at.unwrap_or_default())
        .after(config.progress_deadline);
    if due > draft.view.now {
        draft.wake(due);
        return;
    }
    let why = budget::exhausted(draft.view.state, draft.service);
    rollout.message = why.unwrap_or_else(|| "its disruption budget lets no replica go".to_string());
    rollout.state = RolloutState::Paused;
    rollout.ended_at = Some(draft.view.now);
    draft.record("rollout_paused", rollout.message.clone());
}

fn complete(draft: &mut Draft<'_>, rollout: &mut Rollout) {
    rollout.state = RolloutState::Completed;
    rollout.ended_at = Some(draft.view.now);
    let message = match rollout.failed.len() {
        0 => format!("revision {} is rolled out", rollout.to),
        failed => format!(
            "revision {} is rolled out, {failed} replica(s) failed on the way",
            rollout.to
        ),
    };
    draft.record("rollout_completed", message);
}

/// Whether a replica of the new revision was made for this rollout already.
fn has_begun(draft: &Draft<'_>, rollout: &Rollout) -> bool {
    let replicas = draft.replicas();
    replicas
        .iter()
        .any(|one| one.revision == rollout.to && one.created_at >= rollout.started_at)
}

pub(crate) fn progress(draft: &Draft<'_>, slot: Slot, rollout: &Rollout) -> Progress {
    let replicas = draft.slot(slot);
    let Some(last) = replicas.last() else {
        return Progress::Fresh;
    };
    let is_new = |one: &&&Replica| {
        let counts = one.is_active() || one.created_at >= rollout.started_at;
        one.revision == rollout.to && one.desired == Desired::Run && counts
    };
    if let Some(new) = replicas.iter().rev().find(is_new) {
        let known = rollout.failed.contains(&new.id) || new.created_at < rollout.started_at;
        let ended = new.observed.phase.is_terminal();
        let in_the_way = |one: &Replica| is_old_and_alive(draft, one, rollout.to) && !rollout.failed.contains(&one.id);
        let alone = !replicas.iter().any(|one| in_the_way(one));
        if new.held && new.is_ready() && !known {
            return Progress::Held;
        }
        return if ended || known || (new.is_endpoint() && alone) {
            Progress::Settled
        } else {
            Progress::InFlight
        };
    }
    let stale: Vec<&&Replica> = replicas.iter().filter(|one| one.is_active()).collect();
    let at_rest = last.desired == Desired::Run && last.revision != rollout.to;
    if !stale.is_empty() || at_rest {
        return Progress::Waiting {
            serves: stale
                .iter()
                .any(|one| one.is_endpoint() && node_is_live(draft.view, one)),
        };
    }
    match last.desired {
        Desired::Run => Progress::Settled,
        Desired::Drain | Desired::Stop | Desired::Remove if rollout.failed.contains(&last.id) => Progress::Settled,
        Desired::Drain | Desired::Stop | Desired::Remove => Progress::InFlight,
    }
}

pub(crate) fn is_old_and_alive(draft: &Draft<'_>, replica: &Replica, to: u32) -> bool {
    replica.revision != to && replica.holds_resources() && node_is_live(draft.view, replica)
}

/// The revision of what the slot runs, or ran last, as long as its spec is kept.
fn kept_revision(draft: &Draft<'_>, slot: Slot) -> Option<u32> {
    let replicas = draft.slot(slot);
    let active = replicas.iter().rev().find(|one| one.is_active());
    let last = active.or(replicas.last())?;
    draft.has_revision(last.revision).then_some(last.revision)
}

fn keep(draft: &Draft<'_>, slot: Slot, otherwise: u32) -> Goal {
    Goal {
        revision: kept_revision(draft, slot).unwrap_or(otherwise),
        replacing: None,
    }
}

/// The settings that rule a rollout of this kind.
pub(crate) fn config_of(spec: &ServiceSpec, kind: RolloutKind) -> &UpdateConfig {
    match kind {
        RolloutKind::Update => &spec.update,
        RolloutKind::Rollback => &spec.rollback,
    }
}

/// Why the rollout has failed, if more than the allowed part of its replicas did.
fn exceeded(rollout: &Rollout, config: &UpdateConfig, slots: usize) -> Option<String> {
    let failed = rollout.failed.len().saturating_sub(rollout.forgiven as usize);
    let allowed = config.max_failure_permille as usize * slots;
    (failed * 1000 > allowed).then(|| {
        let settled = if slots == 1 { "replica" } else { "replicas" };
        format!("{failed} of {slots} {settled} failed with revision {}", rollout.to)
    })
}

/// Pauses the rollout, or starts the way back.
fn give_up(draft: &mut Draft<'_>, mut rollout: Rollout, config: &UpdateConfig, message: String) {
    let now = draft.view.now;
    draft.wake(now);
    let possible =
        rollout.kind == RolloutKind::Update && rollout.from != rollout.to && draft.has_revision(rollout.from);
    if config.failure_action == FailureAction::Rollback && possible {
        let message = format!("{message}, rolling back to revision {}", rollout.from);
        draft.record("rollback_started", message.clone());
        roll_back(draft, &rollout, message);
        return;
    }
    draft.record("rollout_paused", message.clone());
    rollout.state = RolloutState::Paused;
    rollout.ended_at = Some(now);
    rollout.message = message;
    draft.edit_service().rollout = Some(rollout);
}

fn roll_back(draft: &mut Draft<'_>, failed: &Rollout, message: String) {
    let now = draft.view.now;
    let begins_at = way_back_begins(draft.view.state, draft.service.id, now);
    let mut spec = (*draft.spec_of(failed.from)).clone();
    let service = draft.edit_service();
    spec.mode = keep_scale(spec.mode, service.spec.mode);
    service.ports = keep_numbers(&spec.ports, &service.ports);
    service.spec = Arc::new(spec);
    service.revision = failed.from;
    service.updated_at = now;
    let back = Rollout::new(failed.to, failed.from, RolloutKind::Rollback, begins_at);
    service.rollout = Some(Rollout { message, ..back });
}

/// When a rollout to a former revision begins: by the clock, but after all replicas of the service were made, so that it is
/// not judged by those that the revision had before.
#[must_use]
pub fn way_back_begins(state: &State, service: ServiceId, now: Timestamp) -> Timestamp {
    let made = state.replicas_of(service).map(|one| Timestamp(one.created_at.0 + 1));
    made.fold(now, Timestamp::max)
}

/// Scaling is not part of a revision: the way back keeps the present count.
fn keep_scale(former: Mode, present: Mode) -> Mode {
    match (former, present) {
        (Mode::Replicated { .. }, Mode::Replicated { replicas }) => Mode::Replicated { replicas },
        (Mode::ReplicatedJob { .. }, Mode::ReplicatedJob { .. }) => present,
        (Mode::Replicated { .. } | Mode::ReplicatedJob { .. } | Mode::Global | Mode::GlobalJob, _) => former,
    }
}

/// Ports published automatically keep their number.
fn keep_numbers(ports: &[PortSpec], numbered: &[PortSpec]) -> Vec<PortSpec> {
    let number = |port: &PortSpec| {
        let same =
            |one: &&PortSpec| one.target == port.target && one.protocol == port.protocol && one.mode == port.mode;
        port.published.or_else(|| numbered.iter().find(same)?.published)
    };
    let with_number = |port: &PortSpec| PortSpec {
        published: number(port),
        ..port.clone()
    };
    ports.iter().map(with_number).collect()
}
