//! `gantry cron`: jobs that run by the clock.

use clap::Subcommand;
use gantry_api::v1::SteerCronRequest;
use gantry_api::v1::steer_cron_request::Action;
use gantry_env::{Env, System};
use gantry_model::Timestamp;
use gantry_model::object::Service;
use gantry_model::spec::CronSpec;
use gantry_reconcile::{local_time, next_run};
use gantry_rpc::Repeat;

use super::rollout;
use super::service::{self, ServiceArg};
use crate::args::Global;
use crate::client::{Client, Read};
use crate::failure::Outcome;
use crate::output::{self, Column, Table, age};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// List cron jobs
    Ls,
    /// List the runs of a cron job that are kept
    Runs(ServiceArg),
    /// Start a run now, beside the schedule
    Run(ServiceArg),
    /// Start no more runs
    Suspend(ServiceArg),
    /// Start runs again, from the next due one on
    Resume(ServiceArg),
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    let client = Client::open(global).await?;
    match command {
        Command::Ls => list(global, &client).await,
        Command::Runs(args) => runs(global, &client, &args).await,
        Command::Run(args) => steer(global, &client, &args, Action::Run, "started").await,
        Command::Suspend(args) => steer(global, &client, &args, Action::Suspend, "suspended").await,
        Command::Resume(args) => steer(global, &client, &args, Action::Resume, "resumed").await,
    }
}

async fn list(global: &Global, client: &Client) -> Outcome {
    let now = System.now();
    let mut table = Table::new(vec![
        Column::new("NAME"),
        Column::new("SCHEDULE"),
        Column::new("TIME ZONE"),
        Column::new("LAST DUE"),
        Column::new("LAST SUCCESS"),
        Column::new("NEXT"),
        Column::wide("CONCURRENCY"),
    ]);
    for Read { object: service, json } in client.services(&global.namespace()).await? {
        let Some(cron) = service.spec.cron.clone() else {
            continue;
        };
        let name = format!("{}/{}", service.namespace, service.name);
        let ago = |at: Option<Timestamp>| at.map(|at| age::ago(now, at)).unwrap_or_default();
        let cells = [
            name.clone(),
            cron.schedule.to_string(),
            cron.time_zone.clone(),
            ago(service.job.last_due),
            ago(service.job.last_success),
            next(&cron, now),
            format!("{:?}", cron.concurrency).to_lowercase(),
        ];
        table.push(name, cells, json);
    }
    output::list(
        global.output,
        &table,
        "there are no cron jobs: x-gantry.cron makes a job one",
    )?;
    Ok(())
}

fn next(cron: &CronSpec, now: Timestamp) -> String {
    if cron.suspend {
        return "suspended".to_string();
    }
    let next = next_run(cron, now).and_then(|at| local_time(cron, at));
    next.unwrap_or_else(|| "never".to_string())
}

async fn runs(global: &Global, client: &Client, args: &ServiceArg) -> Outcome {
    let (namespace, name) = global.qualified(&args.service);
    let cron = client.service(&namespace, &name).await?.object;
    let mut runs: Vec<Read<Service>> = client.services(&namespace).await?;
    runs.retain(|run| run.object.owner == Some(cron.id));
    runs.sort_by_key(|run| std::cmp::Reverse(run.object.created_at));
    let now = System.now();
    let mut table = Table::new(vec![Column::new("RUN"), Column::new("STARTED"), Column::new("STATE")]);
    for Read { object: run, json } in runs {
        let state = match rollout::shown(&run) {
            state if state.is_empty() => "running".to_string(),
            state => state,
        };
        let cells = [run.name.to_string(), age::ago(now, run.created_at), state];
        table.push(run.name.to_string(), cells, json);
    }
    output::list(global.output, &table, "no run is kept")?;
    Ok(())
}

async fn steer(global: &Global, client: &Client, args: &ServiceArg, action: Action, done: &str) -> Outcome {
    let (namespace, service) = global.qualified(&args.service);
    let request = SteerCronRequest {
        namespace,
        service,
        action: action.into(),
    };
    let reply = client
        .call(Repeat::OnlyUnsent, |mut cluster| {
            let request = request.clone();
            async move { cluster.steer_cron(request).await }
        })
        .await?;
    service::shown(&reply, done)?;
    Ok(())
}
