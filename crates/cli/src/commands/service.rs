//! `gantry service`: the workloads.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use gantry_api::kind;
use gantry_api::v1::{RollbackServiceRequest, ScaleServiceRequest, ServiceReply, ServiceRequest, UpdateServiceRequest};
use gantry_env::{Env, System};
use gantry_model::object::{Replica, RevisionRecord, Service};
use gantry_model::spec::Mode;
use gantry_model::{Problem, Timestamp};
use gantry_rpc::Repeat;

use super::follow::{self, Goal, WaitArgs};
use super::rollout::{self, PromoteArgs, SteerArgs};
use crate::args::Global;
use crate::client::{Client, Read, parse};
use crate::complete;
use crate::failure::Outcome;
use crate::output::{self, Column, Table, age, style};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// List services
    Ls,
    /// Show all that is known of services
    Inspect(ServicesArg),
    /// Change how many replicas there are
    Scale(ScaleArgs),
    /// Change image, environment or placement, by a rollout
    Update(UpdateArgs),
    /// Go back to an earlier revision, by a rollout
    Rollback(RollbackArgs),
    /// List the revisions that are kept
    History(ServiceArg),
    /// Replace all replicas, by a rollout
    Restart(RestartArgs),
    /// Stop a rollout where it is
    Pause(ServiceArg),
    /// Let a paused rollout go on; what failed until now is let pass
    Resume(SteerArgs),
    /// End the present stage of a canary or blue-green rollout
    Promote(PromoteArgs),
    /// Take a rollout back to the revision it came from
    Abort(SteerArgs),
}

#[derive(Debug, Args)]
pub struct ServicesArg {
    /// NAME or NAMESPACE/NAME
    #[arg(required = true, value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ServiceArg {
    /// NAME or NAMESPACE/NAME
    #[arg(value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
    pub service: String,
}

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Service and its new number of replicas
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = scale)]
    scales: Vec<(String, u32)>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
#[group(id = "edits", required = true, multiple = true, args = ["image", "env", "env_rm", "constraint_add", "constraint_rm"])]
pub struct UpdateArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// Run this image
    #[arg(long)]
    image: Option<String>,
    /// Set a variable
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<String>,
    /// Remove a variable
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// Add a placement constraint
    #[arg(long, value_name = "ATTRIBUTE==VALUE")]
    constraint_add: Vec<String>,
    /// Remove a placement constraint
    #[arg(long, value_name = "ATTRIBUTE==VALUE")]
    constraint_rm: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// The revision to go back to [default: the one before the present]
    #[arg(long, value_name = "REVISION")]
    to: Option<u32>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
pub struct RestartArgs {
    #[command(flatten)]
    services: ServicesArg,
    #[command(flatten)]
    wait: WaitArgs,
}

fn scale(text: &str) -> Result<(String, u32), String> {
    let (service, replicas) = text.split_once('=').ok_or("write SERVICE=REPLICAS, such as web=3")?;
    let replicas = replicas
        .parse()
        .map_err(|_| format!("'{replicas}' is not a number of replicas"))?;
    Ok((service.to_string(), replicas))
}

/// A bare key would mean its removal to the API.
fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.to_string()),
        _ => Err("write KEY=VALUE; --env-rm KEY removes a variable".to_string()),
    }
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    let client = Client::open(global).await?;
    match command {
        Command::Ls => list(global, &client).await,
        Command::Inspect(args) => inspect(global, &client, &args).await,
        Command::Scale(args) => scale_all(global, &client, &args).await,
        Command::Update(args) => update(global, &client, args).await,
        Command::Rollback(args) => rollback(global, &client, &args).await,
        Command::History(args) => history(global, &client, &args).await,
        Command::Restart(args) => restart(global, &client, &args).await,
        Command::Pause(args) => rollout::pause(global, &client, &args).await,
        Command::Resume(args) => rollout::resume(global, &client, &args).await,
        Command::Promote(args) => rollout::promote(global, &client, &args).await,
        Command::Abort(args) => rollout::abort(global, &client, &args).await,
    }
}

