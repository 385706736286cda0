//! What the image store of one node can say and do: tag, inspect, history, prune, du, verify.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use gantry_api::v1::{Empty, ImageRequest, PruneImagesRequest, TagImageRequest, VerifyImagesRequest};
use gantry_model::{ByteSize, DurationMs};
use serde_json::Value;

use crate::args::Global;
use crate::client::{json, stream_problem};
use crate::commands::container::{NodeArgs, confirm};
use crate::complete;
use crate::engine::Engine;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Column, Table};

/// Characters of a command that a table shows, as in Docker.
const COMMAND_SHOWN: usize = 60;

// Images of a node.
#[derive(Debug, Args)]
pub struct NamesArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Names or digests
    #[arg(required = true, value_name = "IMAGE", add = ArgValueCompleter::new(complete::images))]
    images: Vec<String>,
}

// Arguments of `gantry image history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Name or digest
    #[arg(add = ArgValueCompleter::new(complete::images))]
    image: String,
}

// Arguments of `gantry image tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Name or digest
    #[arg(add = ArgValueCompleter::new(complete::images))]
    image: String,
    /// Its further name
    reference: String,
}

// Arguments of `gantry image prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Also images with a name that nothing uses
    #[arg(short, long)]
    all: bool,
    /// Only what has not been used for so long
    #[arg(long, value_name = "DURATION", default_value = "0")]
    unused_for: DurationMs,
    /// The build cache instead of images
    #[arg(long)]
    build_cache: bool,
    /// Say what would go
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

// Arguments of `gantry image du`.
#[derive(Debug, Args)]
pub struct UsageArgs {
    #[command(flatten)]
    node: NodeArgs,
}

// Arguments of `gantry image verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Drop what is damaged, so that it is fetched again
    #[arg(long)]
    repair: bool,
}

/// Shows everything known of them.
pub async fn inspect(global: &Global, args: &NamesArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let mut found = Vec::new();
    for image in &args.images {
        let request = ImageRequest { image: image.clone() };
        let answer = engine.client().inspect_image(engine.request(request)).await;
        let document = answer.map_err(|status| stream_problem(&status))?.into_inner();
        found.push((image.clone(), json(&document)));
    }
    output::inspect(global.output, &found)?;
    Ok(())
}

/// Shows how it was made.
pub async fn history(global: &Global, args: &HistoryArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = ImageRequest {
        image: args.image.clone(),
    };
    let answer = engine.client().image_history(engine.request(request)).await;
    let documents = answer.map_err(|status| stream_problem(&status))?.into_inner();
    let mut table = Table::new(vec![
        Column::new("CREATED"),
        Column::new("CREATED BY"),
        Column::new("SIZE"),
        Column::new("COMMENT"),
        Column::wide("LAYER"),
    ]);
    for document in &documents.items {
        let step = json(document);
        let by = text(&step, &["created_by", "CreatedBy"]);
        let shown = if args.no_trunc { by.clone() } else { shorten(&by) };
        let size = ["size", "Size"]
            .iter()
            .find_map(|key| step[*key].as_u64())
            .unwrap_or_default();
        let cells = [
            text(&step, &["created", "Created"]),
            shown,
            ByteSize(size).to_string(),
            text(&step, &["comment", "Comment"]),
            text(&step, &["layer", "Layer"]),
        ];
        table.push(by, cells, step);
    }
    output::list(global.output, &table, "it does not say how it was made")?;
    Ok(())
}

fn text(value: &Value, keys: &[&str]) -> String {
    keys.iter()
        .find_map(|key| value[*key].as_str())
        .unwrap_or_default()
        .to_string()
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= COMMAND_SHOWN {
        return text.to_string();
    }
    let beginning: String = text.chars().take(COMMAND_SHOWN - 1).collect();
    format!("{beginning}…")
}

/// Gives it one more name.
pub async fn tag(global: &Global, args: &TagArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = TagImageRequest {
        source: args.image.clone(),
        reference: args.reference.clone(),
    };
    let answer = engine.client().tag_image(engine.request(request)).await;
    answer.map_err(|status| stream_problem(&status))?;
    Ok(())
}

