//! `gantry apply`, `plan` and `delete`: the cluster as a manifest says.

mod supply;

use clap::Args;
use gantry_api::v1::change::Action;
use gantry_api::v1::{ApplyRequest, Change, DeleteRequest, Placement, PlanReply};
use gantry_api::{encode, kind};
use gantry_model::{Class, Name, Problem};
use gantry_rpc::Repeat;
use serde_json::{Value, json};

use self::supply::{Step, SupplyArgs};
use super::follow::{self, Goal, WaitArgs};
use super::manifest::{self, Manifest, ManifestArgs};
use crate::args::Global;
use crate::client::Client;
use crate::failure::Outcome;
use crate::output::{self, Column, Table};

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

// Arguments of `gantry plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Keep services that are in the namespace but not in the manifest
    #[arg(long)]
    keep_missing: bool,
    #[command(flatten)]
    supply: SupplyArgs,
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

/// Applies the manifest.
pub async fn apply(global: &Global, args: &ApplyArgs) -> Outcome {
    let Manifest {
        mut application,
        images,
    } = manifest::read(global, &args.manifest)?;
    let client = Client::open(global).await?;
    supply::name_as_cluster(&client, &mut application).await?;
    let known = supply::known(&client).await?;
    let steps = supply::plan(&application, &images, &known, args.supply)?;
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

/// Shows what applying the manifest would do.
pub async fn plan(global: &Global, args: &PlanArgs) -> Outcome {
    let Manifest {
        mut application,
        images,
    } = manifest::read(global, &args.manifest)?;
    let client = Client::open(global).await?;
    supply::name_as_cluster(&client, &mut application).await?;
    let known = supply::known(&client).await?;
    let steps = supply::plan(&application, &images, &known, args.supply)?;
    if steps.iter().any(Step::brings_new) {
        return planned_steps_alone(global, &application.namespace, &steps);
    }
    let request = ApplyRequest {
        application: Some(encode(kind::APPLICATION, &application)),
        keep_missing: args.keep_missing,
    };
    let reply = client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.plan(request).await }
        })
        .await?;
    let namespace = application.namespace.to_string();
    let placements: Vec<Value> = reply.placements.iter().map(placement_json).collect();
    let json = json!({
        "namespace": namespace, "images": steps.iter().map(Step::json).collect::<Vec<_>>(),
        "changes": changes_json(&reply.changes), "placements": placements,
    });
    output::object(global.output, &namespace, &json, || {
        steps_text(&steps) + &plan_text(&namespace, &reply)
    })?;
    Ok(())
}

/// The cluster cannot plan with images that it does not have yet: what would be done for them is all that can be said.
fn planned_steps_alone(global: &Global, namespace: &Name, steps: &[Step]) -> Outcome {
    let json = json!({ "namespace": namespace, "images": steps.iter().map(Step::json).collect::<Vec<_>>() });
    output::object(global.output, namespace.as_str(), &json, || {
        let rest = "the changes can be planned once the cluster has these images\n";
        format!("{}{rest}", steps_text(steps))
    })?;
    Ok(())
}

/// One line for each image to build or pull.
fn steps_text(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("* {}\n", step.line(false))).collect()
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

fn changes_json(changes: &[Change]) -> Vec<Value> {
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
fn changes_text(namespace: &str, changes: &[Change], nothing: &str) -> String {
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

fn placement_json(placement: &Placement) -> Value {
    json!({
        "service": placement.service, "node": placement.node, "count": placement.count, "reason": placement.reason,
    })
}

fn plan_text(namespace: &str, reply: &PlanReply) -> String {
    let mut text = changes_text(namespace, &reply.changes, "nothing would change\n");
    if reply.placements.is_empty() {
        return text;
    }
    let mut table = Table::new(vec![
        Column::new("SERVICE"),
        Column::new("REPLICAS"),
        Column::new("NODE"),
        Column::new("REASON"),
    ]);
    for placement in &reply.placements {
        let node = if placement.node.is_empty() {
            "(pending)"
        } else {
            placement.node.as_str()
        };
        let cells = [
            placement.service.clone(),
            placement.count.to_string(),
            node.to_string(),
            placement.reason.clone(),
        ];
        table.push(placement.service.as_str(), cells, Value::Null);
    }
    text.push('\n');
    text.push_str(&table.render(false));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_shows_changes_and_placements() {
        let change = |action: Action, name: &str, details: &[&str], rollout| Change {
            action: action.into(),
            kind: "service".to_string(),
            name: name.to_string(),
            details: details.iter().map(ToString::to_string).collect(),
            rollout,
        };
        let placement = |node: &str, count, reason: &str| Placement {
            service: "web".to_string(),
            node: node.to_string(),
            count,
            reason: reason.to_string(),
        };
        let reply = PlanReply {
            changes: vec![
                change(Action::Update, "web", &["container.image: web:v1 -> web:v2"], true),
                change(Action::Unchanged, "redis", &[], false),
                change(Action::Delete, "old", &[], false),
            ],
            placements: vec![placement("alpha", 2, ""), placement("", 1, "no node has 4 GiB free")],
        };
        let expected = "\
~ service shop/web (rollout)
    container.image: web:v1 -> web:v2
= service shop/redis (unchanged)
- service shop/old

SERVICE   REPLICAS   NODE        REASON
web       2          alpha       -
web       1          (pending)   no node has 4 GiB free
";
        assert_eq!(plan_text("shop", &reply), expected);
        assert_eq!(plan_text("shop", &PlanReply::default()), "nothing would change\n");
    }

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
