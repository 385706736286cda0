//! Completion of commands and of names, asked from the cluster while the person types.

use std::ffi::OsStr;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use gantry_api::kind;
use serde_json::Value;

use crate::args::{Cli, Global};
use crate::client::{Client, json};
use crate::failure::Outcome;
use crate::output;

/// Nobody waits longer for a completion.
const TIMEOUT: Duration = Duration::from_secs(1);

// Arguments of `gantry completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell; put the output into its start-up file, such as `source <(gantry completion bash)`
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints what makes a shell ask this program for completions.
pub fn registration(args: &CompletionArgs) -> Outcome {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell.write_registration("COMPLETE", "gantry", "gantry", "gantry", &mut script)?;
    output::emit_bytes(&script)?;
    Ok(())
}

/// Names of services.
pub fn services(current: &OsStr) -> Vec<CompletionCandidate> {
    names(kind::SERVICE, current, service_name)
}

/// Names of replicas and services.
pub fn replicas(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = names(kind::REPLICA, current, |json| {
        let slot = json["slot"]["index"].as_u64()?;
        Some(format!(
            "{}/{}.{slot}",
            json["namespace"].as_str()?,
            json["service_name"].as_str()?
        ))
    });
    found.extend(services(current));
    found
}

/// Names of nodes.
pub fn nodes(current: &OsStr) -> Vec<CompletionCandidate> {
    names(kind::NODE, current, name)
}

/// Names of namespaces.
pub fn namespaces(current: &OsStr) -> Vec<CompletionCandidate> {
    names(kind::NAMESPACE, current, name)
}

/// References of images.
pub fn images(current: &OsStr) -> Vec<CompletionCandidate> {
    names(kind::TAG, current, |json| {
        json["reference"].as_str().map(ToString::to_string)
    })
}

fn name(json: &Value) -> Option<String> {
    json["name"].as_str().map(ToString::to_string)
}

fn service_name(json: &Value) -> Option<String> {
    Some(format!("{}/{}", json["namespace"].as_str()?, json["name"].as_str()?))
}

/// A completion never fails: without a cluster there is just nothing to offer.
fn names(kind: &str, current: &OsStr, name: impl Fn(&Value) -> Option<String>) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else {
        return Vec::new();
    };
    let found = documents(kind).unwrap_or_default();
    let fits = |name: &String| {
        let short = name.split_once('/').map_or(name.as_str(), |(_, short)| short);
        name.starts_with(current) || short.starts_with(current)
    };
    found
        .iter()
        .filter_map(&name)
        .filter(fits)
        .map(CompletionCandidate::new)
        .collect()
}

fn documents(kind: &str) -> Option<Vec<Value>> {
    // The environment alone says which cluster: the words typed so far are not parsed here.
    let global = Cli::try_parse_from(["gantry", "ps"]).map_or_else(|_| Global::default(), |cli| cli.global);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        let client = Client::open(&global).await.ok()?;
        let read = client.documents(kind, "", "");
        let (documents, _) = tokio::time::timeout(TIMEOUT, read).await.ok()?.ok()?;
        Some(documents.iter().map(json).collect())
    })
}
