//! Verbs that are one call for each container they name.

use std::io::{self, IsTerminal};

use clap::Args;
use gantry_api::v1::wait_container_request::Until;
use gantry_api::v1::{
    CommitContainerRequest, ContainerRequest, KillContainerRequest, RemoveContainerRequest, RenameContainerRequest,
    StopContainerRequest, UpdateContainerRequest, WaitContainerRequest,
};
use gantry_model::container::{Container, FileChange, FileChangeKind};
use gantry_model::{DurationMs, Problem};
use tonic::Status;

use super::NodeArgs;
use super::options::{ResourceOptions, restart as restart_policy};
use crate::args::Global;
use crate::client::stream_problem;
use crate::engine::Engine;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Column, Table};

// Containers by name, id, or the beginning of an id.
#[derive(Debug, Args)]
pub struct NamesArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

// One container.
#[derive(Debug, Args)]
pub struct OneArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Name or id
    container: String,
}

// Arguments of `gantry stop` and `gantry restart`.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Seconds before SIGKILL [default: the container's own, else 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS")]
    time: Option<u64>,
    /// Instead of the container's stop signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "", hide_default_value = true)]
    signal: String,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

// Arguments of `gantry kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

// Arguments of `gantry wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// not-running, next-exit, removed or healthy
    #[arg(long, value_name = "CONDITION", default_value = "not-running", value_parser = until)]
    until: i32,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

// Arguments of `gantry rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Also while they run
    #[arg(short, long)]
    force: bool,
    /// With their anonymous volumes
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

// Arguments of `gantry rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Name or id
    container: String,
    /// Its new name
    name: String,
}

// Arguments of `gantry update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    resources: ResourceOptions,
    /// When they are started again: no, on-failure, on-failure:MAX, always, unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

// Arguments of `gantry commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Who made it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// What changed
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Dockerfile instruction for the image, such as 'CMD ["/bin/web"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Do not freeze it meanwhile
    #[arg(long)]
    no_pause: bool,
    /// Name or id
    container: String,
    /// Name for the image
    #[arg(default_value = "", hide_default_value = true)]
    reference: String,
}

fn until(text: &str) -> Result<i32, String> {
    let until = match text {
        "not-running" => Until::NotRunning,
        "next-exit" => Until::NextExit,
        "removed" => Until::Removed,
        "healthy" => Until::Healthy,
        _ => return Err("write not-running, next-exit, removed or healthy".to_string()),
    };
    Ok(until.into())
}

/// Does it for each; prints the names that it worked for, says why for the others, and fails if there are any.
async fn each<T, F, Fut>(containers: &[String], call: F, show: impl Fn(&str, T) -> String) -> Outcome
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut failed = false;
    for container in containers {
        match call(container.clone()).await {
            Ok(answer) => output::emit(&show(container, answer.into_inner()))?,
            Err(status) => {
                let _ = Failure::Problem(stream_problem(&status)).report();
                failed = true;
            }
        }
    }
    if failed { Err(Failure::SAID) } else { Ok(()) }
}

fn named<T>(container: &str, _: T) -> String {
    format!("{container}\n")
}

/// Stops them.
pub async fn stop(global: &Global, args: &StopArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let call = |container| {
        let request = engine.request(stop_request(args, container));
        let mut client = engine.client();
        async move { client.stop_container(request).await }
    };
    each(&args.containers, call, named).await
}

/// Stops and starts them.
pub async fn restart(global: &Global, args: &StopArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let call = |container| {
        let request = engine.request(stop_request(args, container));
        let mut client = engine.client();
        async move { client.restart_container(request).await }
    };
    each(&args.containers, call, named).await
}

fn stop_request(args: &StopArgs, container: String) -> StopContainerRequest {
    StopContainerRequest {
        container,
        grace_ms: args.time.map(|seconds| DurationMs::secs(seconds).0),
        signal: args.signal.clone(),
    }
}

/// Sends them a signal.
pub async fn kill(global: &Global, args: &KillArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let call = |container| {
        let signal = args.signal.clone();
        let request = engine.request(KillContainerRequest { container, signal });
        let mut client = engine.client();
        async move { client.kill_container(request).await }
    };
    each(&args.containers, call, named).await
}

/// Freezes them.
pub async fn pause(global: &Global, args: &NamesArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let call = |container| {
        let request = engine.request(ContainerRequest { container });
        let mut client = engine.client();
        async move { client.pause_container(request).await }
    };
    each(&args.containers, call, named).await
}

/// Lets them go on.
pub async fn unpause(global: &Global, args: &NamesArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let call = |container| {
        let request = engine.request(ContainerRequest { container });
        let mut client = engine.client();
        async move { client.unpause_container(request).await }
    };
    each(&args.containers, call, named).await
}

/// Waits, and prints exit statuses.
pub async fn wait(global: &Global, args: &WaitArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let call = |container| {
        let until = args.until;
        let request = engine.request(WaitContainerRequest { container, until });
        let mut client = engine.client();
        async move { client.wait_container(request).await }
    };
    each(&args.containers, call, |_, reply| format!("{}\n", reply.exit_code)).await
}

/// Removes them.
pub async fn remove(global: &Global, args: &RemoveArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let call = |container| {
        let request = engine.request(RemoveContainerRequest {
            container,
            force: args.force,
            volumes: args.volumes,
        });
        let mut client = engine.client();
        async move { client.remove_container(request).await }
    };
    each(&args.containers, call, named).await
}

