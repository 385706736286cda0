//! What should change so that a service becomes what its spec says: state in, plan out.
//!
//! [`reconcile`] looks at one service and returns operations, replicas that need a node, and when to look again. Everything it
//! knows comes from the stored state, so a new leader continues exactly where the last one stopped.
//!
//! **Invariant:** a replica that gets traffic is first drained, and stopped only once no node routes to it any more.
//! **Invariant:** a settled service gives an empty plan.
//! **Invariant:** a slot has one replica, and a second one only while it takes over from the first.
//! Deliberately not here: where replicas go (`scheduler`), writing and timing (`control-plane`), restarts in place (`agent`).

mod autoscale;
mod backoff;
mod budget;
mod calendar;
mod cron;
mod delete;
mod depends;
mod draft;
mod drain;
mod evacuate;
mod explain;
mod failures;
mod global;
mod job;
mod job_end;
mod plan;
mod reap;
mod replicated;
mod rollout;
mod slot;
mod stage;
mod standing;
mod stateful;
mod status;

pub use autoscale::{
    EVENT_SCALED, SCALE_DOWN_WINDOW, SCALE_TOLERANCE_PERMILLE, SCALE_UP_MAX, SCALE_UP_PERIOD, ScaleHistory,
    ScaleMoment, Scaling,
};
pub use backoff::{BACKOFF_FIRST, BACKOFF_MAX};
pub use calendar::{latest_run, local_time, next_run, time_zone};
pub use cron::{CronRun, cron_run, run_name};
pub use depends::dependants;
pub use evacuate::{Remaining, remaining};
pub use explain::{Answer, Target, explain};
pub use plan::{Acks, ServicePlan, View, reconcile};
pub use reap::HISTORY_PER_SLOT;
pub use rollout::way_back_begins;
pub use status::{Progress, converged};