async fn list(global: &Global, client: &Client) -> Outcome {
    let services = client.services(&global.namespace()).await?;
    let replicas = client.replicas(&global.namespace(), "").await?;
    let table = table(services, &replicas, System.now());
    output::list(
        global.output,
        &table,
        "there are no services: `gantry apply` makes them",
    )?;
    Ok(())
}

fn table(services: Vec<Read<Service>>, replicas: &[Read<Replica>], now: Timestamp) -> Table {
    let mut table = Table::new(vec![
        Column::new("NAME"),
        Column::new("MODE"),
        Column::new("REPLICAS"),
        Column::new("IMAGE"),
        Column::new("PORTS"),
        Column::new("ROLLOUT"),
        Column::wide("ID"),
        Column::wide("REVISION"),
        Column::wide("ADDRESS"),
        Column::wide("UPDATED"),
    ]);
    for Read { object: service, json } in services {
        let own = || {
            replicas
                .iter()
                .map(|read| &read.object)
                .filter(|replica| replica.service == service.id)
        };
        let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
        let vips: Vec<String> = service
            .networks
            .values()
            .filter_map(|network| network.vip)
            .map(|vip| vip.to_string())
            .collect();
        let name = format!("{}/{}", service.namespace, service.name);
        let cells = [
            name.clone(),
            mode(&service).to_string(),
            filled(&service, own()),
            service.spec.container.image.clone(),
            ports.join(","),
            rollout::shown(&service),
            service.id.to_string(),
            service.revision.to_string(),
            vips.join(","),
            age::ago(now, service.updated_at),
        ];
        table.push(name, cells, json);
    }
    table
}

fn mode(service: &Service) -> &'static str {
    match service.spec.mode {
        Mode::ReplicatedJob { .. } | Mode::GlobalJob if service.spec.cron.is_some() => "cron",
        Mode::Replicated { .. } if service.spec.stateful.is_some() => "stateful",
        Mode::Replicated { .. } => "replicated",
        Mode::Global => "global",
        Mode::ReplicatedJob { .. } => "job",
        Mode::GlobalJob => "global job",
    }
}

/// `2/3`: ready or completed ones of those that are wanted.
fn filled<'a>(service: &Service, replicas: impl Iterator<Item = &'a Replica>) -> String {
    let (mut ready, mut active, mut completed) = (0u32, 0u32, 0u32);
    for replica in replicas {
        ready += u32::from(replica.is_endpoint());
        active += u32::from(replica.is_active());
        completed += u32::from(
            replica.revision == service.revision && replica.observed.phase == gantry_model::phase::Phase::Completed,
        );
    }
    if let Some(cron) = &service.spec.cron {
        return cron.schedule.to_string();
    }
    match service.spec.mode {
        Mode::Replicated { replicas } => format!("{ready}/{replicas}"),
        Mode::Global => format!("{ready}/{active}"),
        Mode::ReplicatedJob { completions, .. } => format!("{completed}/{completions} completed"),
        Mode::GlobalJob => format!("{completed}/{} completed", active + completed),
    }
}

async fn inspect(global: &Global, client: &Client, args: &ServicesArg) -> Outcome {
    let mut found = Vec::new();
    for text in &args.services {
        let (namespace, name) = global.qualified(text);
        let service = client.service(&namespace, &name).await?;
        found.push((
            format!("{}/{}", service.object.namespace, service.object.name),
            service.json,
        ));
    }
    output::inspect(global.output, &found)?;
    Ok(())
}

async fn scale_all(global: &Global, client: &Client, args: &ScaleArgs) -> Outcome {
    let mut changed = Vec::new();
    for (text, replicas) in &args.scales {
        let (namespace, service) = global.qualified(text);
        let request = ScaleServiceRequest {
            namespace,
            service,
            replicas: *replicas,
        };
        let reply = client
            .call(Repeat::Harmless, |mut cluster| {
                let request = request.clone();
                async move { cluster.scale_service(request).await }
            })
            .await?;
        changed.push(shown(&reply, &format!("scaled to {replicas}"))?);
    }
    wait_for(client, &args.wait, &changed).await
}

