//! Why a service or a replica is as it is, as text for people: what `gantry explain` shows.

use gantry_model::object::{Availability, NodeStatus, Replica, Rollout, RolloutState, Service};
use gantry_model::phase::{Desired, Health, Phase};
use gantry_model::spec::CronSpec;
use gantry_model::{NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_state::State;

use crate::autoscale::EVENT_SCALED;
use crate::calendar::{local_time, next_run, time_zone};
use crate::status::{converged, trouble};
use crate::{budget, depends, plan, stage};

/// What to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A service.
    Service(ServiceId),
    /// A replica.
    Replica(ReplicaId),
}

/// Why something is as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// `service shop/web` or `replica shop/web.2`.
    pub object: String,
    /// One line.
    pub summary: String,
    /// Reasons, the most important first.
    pub reasons: Vec<String>,
    /// The next thing to do; empty where there is none.
    pub remedy: String,
    /// Replicas concerned, those in trouble.
    pub replicas: Vec<ReplicaId>,
}

/// Explains a service or replica; none when it does not exist.
#[must_use]
pub fn explain(state: &State, target: Target) -> Option<Answer> {
    match target {
        Target::Service(id) => state.service(id).map(|service| explain_service(state, service)),
        Target::Replica(id) => state.replica(id).map(|replica| explain_replica(state, replica)),
    }
}

fn explain_service(state: &State, service: &Service) -> Answer {
    let progress = converged(state, service.id);
    let mut answer = Answer {
        object: service.object(),
        summary: progress.message.clone(),
        ..Answer::default()
    };
    if let Some(rollout) = &service.rollout {
        match rollout.state {
            RolloutState::Paused => {
                answer.reasons.push(format!(
                    "rollout to revision {} is paused: {}",
                    rollout.to, rollout.message
                ));
                answer.remedy = format!(
                    "see the failed replicas, then apply a corrected manifest, or go back with 'gantry service abort {0}', \
                     or on with 'gantry service resume {0}'",
                    service.name
                );
            }
            RolloutState::Running => {
                answer.reasons.push(format!(
                    "rollout from revision {} to {} is running",
                    rollout.from, rollout.to
                ));
            }
            RolloutState::Completed | RolloutState::Superseded => {}
        }
    }
    if is_changing(state, service)
        && let Some(budget) = budget::exhausted(state, service)
    {
        answer.reasons.push(budget);
    }
    if let Some(stage) = stage::awaits(service) {
        answer.reasons.push(stage);
        answer.remedy = format!(
            "'gantry service promote {0}' goes on, 'gantry service abort {0}' goes back",
            service.name
        );
    }
    if let Some(gate) = depends::gate(state, service) {
        answer.reasons.push(gate.summary);
        answer.remedy = gate.remedy;
    }
    if let Some(cron) = &service.spec.cron {
        answer.reasons.extend(runs(cron, service));
    } else if plan::wanted(state, service).slots.is_empty() {
        answer.reasons.push(nothing_wanted(service));
    }
    answer.reasons.extend(scaling(state, service));
    let mut replicas: Vec<&Replica> = state
        .replicas_of(service.id)
        .filter(|one| one.desired == Desired::Run)
        .collect();
    replicas.sort_by_key(|one| (one.slot, std::cmp::Reverse((one.created_at, one.id))));
    replicas.dedup_by_key(|one| one.slot);
    for replica in replicas.into_iter().filter(|one| !one.is_endpoint()) {
        let Some(text) = trouble(replica) else { continue };
        answer.reasons.push(text);
        answer.replicas.push(replica.id);
        if answer.remedy.is_empty() {
            answer.remedy = remedy(replica);
        }
    }
    answer
}

/// Whether replicas are to give way: to another revision, or because their node is to be empty.
fn is_changing(state: &State, service: &Service) -> bool {
    let drains = |one: &Replica| {
        let node = one.node.and_then(|node| state.node(node));
        one.is_active() && node.is_some_and(|node| node.availability == Availability::Drain)
    };
    service.rollout.as_ref().is_some_and(Rollout::is_running) || state.replicas_of(service.id).any(drains)
}

/// Between which bounds the cluster scales it, and why it last did.
fn scaling(state: &State, service: &Service) -> Option<String> {
    let autoscale = service.spec.autoscale.as_ref()?;
    let object = service.object();
    let mut events = state
        .events()
        .filter(|event| event.kind == EVENT_SCALED && event.object == object);
    let last = events.next_back().map(|event| format!("; last {}", event.message));
    Some(format!(
        "is scaled between {} and {} replicas{}",
        autoscale.min,
        autoscale.max,
        last.unwrap_or_default()
    ))
}

