//! `gantry apply` and `delete`: the cluster as a manifest says.

pub(super) mod supply;

use clap::Args;
use gantry_api::v1::change::Action;
use gantry_api::v1::{ApplyRequest, Change, DeleteRequest};
use gantry_api::{encode, kind};
use gantry_model::spec::Application;
use gantry_model::{Class, Problem};
use gantry_rpc::Repeat;
use serde_json::{Value, json};

use self::supply::{Step, SupplyArgs};
use super::follow::{self, Goal, WaitArgs};
use super::manifest::{self, Manifest, ManifestArgs};
use crate::args::Global;
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::output;

// Arguments of `gantry apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Keep services that are in the namespace but not in the manifest
    #[arg(long)]
    keep_missing: bool,
    #[command(flatten)]
    supply: SupplyArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

// Arguments of `gantry delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Only these services; of the namespace given with -n, no manifest is read then
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Everything in the namespace given with -n; no manifest is read
    #[arg(long, conflicts_with = "services", requires = "namespace")]
    all: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Reads a manifest, and finds out what is to be done for its images.
pub(super) async fn prepare(
    global: &Global,
    files: &ManifestArgs,
    wanted: SupplyArgs,
) -> Result<(Client, Application, Vec<Step>), Failure> {
    let Manifest {
        mut application,
        images,
    } = manifest::read(global, files)?;
    let client = Client::open(global).await?;
    supply::name_as_cluster(&client, &mut application).await?;
    let known = supply::known(&client).await?;
    let steps = supply::plan(&application, &images, &known, wanted)?;
    Ok((client, application, steps))
}

/// Applies the manifest.
pub async fn apply(global: &Global, args: &ApplyArgs) -> Outcome {
    let (client, application, steps) = prepare(global, &args.manifest, args.supply).await?;
    supply::run(global, &client, steps).await?;
    let request = ApplyRequest {
        application: Some(encode(kind::APPLICATION, &application)),
        keep_missing: args.keep_missing,
    };
    let reply = client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.apply(request).await }
        })
        .await?;
    let namespace = application.namespace.to_string();
    let json = json!({ "namespace": namespace, "revision": reply.revision, "changes": changes_json(&reply.changes) });
    output::object(global.output, &namespace, &json, || {
        changes_text(&namespace, &reply.changes, "")
    })?;
    let names: Vec<String> = application.services.keys().map(ToString::to_string).collect();
    if names.is_empty() {
        return Ok(());
    }
    follow::wait(&client, &args.wait, Goal::Converged, &namespace, &names).await
}

/// Deletes what the manifest names, or what the arguments name.
pub async fn delete(global: &Global, args: &DeleteArgs) -> Outcome {
    let (namespace, services) = what_to_delete(global, args)?;
    let client = Client::open(global).await?;
    let request = DeleteRequest {
        namespace: namespace.clone(),
        services: services.clone(),
    };
    let reply = client
        .call(Repeat::OnlyUnsent, |mut cluster| {
            let request = request.clone();
            async move { cluster.delete(request).await }
        })
        .await?;
    let json = json!({ "namespace": namespace, "revision": reply.revision, "changes": changes_json(&reply.changes) });
    output::object(global.output, &namespace, &json, || {
        changes_text(&namespace, &reply.changes, "")
    })?;
    follow::wait(&client, &args.wait, Goal::Gone, &namespace, &services).await
}

fn what_to_delete(global: &Global, args: &DeleteArgs) -> Result<(String, Vec<String>), crate::failure::Failure> {
    if args.services.is_empty() && !args.all {
        let application = manifest::read(global, &args.manifest)?.application;
        // Everything of the namespace: configs, secrets and services that an earlier manifest named go too.
        return Ok((application.namespace.to_string(), Vec::new()));
    }
    let mut namespace = global.namespace();
    let mut services = Vec::new();
    for text in &args.services {
        let (own, name) = global.qualified(text);
        if !namespace.is_empty() && namespace != own {
            let reason = "services of one namespace at a time";
            return Err(Problem::new(Class::Invalid, format!("service {text}"), reason).into());
        }
        namespace = own;
        services.push(name);
    }
    if namespace.is_empty() {
        let problem = Problem::new(Class::Invalid, args.services.join(", "), "the namespace is not given");
        return Err(problem.remedy("name it with -n, or write NAMESPACE/SERVICE").into());
    }
    Ok((namespace, services))
}

pub(super) fn changes_json(changes: &[Change]) -> Vec<Value> {
    changes
        .iter()
        .map(|change| {
            json!({
                "action": word(change.action()), "kind": change.kind, "name": change.name,
                "details": change.details, "rollout": change.rollout,
            })
        })
        .collect()
}

const fn word(action: Action) -> &'static str {
    match action {
        Action::Unspecified => "unknown",
        Action::Create => "create",
        Action::Update => "update",
        Action::Delete => "delete",
        Action::Unchanged => "unchanged",
    }
}

const fn sign(action: Action) -> &'static str {
    match action {
        Action::Unspecified => "?",
        Action::Create => "+",
        Action::Update => "~",
        Action::Delete => "-",
        Action::Unchanged => "=",
    }
}

/// `+ service shop/web`, with one indented line per changed field.
pub(super) fn changes_text(namespace: &str, changes: &[Change], nothing: &str) -> String {
    let mut text = String::new();
    for change in changes {
        let rollout = if change.rollout { " (rollout)" } else { "" };
        let unchanged = if change.action() == Action::Unchanged {
            " (unchanged)"
        } else {
            ""
        };
        let (sign, kind, name) = (sign(change.action()), &change.kind, &change.name);
        text.push_str(&format!("{sign} {kind} {namespace}/{name}{rollout}{unchanged}\n"));
        for detail in &change.details {
            text.push_str(&format!("    {detail}\n"));
        }
    }
    if text.is_empty() { nothing.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_to_delete_need_one_namespace() {
        let wait = WaitArgs::for_test();
        let args = |services: &[&str]| DeleteArgs {
            manifest: ManifestArgs::default(),
            services: services.iter().map(ToString::to_string).collect(),
            all: false,
            wait: wait.clone(),
        };
        let global = Global::default();
        let (namespace, names) = what_to_delete(&global, &args(&["shop/web", "shop/redis"])).expect("one namespace");
        assert_eq!(
            (namespace.as_str(), names.as_slice()),
            ("shop", ["web".to_string(), "redis".to_string()].as_slice())
        );
        assert!(what_to_delete(&global, &args(&["shop/web", "blog/web"])).is_err());
        assert!(what_to_delete(&global, &args(&["web"])).is_err());
    }
}
