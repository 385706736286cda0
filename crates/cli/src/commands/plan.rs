//! `gantry plan`: what applying a manifest would do, how many more would fit then, and what would become of everything without
//! some nodes.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use gantry_api::v1::{Loss, Placement, PlanReply, PlanRequest, Room};
use gantry_api::{encode, kind};
use gantry_model::Name;
use gantry_rpc::Repeat;
use serde_json::{Value, json};

use super::apply::supply::{Step, SupplyArgs};
use super::apply::{changes_json, changes_text, prepare};
use super::manifest::ManifestArgs;
use crate::args::Global;
use crate::client::Client;
use crate::complete;
use crate::failure::Outcome;
use crate::output::{self, Column, Table};

// Arguments of `gantry plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Keep services that are in the namespace but not in the manifest
    #[arg(long)]
    keep_missing: bool,
    /// Also say how many more replicas of each service would fit
    #[arg(long)]
    what_if: bool,
    /// Also say what would become of all replicas without this node; may be given several times. Without -f, as things are
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    without: Vec<String>,
    #[command(flatten)]
    supply: SupplyArgs,
}

/// Shows what applying the manifest would do.
pub async fn run(global: &Global, args: &PlanArgs) -> Outcome {
    if !args.without.is_empty() && !args.manifest.names_files() && !args.what_if {
        let client = Client::open(global).await?;
        let reply = ask(&client, request(args, None)).await?;
        let json = json!({ "losses": losses_json(&reply.losses) });
        output::object(global.output, "plan", &json, || losses_text(&reply.losses))?;
        return Ok(());
    }
    let (client, application, steps) = prepare(global, &args.manifest, args.supply).await?;
    if steps.iter().any(Step::brings_new) {
        return planned_steps_alone(global, &application.namespace, &steps);
    }
    let document = encode(kind::APPLICATION, &application);
    let reply = ask(&client, request(args, Some(document))).await?;
    let namespace = application.namespace.to_string();
    let placements: Vec<Value> = reply.placements.iter().map(placement_json).collect();
    let json = json!({
        "namespace": namespace, "images": steps.iter().map(Step::json).collect::<Vec<_>>(),
        "changes": changes_json(&reply.changes), "placements": placements,
        "room": reply.room.iter().map(room_json).collect::<Vec<_>>(), "losses": losses_json(&reply.losses),
    });
    output::object(global.output, &namespace, &json, || {
        let mut text = steps_text(&steps) + &plan_text(&namespace, &reply);
        text.push_str(&room_text(&reply.room));
        if !args.without.is_empty() {
            text.push('\n');
            text.push_str(&losses_text(&reply.losses));
        }
        text
    })?;
    Ok(())
}

fn request(args: &PlanArgs, application: Option<gantry_api::v1::Document>) -> PlanRequest {
    PlanRequest {
        application,
        keep_missing: args.keep_missing,
        room: args.what_if,
        without_nodes: args.without.clone(),
    }
}

async fn ask(client: &Client, request: PlanRequest) -> Result<PlanReply, gantry_model::Problem> {
    client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.plan(request).await }
        })
        .await
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

fn placement_json(placement: &Placement) -> Value {
    json!({
        "service": placement.service, "node": placement.node, "count": placement.count, "reason": placement.reason,
    })
}

fn room_json(room: &Room) -> Value {
    json!({ "service": room.service, "more": room.more, "limit": room.limit })
}

fn losses_json(losses: &[Loss]) -> Vec<Value> {
    let json = |loss: &Loss| {
        json!({
            "namespace": loss.namespace, "service": loss.service, "moved": loss.moved, "stranded": loss.stranded,
            "reason": loss.reason,
        })
    };
    losses.iter().map(json).collect()
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

fn room_text(rooms: &[Room]) -> String {
    if rooms.is_empty() {
        return String::new();
    }
    let mut table = Table::new(vec![Column::new("SERVICE"), Column::new("MORE"), Column::new("THEN")]);
    for room in rooms {
        let (more, then) = match room.limit.as_str() {
            "" => (format!("{} and beyond", room.more), String::new()),
            limit => (room.more.to_string(), limit.to_string()),
        };
        table.push(room.service.as_str(), [room.service.clone(), more, then], Value::Null);
    }
    format!("\n{}", table.render(false))
}

fn losses_text(losses: &[Loss]) -> String {
    if losses.is_empty() {
        return "nothing that runs there would be missed\n".to_string();
    }
    let mut table = Table::new(vec![
        Column::new("SERVICE"),
        Column::new("ELSEWHERE"),
        Column::new("NOWHERE"),
        Column::new("REASON"),
    ]);
    for loss in losses {
        let name = format!("{}/{}", loss.namespace, loss.service);
        let cells = [
            name.clone(),
            loss.moved.to_string(),
            loss.stranded.to_string(),
            loss.reason.clone(),
        ];
        table.push(name, cells, Value::Null);
    }
    table.render(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_api::v1::Change;
    use gantry_api::v1::change::Action;

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
            ..PlanReply::default()
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
    fn what_if_says_how_many_more_and_who_would_be_missed() {
        let room = |service: &str, more, limit: &str| Room {
            service: service.to_string(),
            more,
            limit: limit.to_string(),
        };
        let expected = "
SERVICE   MORE              THEN
db        1000 and beyond   -
web       3                 no suitable node: 2 nodes lack memory
";
        let rooms = [
            room("db", 1000, ""),
            room("web", 3, "no suitable node: 2 nodes lack memory"),
        ];
        assert_eq!(room_text(&rooms), expected);
        let loss = Loss {
            namespace: "shop".to_string(),
            service: "web".to_string(),
            moved: 2,
            stranded: 1,
            reason: "no suitable node".to_string(),
        };
        let expected = "\
SERVICE    ELSEWHERE   NOWHERE   REASON
shop/web   2           1         no suitable node
";
        assert_eq!(losses_text(&[loss]), expected);
        assert_eq!(losses_text(&[]), "nothing that runs there would be missed\n");
    }
}
