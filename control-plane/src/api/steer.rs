//! Words of the wire for what people do to rollouts and cron jobs.

use gantry_api::v1::{steer_cron_request, steer_rollout_request};
use gantry_leader::admission::{Steer, SteerCron};
use gantry_model::{Class, Problem};

/// # Errors
/// When the request says nothing that this version knows.
pub fn of_rollout(action: steer_rollout_request::Action) -> Result<Steer, Problem> {
    use steer_rollout_request::Action;
    Ok(match action {
        Action::Pause => Steer::Pause,
        Action::Resume => Steer::Resume,
        Action::Promote => Steer::Promote { all: false },
        Action::PromoteAll => Steer::Promote { all: true },
        Action::Abort => Steer::Abort,
        Action::Unspecified => return Err(unknown("rollout")),
    })
}

/// # Errors
/// When the request says nothing that this version knows.
pub fn of_cron(action: steer_cron_request::Action) -> Result<SteerCron, Problem> {
    use steer_cron_request::Action;
    Ok(match action {
        Action::Run => SteerCron::Run,
        Action::Suspend => SteerCron::Suspend,
        Action::Resume => SteerCron::Resume,
        Action::Unspecified => return Err(unknown("cron job")),
    })
}

fn unknown(object: &str) -> Problem {
    Problem::new(Class::Invalid, object, "the request does not say what to do")
        .remedy("use the same version of gantry as the servers")
}
