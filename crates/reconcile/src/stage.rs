//! Stages of a canary or blue-green rollout: how many replicas may be new, who gets traffic, what waits for a person.
//!
//! A canary stage limits how many slots have the new revision; traffic follows replicas. The one stage of a blue-green rollout
//! has a new replica beside every old one, *held*: it runs, but is no endpoint until all of them are ready and the stage is over.
//!
//! **Invariant:** a replica is held only while its rollout is in the stage that holds it.

use gantry_model::DurationMs;
use gantry_model::object::{Replica, Rollout, RolloutState, Service, Slot};
use gantry_model::spec::{RolloutStrategy, UpdateConfig, UpdateOrder};
use gantry_state::Op;

use crate::draft::Draft;
use crate::rollout::{Progress, config_of};

/// While a stage is held, a failure counts however late it comes.
pub(crate) fn monitor(rollout: &Rollout, config: &UpdateConfig) -> DurationMs {
    if rollout.stage < config.strategy.stages() {
        DurationMs(u64::MAX)
    } else {
        config.monitor
    }
}

/// Blue and green stand side by side.
pub(crate) fn order(config: &UpdateConfig) -> UpdateOrder {
    match config.strategy {
        RolloutStrategy::BlueGreen { .. } => UpdateOrder::StartFirst,
        RolloutStrategy::Rolling | RolloutStrategy::Canary { .. } => config.order,
    }
}

/// How many slots are replaced at a time.
pub(crate) fn batch(config: &UpdateConfig, slots: usize) -> usize {
    match config.strategy {
        RolloutStrategy::BlueGreen { .. } => slots,
        RolloutStrategy::Rolling | RolloutStrategy::Canary { .. } => config.batch(slots),
    }
}

/// How many more slots the present stage may replace.
pub(crate) fn room(rollout: &Rollout, config: &UpdateConfig, slots: &[(Slot, Progress)]) -> usize {
    let waiting = slots
        .iter()
        .filter(|(_, one)| matches!(one, Progress::Waiting { .. }))
        .count();
    let replaced = slots.len() - waiting;
    config
        .strategy
        .share(rollout.stage, slots.len())
        .saturating_sub(replaced)
}

/// All that the stage may replace has settled: holds it, or goes on to the next. False when there is no stage left.
pub(crate) fn hold(draft: &mut Draft<'_>, rollout: &mut Rollout, config: &UpdateConfig) -> bool {
    let Some(hold) = config.strategy.hold(rollout.stage) else {
        return false;
    };
    let now = draft.view.now;
    if rollout.stage_reached_at.is_none() {
        draft.record("rollout_stage", describe(rollout, config, hold));
    }
    let reached = *rollout.stage_reached_at.get_or_insert(now);
    let Some(hold) = hold else { return true };
    let due = reached.after(hold.max(config.monitor));
    if due > now {
        draft.wake(due);
    } else {
        rollout.stage += 1;
        rollout.stage_reached_at = None;
        draft.wake(now);
    }
    true
}

fn describe(rollout: &Rollout, config: &UpdateConfig, hold: Option<DurationMs>) -> String {
    let what = match &config.strategy {
        RolloutStrategy::Canary { steps } => {
            let percent = steps.get(rollout.stage as usize).map_or(100, |step| step.percent);
            format!("{percent} % of the replicas run revision {}", rollout.to)
        }
        RolloutStrategy::BlueGreen { .. } => {
            format!("all replicas of revision {} are ready, without traffic", rollout.to)
        }
        RolloutStrategy::Rolling => String::new(),
    };
    match hold {
        Some(hold) => format!("{what}, held for {hold}"),
        None => format!("{what}, until it is promoted"),
    }
}

/// What the service's rollout waits for a person to decide, in a few words.
pub(crate) fn awaits(service: &Service) -> Option<String> {
    let rollout = service.rollout.as_ref().filter(|rollout| rollout.is_running())?;
    let config = config_of(&service.spec, rollout.kind);
    let hold = config.strategy.hold(rollout.stage)?;
    (hold.is_none() && rollout.stage_reached_at.is_some()).then(|| describe(rollout, config, hold))
}

/// Whether new replicas of `revision` are held back now.
pub(crate) fn holds(service: &Service, revision: u32) -> bool {
    service.rollout.as_ref().is_some_and(|rollout| {
        let going = matches!(rollout.state, RolloutState::Running | RolloutState::Paused);
        let strategy = &config_of(&service.spec, rollout.kind).strategy;
        let blue_green = matches!(strategy, RolloutStrategy::BlueGreen { .. });
        going && blue_green && rollout.stage == 0 && rollout.to == revision && rollout.from != revision
    })
}

/// Gives traffic to what is not held back any more.
pub(crate) fn admit(draft: &mut Draft<'_>) {
    let service = draft.service;
    let free = |one: &&Replica| one.held && one.is_active() && !holds(service, one.revision);
    let replicas: Vec<&Replica> = draft.replicas().into_iter().filter(free).collect();
    for one in replicas {
        // What another revision replaces will never serve.
        if one.revision == service.revision {
            draft.push(Op::Admit { replica: one.id });
        }
    }
}
