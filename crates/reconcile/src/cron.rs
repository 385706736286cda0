//! Cron jobs: each run is a service of its own, a job named after the time it was due.
//!
//! **Invariant:** a time is run at most once: its name is taken, and the cron job's record moves on in the same transaction.
//! **Invariant:** runs that were missed while there was no leader are made up for by one run, the latest.

use std::sync::Arc;

use gantry_model::object::{JobStatus, RevisionRecord, Service, ServiceNetwork};
use gantry_model::spec::{Concurrency, CronSpec, EndpointMode, ServiceSpec};
use gantry_model::{NAME_LENGTH_MAX, Name, QualifiedName, ServiceId, Timestamp};
use gantry_state::{Key, Object, Op, Precondition, State};

use crate::calendar::{latest_run, next_run, stamp};
use crate::draft::Draft;

/// Characters of the time and its dash in the name of a run.
const STAMP_LENGTH: usize = 13;

/// The runs of a cron job that are kept, oldest first.
pub(crate) fn runs(state: &State, service: &Service) -> Vec<Service> {
    let own = |one: &&Service| one.owner == Some(service.id) && !one.deleting;
    let mut runs: Vec<Service> = state.services_in(&service.namespace).filter(own).cloned().collect();
    runs.sort_by_key(|run| (run.created_at, run.id));
    runs
}

/// Starts the run that is due, and forgets old ones.
pub(crate) fn run(draft: &mut Draft<'_>, cron: &CronSpec) {
    let runs = runs(draft.view.state, draft.service);
    note_success(draft, &runs);
    reap(draft, cron, &runs);
    if cron.suspend {
        return;
    }
    let now = draft.view.now;
    // A change of the spec starts anew: what another schedule, or a suspension, left out is not made up for.
    let since = draft
        .service
        .job
        .last_due
        .unwrap_or_default()
        .max(draft.service.updated_at);
    if let Some(due) = latest_run(cron, since, now) {
        meet(draft, cron, due, &runs);
    }
    if let Some(next) = next_run(cron, now) {
        draft.wake(next);
    }
}

/// The time has come: a run is started or, for a reason that is recorded, not.
fn meet(draft: &mut Draft<'_>, cron: &CronSpec, due: Timestamp, runs: &[Service]) {
    draft.edit_service().job.last_due = Some(due);
    let late = draft.view.now.since(due);
    if cron.starting_deadline.is_some_and(|deadline| late > deadline) {
        draft.record("run_missed", format!("it was due {late} ago, later than it may start"));
        return;
    }
    let active: Vec<&Service> = runs.iter().filter(|run| run.job.ended.is_none()).collect();
    match cron.concurrency {
        Concurrency::Forbid if !active.is_empty() => {
            let names: Vec<&str> = active.iter().map(|run| run.name.as_str()).collect();
            draft.record("run_skipped", format!("{} has not ended", names.join(", ")));
            return;
        }
        Concurrency::Replace => active.iter().for_each(|run| delete(draft, run)),
        Concurrency::Allow | Concurrency::Forbid => {}
    }
    start(draft, due);
}

fn start(draft: &mut Draft<'_>, due: Timestamp) {
    let Some(name) = run_name(&draft.service.name, due) else {
        return;
    };
    let namespace = draft.service.namespace.clone();
    if draft.view.state.service_named(&namespace, &name).is_some() {
        draft.record("run_skipped", format!("a service has its name, {name}"));
        return;
    }
    let run = cron_run(draft.service, draft.fresh_service_id(), name.clone(), draft.view.now);
    draft.record("run_started", name.to_string());
    run.require.into_iter().for_each(|condition| draft.require(condition));
    run.ops.into_iter().for_each(|op| draft.push(op));
}

/// A run of a cron job, to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronRun {
    /// Its id and its name are not in use.
    pub require: Vec<Precondition>,
    /// Puts the run and its revision.
    pub ops: Vec<Op>,
}

/// A run of `service` under its own id and name.
#[must_use]
pub fn cron_run(service: &Service, id: ServiceId, name: Name, now: Timestamp) -> CronRun {
    let spec = Arc::new(run_spec(&service.spec));
    let networks = service.networks.keys();
    let networks = networks
        .map(|network| (network.clone(), ServiceNetwork::default()))
        .collect();
    let qualified = QualifiedName {
        namespace: service.namespace.clone(),
        name: name.clone(),
    };
    let revision = RevisionRecord {
        service: id,
        number: 1,
        spec: spec.clone(),
        created_at: now,
        cause: format!("run of {}", service.name),
    };
    let run = Service {
        id,
        namespace: service.namespace.clone(),
        name,
        spec,
        revision: 1,
        networks,
        ports: Vec::new(),
        rollout: None,
        deleting: false,
        owner: Some(service.id),
        job: JobStatus::default(),
        created_at: now,
        updated_at: now,
    };
    CronRun {
        require: vec![
            Precondition::Absent(Key::Service(id)),
            Precondition::ServiceNameFree(qualified),
        ],
        ops: vec![
            Op::Put(Box::new(Object::Revision(revision))),
            Op::Put(Box::new(Object::Service(run))),
        ],
    }
}

/// A run is reached by nobody: it has neither a virtual address nor ports.
fn run_spec(spec: &ServiceSpec) -> ServiceSpec {
    ServiceSpec {
        cron: None,
        ports: Vec::new(),
        endpoint_mode: EndpointMode::Dnsrr,
        ..spec.clone()
    }
}

/// The name of the run for a time: `backup-202611231500`. Names are ASCII, so any cut is a character's.
#[must_use]
pub fn run_name(service: &Name, due: Timestamp) -> Option<Name> {
    let text = service.as_str();
    let base = text.get(..text.len().min(NAME_LENGTH_MAX - STAMP_LENGTH))?;
    Name::new(format!("{base}-{}", stamp(due))).ok()
}

fn note_success(draft: &mut Draft<'_>, runs: &[Service]) {
    let succeeded = runs.iter().filter_map(|run| run.job.ended.as_ref());
    let last = succeeded.filter(|end| end.failure.is_none()).map(|end| end.at).max();
    if last > draft.service.job.last_success {
        draft.edit_service().job.last_success = last;
    }
}

/// Forgets the oldest runs beyond the kept history.
fn reap(draft: &mut Draft<'_>, cron: &CronSpec, runs: &[Service]) {
    for (failed, kept) in [(false, cron.history_succeeded), (true, cron.history_failed)] {
        let alike = |run: &&Service| {
            run.job
                .ended
                .as_ref()
                .is_some_and(|end| end.failure.is_some() == failed)
        };
        let ended: Vec<&Service> = runs.iter().filter(alike).collect();
        let surplus = ended.len().saturating_sub(kept as usize);
        ended.into_iter().take(surplus).for_each(|run| delete(draft, run));
    }
}

/// Deletes a run, its replicas first.
pub(crate) fn delete(draft: &mut Draft<'_>, run: &Service) {
    let key = Key::Service(run.id);
    draft.require(Precondition::Unchanged {
        modified: draft.view.state.modified(&key),
        key,
    });
    let mut run = run.clone();
    run.deleting = true;
    draft.push(Op::Put(Box::new(Object::Service(run))));
}

/// The cron job that a run belongs to.
pub(crate) fn owner(state: &State, service: &Service) -> Option<ServiceId> {
    service.owner.filter(|owner| state.service(*owner).is_some())
}