/// When a cron job last ran, and when it runs next.
fn runs(cron: &CronSpec, service: &Service) -> Vec<String> {
    let at = |when: Option<Timestamp>| when.and_then(|when| local_time(cron, when));
    let (due, success) = (service.job.last_due, service.job.last_success);
    // Known to the leader is only what was due, so the next run is counted from there.
    let since = due.unwrap_or_default().max(service.updated_at);
    let next = next_run(cron, since).filter(|_| !cron.suspend);
    let mut reasons = Vec::new();
    reasons.extend(at(due).map(|at| format!("was last due at {at}")));
    reasons.extend(at(success).map(|at| format!("a run last succeeded at {at}")));
    reasons.extend(at(next).map(|at| format!("is next due at {at}")));
    if time_zone(&cron.time_zone).is_none() {
        reasons.push(format!("its time zone {} is unknown: it never runs", cron.time_zone));
    }
    reasons
}

fn nothing_wanted(service: &Service) -> String {
    match service.spec.mode {
        gantry_model::spec::Mode::Global | gantry_model::spec::Mode::GlobalJob => {
            "no active node satisfies its constraints".to_string()
        }
        gantry_model::spec::Mode::Replicated { .. } | gantry_model::spec::Mode::ReplicatedJob { .. } => {
            "it is scaled to zero".to_string()
        }
    }
}

fn explain_replica(state: &State, replica: &Replica) -> Answer {
    let mut reasons = Vec::new();
    if replica.desired > Desired::Run {
        reasons.push(format!("told to {}: {}", verb(replica.desired), replica.desired_reason));
    }
    if !replica.observed.message.is_empty() {
        reasons.push(replica.observed.message.clone());
    }
    reasons.extend(last_exit(replica));
    reasons.extend(health(replica));
    reasons.extend(node_trouble(state, replica));
    if let Some(explanation) = &replica.explanation {
        reasons.push(explanation.summary.clone());
        let refusals = explanation.refusals.iter();
        reasons.extend(refusals.map(|one| format!("{}: {} ({})", one.filter, one.reason, names(state, &one.nodes))));
    }
    Answer {
        object: replica.object(),
        summary: summary(state, replica),
        reasons,
        remedy: remedy(replica),
        replicas: vec![replica.id],
    }
}

fn verb(desired: Desired) -> &'static str {
    match desired {
        Desired::Run => "run",
        Desired::Drain => "drain",
        Desired::Stop => "stop",
        Desired::Remove => "be removed",
    }
}

fn summary(state: &State, replica: &Replica) -> String {
    let phase = replica.observed.phase;
    let place = replica
        .node
        .map(|node| format!(" on node {}", name(state, node)))
        .unwrap_or_default();
    match (phase, replica.observed.ready) {
        (Phase::Running, true) => format!("running and ready{place}"),
        (Phase::Running, false) => format!("running, not ready{place}"),
        _ => format!("{phase}{place}"),
    }
}

fn last_exit(replica: &Replica) -> Option<String> {
    let exit = replica.observed.last_exit?;
    let restarts = replica.observed.restarts;
    let again = if restarts > 0 {
        format!(", restarted {restarts} time(s)")
    } else {
        String::new()
    };
    Some(match (exit.oom_killed, exit.code) {
        (true, code) => format!("killed for lack of memory (exit status {code}){again}"),
        (false, code) if code > 128 => format!("ended by signal {}{again}", code - 128),
        (false, code) => format!("ended with exit status {code}{again}"),
    })
}

fn health(replica: &Replica) -> Option<String> {
    match replica.observed.health {
        Health::Unhealthy => Some("its health check fails".to_string()),
        Health::Starting if replica.observed.phase == Phase::Running => {
            Some("waits for its first health check".to_string())
        }
        Health::Starting | Health::None | Health::Healthy => None,
    }
}

fn node_trouble(state: &State, replica: &Replica) -> Option<String> {
    let id = replica.node?;
    match state.node(id) {
        None => Some(format!("node {id} was removed from the cluster")),
        Some(node) if node.status == NodeStatus::Down => Some(format!("node {} is down", node.name)),
        Some(_) => None,
    }
}

fn remedy(replica: &Replica) -> String {
    let oom = replica.observed.last_exit.is_some_and(|exit| exit.oom_killed);
    match replica.observed.phase {
        Phase::Pending => replica
            .explanation
            .as_ref()
            .map(|why| why.remedy.clone())
            .unwrap_or_default(),
        Phase::Rejected => "check the image and mounts; another attempt follows by itself".to_string(),
        Phase::Running | Phase::Failed if oom => "raise the memory limit".to_string(),
        Phase::Failed => format!("see 'gantry logs {}'", replica.name()),
        Phase::Running if !replica.observed.ready => format!("see 'gantry logs {}'", replica.name()),
        Phase::Assigned | Phase::Preparing | Phase::Starting | Phase::Running => String::new(),
        Phase::Completed | Phase::Stopped | Phase::Lost => String::new(),
    }
}

fn name(state: &State, node: NodeId) -> String {
    state
        .node(node)
        .map_or_else(|| node.to_string(), |node| node.name.clone())
}

fn names(state: &State, nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(|node| name(state, *node)).collect();
    names.join(", ")
}
