//! How far a service is from what its spec says.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::object::{NodeStatus, Replica, Rollout, RolloutKind, RolloutState, Service, Slot};
use gantry_model::phase::{Desired, Phase};
use gantry_model::spec::CronSpec;
use gantry_model::{NodeId, ServiceId};
use gantry_state::State;

use crate::{plan, stage};

/// The progress of a service, for those who wait for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Replicas wanted; of a job, completions.
    pub wanted: u32,
    /// Slots with a replica that serves; of a job, completed ones.
    pub ready: u32,
    /// Of these, slots with the present revision.
    pub updated: u32,
    /// One line for people: what it waits for, or why it failed.
    pub message: String,
    /// Nothing is left to do, unless a person decides to go on with a canary.
    pub done: bool,
    /// Waiting longer is useless without a change by a person.
    pub failed: bool,
}

/// How far the service is; one that is gone is done.
#[must_use]
pub fn converged(state: &State, service: ServiceId) -> Progress {
    let Some(service) = state.service(service) else {
        return Progress {
            message: "deleted".to_string(),
            done: true,
            ..Progress::default()
        };
    };
    if service.deleting {
        let left = state.replicas_of(service.id).count();
        return Progress {
            message: format!("being deleted, {left} replica(s) left"),
            ..Progress::default()
        };
    }
    progress_of(state, service)
}

fn progress_of(state: &State, service: &Service) -> Progress {
    let slots = plan::wanted(state, service).slots;
    let replicas: Vec<&Replica> = state.replicas_of(service.id).collect();
    let live = |one: &Replica| one.node.is_some_and(|node| is_live(state, node));
    let counts = |replica: &Replica| {
        let completed = replica.observed.phase == Phase::Completed;
        if service.spec.mode.is_job() {
            completed
        } else {
            replica.is_endpoint() && live(replica)
        }
    };
    let filled = |current_only: bool| {
        let fills = |one: &&&Replica| counts(one) && (!current_only || one.revision == service.revision);
        let filled: BTreeSet<Slot> = replicas.iter().filter(fills).map(|one| one.slot).collect();
        u32::try_from(filled.intersection(&slots).count()).unwrap_or(u32::MAX)
    };
    let wanted = u32::try_from(slots.len()).unwrap_or(u32::MAX);
    let (ready, updated) = (filled(false), filled(true));
    let at_rest = rests(service, &replicas, &slots);
    let rollout = service.rollout.as_ref();
    let rolling = rollout.is_some_and(Rollout::is_running);
    // What is on a node that is away cannot be waited for.
    let leaving = replicas
        .iter()
        .any(|one| is_surplus(one, &slots) && one.holds_resources() && live(one));
    let finished = if service.spec.mode.is_job() {
        updated
    } else {
        updated.saturating_add(at_rest.completed)
    };
    let failed = (at_rest.failed > 0 || job_failure(service).is_some()) && !rolling;
    Progress {
        wanted,
        ready,
        updated,
        done: (finished >= wanted && !rolling && !leaving && !is_paused(rollout)) || stage::awaits(service).is_some(),
        failed: is_paused(rollout) || rolled_back(rollout) || failed,
        message: message(service, &replicas, wanted, updated),
    }
}

/// Slots whose newest replica ended by itself and will not be replaced.
#[derive(Default)]
struct AtRest {
    completed: u32,
    failed: u32,
}

fn rests(service: &Service, replicas: &[&Replica], slots: &BTreeSet<Slot>) -> AtRest {
    let mut newest: BTreeMap<Slot, &Replica> = BTreeMap::new();
    for one in replicas.iter().filter(|one| slots.contains(&one.slot)) {
        let last = newest.entry(one.slot).or_insert(one);
        if (one.created_at, one.id) > (last.created_at, last.id) {
            *last = one;
        }
    }
    let mut rests = AtRest::default();
    for last in newest.values() {
        let current = last.desired == Desired::Run && last.revision == service.revision;
        rests.completed += u32::from(current && last.observed.phase == Phase::Completed);
        rests.failed += u32::from(current && last.observed.phase == Phase::Failed);
    }
    rests
}

fn is_live(state: &State, node: NodeId) -> bool {
    state.node(node).is_some_and(|node| node.status == NodeStatus::Ready)
}

fn is_surplus(replica: &Replica, slots: &BTreeSet<Slot>) -> bool {
    replica.desired > Desired::Run || !slots.contains(&replica.slot)
}

/// Why the job has failed for good, in its present revision.
fn job_failure(service: &Service) -> Option<&str> {
    let present = Some(&service.job).filter(|job| job.revision == service.revision);
    present?.ended.as_ref()?.failure.as_deref()
}

fn is_paused(rollout: Option<&Rollout>) -> bool {
    rollout.is_some_and(|rollout| rollout.state == RolloutState::Paused)
}

/// A rollback with a message was not asked for: it is how an update failed.
fn rolled_back(rollout: Option<&Rollout>) -> bool {
    rollout.is_some_and(|rollout| rollout.kind == RolloutKind::Rollback && !rollout.message.is_empty())
}

fn message(service: &Service, replicas: &[&Replica], wanted: u32, updated: u32) -> String {
    if let Some(rollout) = &service.rollout
        && !rollout.message.is_empty()
    {
        return rollout.message.clone();
    }
    if let Some(stage) = stage::awaits(service) {
        return stage;
    }
    if let Some(cron) = &service.spec.cron {
        return by_the_clock(cron);
    }
    if let Some(failure) = job_failure(service) {
        return format!("the job failed: {failure}");
    }
    let mut newest_first: Vec<&&Replica> = replicas.iter().filter(|one| one.desired == Desired::Run).collect();
    newest_first.sort_by_key(|one| std::cmp::Reverse((one.created_at, one.id)));
    let trouble = newest_first.iter().find_map(|one| trouble(one));
    let count = format!(
        "{updated} of {wanted} {}",
        if service.spec.mode.is_job() {
            "completed"
        } else {
            "ready"
        }
    );
    match trouble {
        Some(trouble) if updated < wanted => format!("{count}; {trouble}"),
        Some(_) | None => count,
    }
}

fn by_the_clock(cron: &CronSpec) -> String {
    let suspended = if cron.suspend { ", suspended" } else { "" };
    format!("runs at '{}' {}{suspended}", cron.schedule, cron.time_zone)
}

/// What keeps a replica from serving, in a few words.
pub(crate) fn trouble(replica: &Replica) -> Option<String> {
    let observed = &replica.observed;
    let name = replica.name();
    match observed.phase {
        Phase::Pending => replica
            .explanation
            .as_ref()
            .map(|why| format!("{name}: {}", why.summary)),
        Phase::Failed | Phase::Rejected | Phase::Lost => {
            Some(format!("{name}: {} {}", observed.phase, observed.message))
        }
        Phase::Assigned | Phase::Preparing | Phase::Starting if !observed.message.is_empty() => {
            Some(format!("{name}: {}", observed.message))
        }
        Phase::Running if !observed.ready && !observed.message.is_empty() => {
            Some(format!("{name}: {}", observed.message))
        }
        Phase::Assigned | Phase::Preparing | Phase::Starting | Phase::Running => None,
        Phase::Completed | Phase::Stopped => None,
    }
    .map(|text| text.trim_end().to_string())
}
