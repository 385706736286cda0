//! How many replicas a service should have, by what they use and by the clock, with Kubernetes' semantics
//! (`horizontal-pod-autoscaler`): the ratio of use to target over the replicas that serve, a tolerance of 10 %, up at once and at
//! most twofold or four more in 15 s, down only to the most that was wished in the last 5 minutes.
//!
//! **Invariant:** what is not known never scales: a replica without figures counts as idle when more are wished, and as just
//! right when fewer are.
//! **Invariant:** a new leader knows no wishes but the present count, so that it scales nothing down for 5 minutes.
//! Deliberately not here: where figures come from, and how old they may be (`leader`).

use gantry_model::object::{Replica, Service};
use gantry_model::spec::{Autoscale, CronSpec, Mode, ScaleTarget, Usage};
use gantry_model::{DurationMs, ReplicaId, Timestamp};
use gantry_state::State;

use crate::calendar::latest_run;

/// The kind of event by which the cluster changed a count.
pub const EVENT_SCALED: &str = "autoscaled";
/// So far from its target, in thousandths, use may be without consequence (`horizontal-pod-autoscaler-tolerance`).
pub const SCALE_TOLERANCE_PERMILLE: u64 = 100;
/// Fewer are wished for so long before there are fewer (`horizontal-pod-autoscaler-downscale-stabilization`).
pub const SCALE_DOWN_WINDOW: DurationMs = DurationMs::secs(300);
/// Time between two steps up (`behavior.scaleUp.policies.periodSeconds`).
pub const SCALE_UP_PERIOD: DurationMs = DurationMs::secs(15);
/// One step up makes at most so many more, or as many again (`behavior.scaleUp.policies`).
pub const SCALE_UP_MAX: u32 = 4;

/// The leader's two clocks.
#[derive(Debug, Clone, Copy)]
pub struct ScaleMoment {
    /// For the schedule.
    pub now: Timestamp,
    /// Never jumps back.
    pub monotonic: DurationMs,
}

/// Another count, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaling {
    /// So many from now on.
    pub replicas: u32,
    /// For people.
    pub reason: String,
}

/// What was wished for one service lately; the leader's memory.
#[derive(Debug, Clone, Default)]
pub struct ScaleHistory {
    wishes: Vec<(DurationMs, u32)>,
    raised_at: Option<DurationMs>,
}

/// A count with its reason.
struct Wish {
    replicas: u32,
    reason: String,
}

impl ScaleHistory {
    /// Another count for the service, if it should have one. `usage` gives what is known of a replica.
    pub fn step(
        &mut self,
        state: &State,
        service: &Service,
        usage: &dyn Fn(ReplicaId) -> Option<Usage>,
        moment: ScaleMoment,
    ) -> Option<Scaling> {
        let autoscale = service.spec.autoscale.as_ref()?;
        let Mode::Replicated { replicas: present } = service.spec.mode else {
            return None;
        };
        let (min, max, since) = bounds(autoscale, moment.now);
        let wish = if autoscale.is_measured() {
            self.stabilise(
                by_use(state, service, autoscale, present, usage),
                present,
                moment.monotonic,
            )
        } else {
            Wish {
                replicas: min,
                reason: String::new(),
            }
        };
        let within = wish.replicas.clamp(min, max.max(min));
        if within == present {
            return None;
        }
        if within > present {
            self.raised_at = Some(moment.monotonic);
        }
        let reason = match (within == wish.replicas && autoscale.is_measured(), within == min) {
            (true, _) => wish.reason,
            (false, true) => format!("at least {min}{since}"),
            // Why there should be even more is what a person wants to know.
            (false, false) if autoscale.is_measured() && within > present => {
                format!("{}, at most {max}{since}", wish.reason)
            }
            (false, false) => format!("at most {max}{since}"),
        };
        Some(Scaling {
            replicas: within,
            reason,
        })
    }

    fn stabilise(&mut self, wish: Wish, present: u32, now: DurationMs) -> Wish {
        if self.wishes.is_empty() {
            self.wishes.push((now, present));
        }
        self.wishes
            .retain(|(at, _)| now.saturating_sub(*at) < SCALE_DOWN_WINDOW);
        self.wishes.push((now, wish.replicas));
        if wish.replicas < present {
            let most = self.wishes.iter().map(|(_, replicas)| *replicas).max();
            return Wish {
                replicas: most.unwrap_or(wish.replicas).min(present),
                ..wish
            };
        }
        let raised = self
            .raised_at
            .is_some_and(|at| now.saturating_sub(at) < SCALE_UP_PERIOD);
        let most = if raised {
            present
        } else {
            present.saturating_mul(2).max(present.saturating_add(SCALE_UP_MAX))
        };
        Wish {
            replicas: wish.replicas.min(most),
            ..wish
        }
    }
}

