//! How far a service has come: the judgement behind `--wait`.

use gantry_model::object::{Replica, RolloutKind, RolloutState, Service};
use gantry_model::phase::Phase;
use gantry_model::spec::Mode;

use super::rollout::awaits;

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// For people: `2/3 ready, 1 starting`.
    pub text: String,
    /// Whether to wait on.
    pub state: State,
}

/// Whether to wait on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is as wanted.
    Converged,
    /// It is on its way.
    Going,
    /// It stopped on its way, for this reason.
    Failed(String),
}

#[derive(Debug, Default)]
struct Counts {
    ready: u32,
    completed: u32,
    failed: u32,
    pending: u32,
    preparing: u32,
    starting: u32,
    unready: u32,
    /// Still wanted, of another revision.
    old: u32,
    /// Still there, but not wanted any more.
    stopping: u32,
}

/// Judges a service by its replicas; `expected` is the revision that was asked for.
pub fn assess<'a>(service: &Service, replicas: impl Iterator<Item = &'a Replica>, expected: u32) -> Standing {
    let counts = count(service, replicas);
    let wanted = wanted(service);
    let state = state(service, &counts, wanted, expected);
    Standing {
        text: text(service, &counts, wanted),
        state,
    }
}

/// None where the number of eligible nodes decides.
fn wanted(service: &Service) -> Option<u32> {
    match service.spec.mode {
        // Its runs are services of their own.
        Mode::ReplicatedJob { .. } | Mode::GlobalJob if service.spec.cron.is_some() => Some(0),
        Mode::Replicated { replicas } => Some(replicas),
        Mode::ReplicatedJob { completions, .. } => Some(completions),
        Mode::Global | Mode::GlobalJob => None,
    }
}

fn count<'a>(service: &Service, replicas: impl Iterator<Item = &'a Replica>) -> Counts {
    let mut counts = Counts::default();
    for replica in replicas {
        let ended = replica.observed.phase.is_terminal();
        if !ended && !replica.is_active() {
            counts.stopping += 1;
            continue;
        }
        if replica.revision != service.revision {
            counts.old += u32::from(!ended);
            continue;
        }
        match replica.observed.phase {
            Phase::Pending => counts.pending += 1,
            Phase::Assigned | Phase::Preparing => counts.preparing += 1,
            Phase::Starting => counts.starting += 1,
            Phase::Running if replica.observed.ready => counts.ready += 1,
            Phase::Running => counts.unready += 1,
            Phase::Completed => counts.completed += 1,
            Phase::Failed | Phase::Rejected => {
                counts.failed += 1;
            }
            Phase::Stopped | Phase::Lost => {}
        }
    }
    counts
}

impl Counts {
    const fn on_their_way(&self) -> u32 {
        self.pending + self.preparing + self.starting + self.unready
    }
}

fn state(service: &Service, counts: &Counts, wanted: Option<u32>, expected: u32) -> State {
    if let Some(rollout) = &service.rollout {
        let why = if rollout.message.is_empty() {
            "a replica failed"
        } else {
            rollout.message.as_str()
        };
        let rolled_back = rollout.kind == RolloutKind::Rollback && service.revision != expected;
        match rollout.state {
            RolloutState::Paused => return State::Failed(format!("the rollout is paused: {why}")),
            RolloutState::Completed if rolled_back => {
                return State::Failed(format!("rolled back to revision {}: {why}", rollout.to));
            }
            RolloutState::Running if awaits(service, rollout) => return State::Converged,
            RolloutState::Running => return State::Going,
            RolloutState::Completed | RolloutState::Superseded => {}
        }
    }
    let ended = service
        .job
        .ended
        .as_ref()
        .filter(|_| service.job.revision == service.revision);
    if let Some(failure) = ended.and_then(|end| end.failure.as_ref()) {
        return State::Failed(format!("the job failed: {failure}"));
    }
    if service.spec.mode.is_job() {
        return job_state(counts, wanted);
    }
    let enough = match wanted {
        Some(wanted) => counts.ready >= wanted,
        None => counts.ready > 0,
    };
    if enough && counts.on_their_way() == 0 && counts.old + counts.stopping == 0 {
        State::Converged
    } else {
        State::Going
    }
}

fn job_state(counts: &Counts, wanted: Option<u32>) -> State {
    let running = counts.ready + counts.on_their_way();
    let enough = match wanted {
        Some(wanted) => counts.completed >= wanted,
        None => counts.completed > 0,
    };
    // A failed replica may be followed by another: that the job has failed is the leader's word.
    if enough && running == 0 {
        State::Converged
    } else {
        State::Going
    }
}