async fn update(global: &Global, client: &Client, args: UpdateArgs) -> Outcome {
    let (namespace, service) = global.qualified(&args.service.service);
    let request = UpdateServiceRequest {
        namespace,
        service,
        image: args.image,
        environment: [args.env, args.env_rm].concat(),
        update_config: None,
        constraints_add: args.constraint_add,
        constraints_remove: args.constraint_rm,
    };
    let reply = client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.update_service(request).await }
        })
        .await?;
    let changed = shown(&reply, "updated")?;
    wait_for(client, &args.wait, &[changed]).await
}

async fn rollback(global: &Global, client: &Client, args: &RollbackArgs) -> Outcome {
    let (namespace, service) = global.qualified(&args.service.service);
    let request = RollbackServiceRequest {
        namespace,
        service,
        to_revision: args.to.unwrap_or_default(),
    };
    let reply = client
        .call(Repeat::OnlyUnsent, |mut cluster| {
            let request = request.clone();
            async move { cluster.rollback_service(request).await }
        })
        .await?;
    let changed = shown(&reply, "rolling back")?;
    wait_for(client, &args.wait, &[changed]).await
}

async fn restart(global: &Global, client: &Client, args: &RestartArgs) -> Outcome {
    let mut changed = Vec::new();
    for text in &args.services.services {
        let (namespace, service) = global.qualified(text);
        let request = ServiceRequest { namespace, service };
        let reply = client
            .call(Repeat::OnlyUnsent, |mut cluster| {
                let request = request.clone();
                async move { cluster.restart_service(request).await }
            })
            .await?;
        changed.push(shown(&reply, "restarting")?);
    }
    wait_for(client, &args.wait, &changed).await
}

/// Says what was done, and gives the service as it is now.
pub fn shown(reply: &ServiceReply, done: &str) -> Result<Service, crate::failure::Failure> {
    let document = reply.service.clone().unwrap_or_default();
    let service: Service = parse(&document, kind::SERVICE)?.object;
    for warning in &reply.warnings {
        output::note(&format!("{} {warning}", style::warning("warning:", style::on_stderr())));
    }
    let (namespace, name) = (&service.namespace, &service.name);
    output::emit(&format!("{namespace}/{name} {done}, revision {}\n", service.revision))?;
    Ok(service)
}

pub async fn wait_for(client: &Client, args: &WaitArgs, services: &[Service]) -> Outcome {
    for service in services {
        let names = [service.name.to_string()];
        follow::wait(client, args, Goal::Converged, service.namespace.as_str(), &names).await?;
    }
    Ok(())
}

async fn history(global: &Global, client: &Client, args: &ServiceArg) -> Outcome {
    let (namespace, name) = global.qualified(&args.service);
    let service = client.service(&namespace, &name).await?.object;
    let revisions = revisions(client, &service).await?;
    let now = System.now();
    let mut table = Table::new(vec![
        Column::new("REVISION"),
        Column::new("AGE"),
        Column::new("IMAGE"),
        Column::new("CAUSE"),
        Column::wide("DIGEST"),
    ]);
    for Read { object: revision, json } in revisions {
        let current = if revision.number == service.revision {
            " (current)"
        } else {
            ""
        };
        let container = &revision.spec.container;
        let cells = [
            format!("{}{current}", revision.number),
            age::ago(now, revision.created_at),
            container.image.clone(),
            revision.cause.clone(),
            container.image_digest.clone().unwrap_or_default(),
        ];
        table.push(revision.number.to_string(), cells, json);
    }
    output::list(global.output, &table, "there are no revisions")?;
    Ok(())
}

/// Newest first.
async fn revisions(client: &Client, service: &Service) -> Result<Vec<Read<RevisionRecord>>, Problem> {
    let namespace = service.namespace.as_str();
    let mut revisions: Vec<Read<RevisionRecord>> =
        client.read(kind::REVISION, namespace, service.name.as_str()).await?;
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.object.number));
    Ok(revisions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_variables_are_checked_before_they_are_sent() {
        assert_eq!(scale("shop/web=3"), Ok(("shop/web".to_string(), 3)));
        for text in ["web", "web=", "web=-1", "web=many"] {
            assert!(scale(text).is_err(), "{text}");
        }
        assert!(variable("A=").is_ok() && variable("A").is_err() && variable("=b").is_err());
    }
}