/// Removes what nothing uses.
pub async fn prune(global: &Global, args: &PruneArgs) -> Outcome {
    let question = match (args.build_cache, args.all) {
        (true, _) => "remove the build cache of this node?",
        (false, true) => "remove all images that no container or replica of this node uses?",
        (false, false) => "remove all images without a name?",
    };
    if !confirm(question, args.force || args.dry_run)? {
        return Ok(());
    }
    let engine = Engine::open(global, args.node.name()).await?;
    let request = PruneImagesRequest {
        all: args.all,
        unused_for_ms: args.unused_for.0,
        filters: Vec::new(),
        dry_run: args.dry_run,
    };
    let mut client = engine.client();
    let answer = if args.build_cache {
        client.prune_build_cache(engine.request(request)).await
    } else {
        client.prune_images(engine.request(request)).await
    };
    let reply = answer.map_err(|status| stream_problem(&status))?.into_inner();
    let untagged = reply
        .untagged
        .iter()
        .map(|name| format!("untagged {}\n", super::familiar(name)));
    let deleted = reply.deleted.iter().map(|digest| format!("deleted {digest}\n"));
    output::emit(&untagged.chain(deleted).collect::<String>())?;
    let verb = if args.dry_run { "would be freed" } else { "freed" };
    output::note(&format!("{} {verb}", ByteSize(reply.freed_bytes)));
    Ok(())
}

/// Shows what takes how much of the disk.
pub async fn usage(global: &Global, args: &UsageArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let answer = engine.client().disk_usage(engine.request(Empty {})).await;
    let document = answer.map_err(|status| stream_problem(&status))?.into_inner();
    let usage = json(&document);
    output::object(global.output, "usage", &usage, || usage_table(&usage))?;
    Ok(())
}

fn usage_table(usage: &Value) -> String {
    let size = |value: &Value| ByteSize(value.as_u64().unwrap_or_default()).to_string();
    let mut table = Table::new(vec![
        Column::new("IMAGE"),
        Column::new("SIZE"),
        Column::new("SHARED"),
        Column::new("UNIQUE"),
        Column::new("IN USE"),
    ]);
    for image in usage["images"].as_array().into_iter().flatten() {
        let names = image["references"].as_array().into_iter().flatten();
        let names: Vec<String> = names.filter_map(Value::as_str).map(super::familiar).collect();
        let name = if names.is_empty() {
            text(image, &["digest"])
        } else {
            names.join(", ")
        };
        let used = if image["in_use"] == true { "yes" } else { "no" };
        let cells = [
            name.clone(),
            size(&image["size"]),
            size(&image["shared"]),
            size(&image["unique"]),
            used.to_string(),
        ];
        table.push(name, cells, image.clone());
    }
    let mut shown = table.render(false);
    let mut line = |what: &str, value: String| shown.push_str(&format!("{what:<28}{value}\n"));
    line("\nimages", size(&usage["images_size"]));
    line("of that reclaimable", size(&usage["images_reclaimable"]));
    line("unpacked layers", size(&usage["layers_size"]));
    for (what, value) in usage["others"].as_object().into_iter().flatten() {
        line(what, size(value));
    }
    line("garbage", size(&usage["garbage"]));
    shown
}

/// Reads everything and says what is damaged.
pub async fn verify(global: &Global, args: &VerifyArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = VerifyImagesRequest { repair: args.repair };
    let answer = engine.client().verify_images(engine.request(request)).await;
    let documents = answer.map_err(|status| stream_problem(&status))?.into_inner();
    for document in &documents.items {
        let finding = json(document);
        output::stream_item(global.output, "finding", &finding, || {
            let message = text(&finding, &["message"]);
            if args.repair {
                format!("{message}\n")
            } else {
                format!("{message} ({})\n", text(&finding, &["remedy"]))
            }
        })?;
    }
    if documents.items.is_empty() {
        output::note("everything is as its digest says");
        return Ok(());
    }
    Err(Failure::SAID)
}