fn text(service: &Service, counts: &Counts, wanted: Option<u32>) -> String {
    let job = service.spec.mode.is_job();
    let (done, word) = if job {
        (counts.completed, "completed")
    } else {
        (counts.ready, "ready")
    };
    let mut parts = vec![match wanted {
        Some(wanted) => format!("{done}/{wanted} {word}"),
        None => format!("{done} {word}"),
    }];
    let running = if job { counts.ready + counts.unready } else { 0 };
    let unready = if job { 0 } else { counts.unready };
    for (number, word) in [
        (running, "running"),
        (unready, "not ready yet"),
        (counts.starting, "starting"),
        (counts.preparing, "preparing"),
        (counts.pending, "pending"),
        (counts.failed, "failed"),
        (counts.old, "of the old revision"),
        (counts.stopping, "stopping"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    let rollout = service.rollout.as_ref().filter(|rollout| rollout.is_running());
    if let Some(rollout) = rollout {
        let word = match rollout.kind {
            RolloutKind::Update => "rolling out",
            RolloutKind::Rollback => "rolling back to",
        };
        parts.push(format!("{word} revision {}", rollout.to));
        if awaits(service, rollout) {
            let name = &service.name;
            parts.push(format!(
                "waits for 'gantry service promote {name}' or 'gantry service abort {name}'"
            ));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::object::Rollout;
    use gantry_model::object::Slot;
    use gantry_model::phase::{Desired, Observed};
    use gantry_model::spec::{ContainerSpec, ServiceSpec};
    use gantry_model::{Name, ReplicaId, ServiceId, Timestamp};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a valid name")
    }

    pub fn service(mode: Mode, revision: u32) -> Service {
        let spec = ServiceSpec {
            mode,
            container: ContainerSpec::default(),
            resources: Default::default(),
            placement: Default::default(),
            restart: Default::default(),
            update: Default::default(),
            rollback: Default::default(),
            endpoint_mode: Default::default(),
            ports: Vec::new(),
            expose: Vec::new(),
            networks: BTreeMap::new(),
            depends_on: BTreeMap::new(),
            labels: BTreeMap::new(),
            restart_generation: 0,
            ..ServiceSpec::default()
        };
        Service {
            id: ServiceId(1),
            namespace: name("shop"),
            name: name("web"),
            spec: Arc::new(spec),
            revision,
            networks: BTreeMap::new(),
            ports: Vec::new(),
            rollout: None,
            deleting: false,
            owner: None,
            job: Default::default(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        }
    }

    fn replica(revision: u32, phase: Phase, ready: bool, desired: Desired) -> Replica {
        Replica {
            id: ReplicaId(1),
            service: ServiceId(1),
            namespace: name("shop"),
            service_name: name("web"),
            slot: Slot::Index(1),
            revision,
            node: None,
            address: None,
            desired,
            desired_reason: String::new(),
            observed: Observed {
                phase,
                ready,
                message: "exit status 1".to_string(),
                ..Observed::default()
            },
            explanation: None,
            created_at: Timestamp(0),
            assigned_at: None,
            desired_since: None,
            held: false,
        }
    }

    fn rollout(kind: RolloutKind, state: RolloutState, to: u32) -> Rollout {
        Rollout {
            state,
            message: "replica web.1 failed".to_string(),
            ..Rollout::new(1, to, kind, Timestamp(0))
        }
    }

    const REPLICATED: Mode = Mode::Replicated { replicas: 2 };

    #[test]
    fn a_service_has_converged_when_all_wanted_replicas_are_ready_and_no_other_is_left() {
        let service = service(REPLICATED, 2);
        let ready = || replica(2, Phase::Running, true, Desired::Run);
        let all = [ready(), ready()];
        assert_eq!(assess(&service, all.iter(), 2).state, State::Converged);
        let mixed = [
            ready(),
            replica(2, Phase::Starting, false, Desired::Run),
            replica(1, Phase::Running, true, Desired::Run),
        ];
        let standing = assess(&service, mixed.iter(), 2);
        assert_eq!(standing.state, State::Going);
        assert_eq!(standing.text, "1/2 ready, 1 starting, 1 of the old revision");
        let leaving = [ready(), ready(), replica(2, Phase::Running, false, Desired::Stop)];
        assert_eq!(assess(&service, leaving.iter(), 2).state, State::Going);
        let history = [ready(), ready(), replica(1, Phase::Failed, false, Desired::Stop)];
        assert_eq!(assess(&service, history.iter(), 2).state, State::Converged);
    }

    #[test]
    fn nothing_is_wanted_of_a_service_scaled_to_zero() {
        let service = service(Mode::Replicated { replicas: 0 }, 1);
        assert_eq!(assess(&service, [].iter(), 1).state, State::Converged);
    }

    #[test]
    fn a_paused_or_undone_rollout_has_failed_and_says_why() {
        let mut service = service(REPLICATED, 3);
        service.rollout = Some(rollout(RolloutKind::Update, RolloutState::Paused, 3));
        let paused = assess(&service, [].iter(), 3).state;
        assert_eq!(
            paused,
            State::Failed("the rollout is paused: replica web.1 failed".to_string())
        );
        service.rollout = Some(rollout(RolloutKind::Rollback, RolloutState::Completed, 2));
        service.revision = 2;
        let undone = assess(&service, [].iter(), 3).state;
        assert_eq!(
            undone,
            State::Failed("rolled back to revision 2: replica web.1 failed".to_string())
        );
        assert_eq!(
            assess(&service, [].iter(), 2).state,
            State::Going,
            "a rollback that was asked for"
        );
    }

    #[test]
    fn a_job_waits_for_its_completions_and_fails_when_the_leader_gives_it_up() {
        let mut service = service(
            Mode::ReplicatedJob {
                completions: 1,
                parallelism: 1,
            },
            1,
        );
        let one = |phase| [replica(1, phase, phase == Phase::Running, Desired::Run)];
        assert_eq!(assess(&service, one(Phase::Running).iter(), 1).state, State::Going);
        let done = assess(&service, one(Phase::Completed).iter(), 1);
        assert_eq!((done.state, done.text.as_str()), (State::Converged, "1/1 completed"));
        let failed = one(Phase::Failed);
        assert_eq!(assess(&service, failed.iter(), 1).state, State::Going);
        service.job.revision = 1;
        service.job.ended = Some(gantry_model::object::JobEnd {
            at: Timestamp(5),
            failure: Some("it failed 2 times".to_string()),
        });
        assert_eq!(
            assess(&service, failed.iter(), 1).state,
            State::Failed("the job failed: it failed 2 times".to_string())
        );
    }
}
