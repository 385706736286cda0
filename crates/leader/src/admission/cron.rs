//! What a person does to a cron job: run it now, suspend it, resume it.

use gantry_env::{Env, FreshIds};
use gantry_model::object::Service;
use gantry_model::spec::ServiceSpec;
use gantry_model::{Class, Name, Problem};
use gantry_reconcile::{cron_run, run_name};
use gantry_state::State;

use super::apply::update_service;
use super::{Decision, Draft};

/// What becomes of the cron job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SteerCron {
    /// A run is started now, beside the schedule.
    Run,
    /// No runs are started.
    Suspend,
    /// Runs are started again, from the next due one on.
    Resume,
}

/// Decides what steering a cron job does; a run is named in the answer.
///
/// # Errors
/// When the service is no cron job, or was run by hand within the same minute.
pub fn steer_cron(
    state: &State,
    env: &dyn Env,
    service: &Service,
    steer: SteerCron,
) -> Result<(Decision, Option<Name>), Problem> {
    let Some(cron) = &service.spec.cron else {
        return Err(Problem::new(Class::Invalid, service.object(), "is not a cron job")
            .remedy("cron jobs have x-gantry.cron in their manifest: see 'gantry cron ls'"));
    };
    let mut draft = Draft::new(state, env);
    let suspend = match steer {
        SteerCron::Run => return run(draft, service),
        SteerCron::Suspend => true,
        SteerCron::Resume => false,
    };
    let mut spec = ServiceSpec::clone(&service.spec);
    let mut cron = cron.clone();
    cron.suspend = suspend;
    spec.cron = Some(cron);
    update_service(&mut draft, service, spec, if suspend { "suspend" } else { "resume" })?;
    Ok((draft.finish(), None))
}

fn run(mut draft: Draft<'_>, service: &Service) -> Result<(Decision, Option<Name>), Problem> {
    let now = draft.env.now();
    let name = run_name(&service.name, now)
        .filter(|name| draft.state.service_named(&service.namespace, name).is_none())
        .ok_or_else(|| {
            Problem::new(Class::Conflict, service.object(), "was run in this minute already")
                .remedy("try again in the next minute")
        })?;
    let run = cron_run(service, draft.env.service_id(), name.clone(), now);
    draft.require.extend(run.require);
    draft.record(service.object(), "run_started", format!("{name}, by a person"));
    draft.ops.extend(run.ops);
    Ok((draft.finish(), Some(name)))
}