/// Gives it another name.
pub async fn rename(global: &Global, args: &RenameArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = RenameContainerRequest {
        container: args.container.clone(),
        name: args.name.clone(),
    };
    let answer = engine.client().rename_container(engine.request(request)).await;
    answer.map_err(|status| stream_problem(&status))?;
    Ok(())
}

/// Changes limits and restart policies.
pub async fn update(global: &Global, args: &UpdateArgs) -> Outcome {
    let limits = args.resources.limits()?;
    let restart = args.restart.as_deref().map(restart_policy).transpose()?;
    let resources = (limits != gantry_model::spec::Resources::default())
        .then(|| gantry_api::encode(gantry_api::kind::RESOURCES, &limits));
    let restart = restart.map(|(policy, _)| gantry_api::encode(gantry_api::kind::RESTART_POLICY, &policy));
    if resources.is_none() && restart.is_none() {
        let problem = Problem::new(gantry_model::Class::Invalid, "update", "changes nothing");
        return Err(problem.remedy("say what is to change, such as --memory 512m").into());
    }
    let engine = Engine::open(global, args.node.name()).await?;
    let call = |container| {
        let request = engine.request(UpdateContainerRequest {
            container,
            resources: resources.clone(),
            restart: restart.clone(),
        });
        let mut client = engine.client();
        async move { client.update_container(request).await }
    };
    each(&args.containers, call, named).await
}

/// Shows everything known of them.
pub async fn inspect(global: &Global, args: &NamesArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let mut found = Vec::new();
    for container in &args.containers {
        let request = ContainerRequest {
            container: container.clone(),
        };
        let answer = engine.client().inspect_container(engine.request(request)).await;
        let document = answer.map_err(|status| stream_problem(&status))?.into_inner();
        found.push((container.clone(), crate::client::json(&document)));
    }
    output::inspect(global.output, &found)?;
    Ok(())
}

/// Shows processes.
pub async fn top(global: &Global, args: &OneArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = ContainerRequest {
        container: args.container.clone(),
    };
    let answer = engine.client().top_container(engine.request(request)).await;
    let reply = answer.map_err(|status| stream_problem(&status))?.into_inner();
    let rows = std::iter::once(&reply.titles).chain(reply.processes.iter().map(|process| &process.fields));
    let rows: Vec<&Vec<String>> = rows.collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(index, cell)| {
            let width = width(index).unwrap_or_default();
            format!("{cell:<width$}")
        });
        let line: Vec<String> = cells.collect();
        text.push_str(line.join("   ").trim_end());
        text.push('\n');
    }
    output::emit(&text)?;
    Ok(())
}

/// Shows changed files.
pub async fn diff(global: &Global, args: &OneArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = ContainerRequest {
        container: args.container.clone(),
    };
    let answer = engine.client().diff_container(engine.request(request)).await;
    let documents = answer.map_err(|status| stream_problem(&status))?.into_inner();
    for document in &documents.items {
        let change: FileChange = gantry_api::decode(document, gantry_api::kind::FILE_CHANGE)?;
        let letter = match change.kind {
            FileChangeKind::Changed => 'C',
            FileChangeKind::Added => 'A',
            FileChangeKind::Deleted => 'D',
        };
        let json = crate::client::json(document);
        output::stream_item(global.output, &change.path, &json, || {
            format!("{letter} {}\n", change.path)
        })?;
    }
    Ok(())
}

/// Shows published ports.
pub async fn port(global: &Global, args: &OneArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = ContainerRequest {
        container: args.container.clone(),
    };
    let answer = engine.client().inspect_container(engine.request(request)).await;
    let document = answer.map_err(|status| stream_problem(&status))?.into_inner();
    let found: Container = gantry_api::decode(&document, gantry_api::kind::CONTAINER)?;
    let mut table = Table::new(vec![Column::new("PORT"), Column::new("PUBLISHED")]);
    for port in &found.ports {
        let inside = format!("{}/{}", port.target, port.protocol);
        let address = port
            .host_ip
            .map_or_else(|| "0.0.0.0".to_string(), |address| address.to_string());
        let outside = port
            .published
            .map(|published| format!("{address}:{published}"))
            .unwrap_or_default();
        let json = serde_json::to_value(port).unwrap_or_default();
        table.push(inside.clone(), [inside, outside], json);
    }
    output::list(global.output, &table, "it publishes no ports")?;
    Ok(())
}

/// Makes an image of its changes.
pub async fn commit(global: &Global, args: &CommitArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = CommitContainerRequest {
        container: args.container.clone(),
        reference: args.reference.clone(),
        message: args.message.clone(),
        author: args.author.clone(),
        changes: args.change.clone(),
        pause: !args.no_pause,
    };
    let answer = engine.client().commit_container(engine.request(request)).await;
    let reply = answer.map_err(|status| stream_problem(&status))?.into_inner();
    for image in reply.images {
        output::emit(&format!("{}\n", image.digest))?;
    }
    Ok(())
}

/// Asks before something that cannot be undone, unless told not to.
pub fn confirm(question: &str, force: bool) -> io::Result<bool> {
    if force || !io::stdin().is_terminal() {
        return Ok(true);
    }
    output::note(&format!("{question} [y/N] "));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
