//! `gantry service pause`, `resume`, `promote`, `abort`: a rollout in progress.

use clap::Args;
use gantry_api::v1::SteerRolloutRequest;
use gantry_api::v1::steer_rollout_request::Action;
use gantry_model::object::{JobEnd, Rollout, RolloutKind, RolloutState, Service};
use gantry_rpc::Repeat;

use super::follow::WaitArgs;
use super::service::{self, ServiceArg};
use crate::args::Global;
use crate::client::Client;
use crate::failure::{Failure, Outcome};

#[derive(Debug, Args)]
pub struct SteerArgs {
    #[command(flatten)]
    service: ServiceArg,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// End all later stages as well
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// `gantry service pause`.
pub async fn pause(global: &Global, client: &Client, args: &ServiceArg) -> Outcome {
    steer(global, client, &args.service, Action::Pause, "paused").await?;
    Ok(())
}

/// `gantry service resume`.
pub async fn resume(global: &Global, client: &Client, args: &SteerArgs) -> Outcome {
    let service = steer(global, client, &args.service.service, Action::Resume, "resumed").await?;
    service::wait_for(client, &args.wait, &[service]).await
}

/// `gantry service promote`.
pub async fn promote(global: &Global, client: &Client, args: &PromoteArgs) -> Outcome {
    let action = if args.all { Action::PromoteAll } else { Action::Promote };
    let service = steer(global, client, &args.service.service, action, "promoted").await?;
    service::wait_for(client, &args.wait, &[service]).await
}

/// `gantry service abort`.
pub async fn abort(global: &Global, client: &Client, args: &SteerArgs) -> Outcome {
    let service = steer(global, client, &args.service.service, Action::Abort, "going back").await?;
    service::wait_for(client, &args.wait, &[service]).await
}

async fn steer(global: &Global, client: &Client, text: &str, action: Action, done: &str) -> Result<Service, Failure> {
    let (namespace, service) = global.qualified(text);
    let request = SteerRolloutRequest {
        namespace,
        service,
        action: action.into(),
    };
    // Said twice, it would end two stages.
    let reply = client
        .call(Repeat::OnlyUnsent, |mut cluster| {
            let request = request.clone();
            async move { cluster.steer_rollout(request).await }
        })
        .await?;
    service::shown(&reply, done)
}

/// Whether the rollout waits for a person to promote it.
pub fn awaits(service: &Service, rollout: &Rollout) -> bool {
    let update = rollout.kind == RolloutKind::Update;
    let held = service.spec.update.strategy.hold(rollout.stage) == Some(None);
    rollout.is_running() && update && held && rollout.stage_reached_at.is_some()
}

/// How the service's rollout, or job, stands, in a cell of a table.
pub fn shown(service: &Service) -> String {
    if service.deleting {
        return "being deleted".to_string();
    }
    if let Some(end) = &service.job.ended {
        return ended(end);
    }
    let Some(rollout) = &service.rollout else {
        return String::new();
    };
    let direction = match rollout.kind {
        RolloutKind::Update => "to",
        RolloutKind::Rollback => "back to",
    };
    match rollout.state {
        RolloutState::Running if awaits(service, rollout) => format!("to {}, waits for promote", rollout.to),
        RolloutState::Running => format!("running {direction} {}", rollout.to),
        RolloutState::Paused => format!("paused: {}", rollout.message),
        RolloutState::Completed if rollout.kind == RolloutKind::Rollback => format!("rolled back to {}", rollout.to),
        RolloutState::Completed | RolloutState::Superseded => String::new(),
    }
}

fn ended(end: &JobEnd) -> String {
    match &end.failure {
        None => "completed".to_string(),
        Some(failure) => format!("failed: {failure}"),
    }
}