/// The bounds that hold now, and since when, for people.
fn bounds(autoscale: &Autoscale, now: Timestamp) -> (u32, u32, String) {
    let since = |bounds: &gantry_model::spec::ScheduledBounds| {
        let mut cron = CronSpec::with_defaults(bounds.from.clone());
        cron.time_zone.clone_from(&bounds.time_zone);
        latest_run(&cron, Timestamp::default(), now)
    };
    let began = autoscale.schedule.iter().filter_map(|one| Some((since(one)?, one)));
    match began.max_by_key(|(at, _)| *at) {
        Some((_, one)) => (one.min, one.max, format!(" from '{}' on", one.from)),
        None => (autoscale.min, autoscale.max, String::new()),
    }
}

/// The largest wish of all targets; none below the present count while a target has no figures.
fn by_use(
    state: &State,
    service: &Service,
    autoscale: &Autoscale,
    present: u32,
    usage: &dyn Fn(ReplicaId) -> Option<Usage>,
) -> Wish {
    let reserved = &service.spec.resources;
    let amount = |target: (u64, u64)| target.0.saturating_mul(target.1) / 100;
    let cpu = autoscale.cpu.map(|target| {
        let each = match target {
            ScaleTarget::Percent(percent) => amount((reserved.cpu_reservation.0, percent.into())),
            ScaleTarget::Each(cpu) => cpu.0,
        };
        ("processor time", target.to_string(), each)
    });
    let memory = autoscale.memory.map(|target| {
        let each = match target {
            ScaleTarget::Percent(percent) => amount((reserved.memory_reservation.0, percent.into())),
            ScaleTarget::Each(memory) => memory.0,
        };
        ("memory", target.to_string(), each)
    });
    let used =
        |is_cpu: bool| move |id: ReplicaId| usage(id).map(|usage| if is_cpu { usage.cpu.0 } else { usage.memory.0 });
    let (by_cpu, by_memory) = (used(true), used(false));
    let cpu = cpu.map(|(what, text, each)| (what, text, desired(state, service, present, each, &by_cpu)));
    let memory = memory.map(|(what, text, each)| (what, text, desired(state, service, present, each, &by_memory)));
    let mut best = Wish {
        replicas: 0,
        reason: String::new(),
    };
    for (what, target, wish) in [cpu, memory].into_iter().flatten() {
        let (replicas, percent) = wish.map_or((present, 100), |wish| wish);
        if replicas >= best.replicas {
            best = Wish {
                replicas,
                reason: format!("{what} is at {percent} % of the target, {target}"),
            };
        }
    }
    best
}

/// How many there should be for one target, and use in percent of it; none when nothing is known.
fn desired(
    state: &State,
    service: &Service,
    present: u32,
    target: u64,
    used: &dyn Fn(ReplicaId) -> Option<u64>,
) -> Option<(u32, u64)> {
    let own = state.replicas_of(service.id).filter(|one| one.is_active());
    let (serving, waiting): (Vec<&Replica>, Vec<&Replica>) = own.partition(|one| one.is_endpoint());
    let figures: Vec<u64> = serving.iter().filter_map(|one| used(one.id)).collect();
    if figures.is_empty() || target == 0 {
        return None;
    }
    let (sum, known) = (figures.iter().sum::<u64>(), figures.len() as u64);
    let permille = |sum: u64, count: u64| sum.saturating_mul(1000) / (count * target).max(1);
    let ratio = permille(sum, known);
    let unknown = serving.len() as u64 - known;
    let more = ratio > 1000;
    // Idle when more are wished, just right when fewer are.
    let (sum, count) = if more {
        (sum, known + unknown + waiting.len() as u64)
    } else {
        (sum.saturating_add(unknown.saturating_mul(target)), known + unknown)
    };
    let filled = permille(sum, count);
    let percent = ratio / 10;
    if filled.abs_diff(1000) <= SCALE_TOLERANCE_PERMILLE || (filled > 1000) != more {
        return Some((present, percent));
    }
    let wished = u32::try_from(sum.div_ceil(target)).unwrap_or(u32::MAX);
    let wished = if more { wished.max(present) } else { wished.min(present) };
    Some((wished, percent))
}
