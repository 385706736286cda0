//! What a person does to a rollout in progress: pause, resume, promote, abort.

use gantry_env::Env;
use gantry_model::object::{Rollout, RolloutKind, RolloutState, Service};
use gantry_model::spec::UpdateConfig;
use gantry_model::{Class, Problem};
use gantry_state::{Key, Object, Op, Precondition, State};

use super::{Decision, Draft, rollback};

/// What becomes of the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// It stops where it is.
    Pause,
    /// It goes on; what failed until now is not held against it any more.
    Resume,
    /// The present stage of a canary or blue-green rollout is over.
    Promote {
        /// All later stages as well.
        all: bool,
    },
    /// Back to the revision it came from.
    Abort,
}

/// Decides what steering the service's rollout does.
///
/// # Errors
/// When there is no rollout that this could be done to.
pub fn steer(state: &State, env: &dyn Env, service: &Service, steer: Steer) -> Result<Decision, Problem> {
    let open = |rollout: &&Rollout| matches!(rollout.state, RolloutState::Running | RolloutState::Paused);
    let rollout = service.rollout.as_ref().filter(open).ok_or_else(|| {
        Problem::new(Class::Conflict, service.object(), "has no rollout in progress")
            .remedy("see 'gantry service ls' for rollouts, 'gantry service rollback' goes back to an earlier revision")
    })?;
    let mut steered = rollout.clone();
    let (kind, message) = match steer {
        Steer::Pause => pause(service, &mut steered, env)?,
        Steer::Resume => resume(service, &mut steered, env)?,
        Steer::Promote { all } => promote(service, &mut steered, all)?,
        Steer::Abort => return abort(state, env, service, rollout),
    };
    let mut draft = Draft::new(state, env);
    let key = Key::Service(service.id);
    draft.require.push(Precondition::Unchanged {
        modified: state.modified(&key),
        key,
    });
    let mut changed = service.clone();
    changed.rollout = Some(steered);
    draft.record(service.object(), kind, message);
    draft.ops.push(Op::Put(Box::new(Object::Service(changed))));
    Ok(draft.finish())
}

fn abort(state: &State, env: &dyn Env, service: &Service, rollout: &Rollout) -> Result<Decision, Problem> {
    if rollout.kind == RolloutKind::Rollback || rollout.from == rollout.to || rollout.from == 0 {
        return Err(
            Problem::new(Class::Conflict, service.object(), "is on its way back already")
                .remedy("name a revision: 'gantry service rollback --to REVISION'"),
        );
    }
    rollback(state, env, service, rollout.from)
}

fn pause(service: &Service, rollout: &mut Rollout, env: &dyn Env) -> Result<(&'static str, String), Problem> {
    if rollout.state == RolloutState::Paused {
        return Err(Problem::new(
            Class::Conflict,
            service.object(),
            "its rollout is paused already",
        ));
    }
    rollout.state = RolloutState::Paused;
    rollout.ended_at = Some(env.now());
    rollout.message = "paused by a person".to_string();
    Ok(("rollout_paused", rollout.message.clone()))
}

fn resume(service: &Service, rollout: &mut Rollout, env: &dyn Env) -> Result<(&'static str, String), Problem> {
    if rollout.state != RolloutState::Paused {
        return Err(Problem::new(
            Class::Conflict,
            service.object(),
            "its rollout is not paused",
        ));
    }
    rollout.state = RolloutState::Running;
    rollout.ended_at = None;
    rollout.resumed_at = Some(env.now());
    rollout.forgiven = u32::try_from(rollout.failed.len()).unwrap_or(u32::MAX);
    rollout.message.clear();
    Ok(("rollout_resumed", format!("to revision {}", rollout.to)))
}

fn promote(service: &Service, rollout: &mut Rollout, all: bool) -> Result<(&'static str, String), Problem> {
    let config: &UpdateConfig = match rollout.kind {
        RolloutKind::Update => &service.spec.update,
        RolloutKind::Rollback => &service.spec.rollback,
    };
    let stages = config.strategy.stages();
    if rollout.stage >= stages {
        return Err(Problem::new(
            Class::Conflict,
            service.object(),
            "its rollout has no stage to be promoted from",
        ));
    }
    if rollout.state == RolloutState::Paused {
        return Err(Problem::new(Class::Conflict, service.object(), "its rollout is paused")
            .remedy(format!("resume it first: 'gantry service resume {}'", service.name)));
    }
    if rollout.stage_reached_at.is_none() && !all {
        let reason = format!("stage {} of {stages} is not reached yet", rollout.stage + 1);
        return Err(Problem::new(Class::Conflict, service.object(), reason)
            .remedy("wait for its replicas, or promote it to the end with --all"));
    }
    rollout.stage = if all { stages } else { rollout.stage + 1 };
    rollout.stage_reached_at = None;
    let message = format!("stage {} of {stages} of revision {} is over", rollout.stage, rollout.to);
    Ok(("rollout_promoted", message))
}
