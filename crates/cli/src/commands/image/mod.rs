//! `gantry image`: what can be run.

mod store;
pub mod transfer;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use gantry_api::kind;
use gantry_api::v1::import_image_start::Format as Archive;
use gantry_api::v1::{ExportImageRequest, ImportImageReply, ImportImageStart, RemoveImageRequest};
use gantry_env::{Env, System};
use gantry_model::object::{ImageRecord, TagRecord};
use gantry_model::{ByteSize, Class, ImageReference, NodeId, Problem, Timestamp};
use gantry_rpc::Repeat;
use serde_json::json;

use super::upload::{self, Progress, upload};
use crate::args::Global;
use crate::client::{Client, Read, stream_problem};
use crate::complete;
use crate::failure::{Outcome, file_problem};
use crate::output::{self, Column, Table, age};
use crate::terminal;

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Make an image from a root filesystem: a folder, or a tar archive
    Import(ImportArgs),
    /// Take images over from an archive of `docker save`, or an OCI layout
    Load(LoadArgs),
    /// Write images into one archive
    Save(SaveArgs),
    /// List images
    Ls,
    /// Remove images that no service uses
    Rm(RemoveArgs),
    /// Bring images in from a registry
    Pull(transfer::PullArgs),
    /// Send images to a registry
    Push(transfer::PushArgs),
    /// Give an image one more name
    Tag(store::TagArgs),
    /// Show everything known of images
    Inspect(store::NamesArgs),
    /// Show how an image was made
    History(store::HistoryArgs),
    /// Remove images of a node that nothing uses
    Prune(store::PruneArgs),
    /// Show what takes how much of a node's disk
    Du(store::UsageArgs),
    /// Read all images of a node and say what is damaged
    Verify(store::VerifyArgs),
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Folder or archive; `-` is standard input
    path: PathBuf,
    /// Name of the image, such as shop/web:v1
    reference: ImageReference,
    /// Configure it as a Dockerfile does: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Store it on this node; its peers fetch it from there
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true,
          add = ArgValueCompleter::new(complete::nodes))]
    node: String,
}

#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The archive; `-` is standard input
    #[arg(default_value = "-")]
    path: PathBuf,
    /// Store it on this node; its peers fetch it from there
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true,
          add = ArgValueCompleter::new(complete::nodes))]
    node: String,
}

#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Names or digests
    #[arg(required = true, value_name = "IMAGE", add = ArgValueCompleter::new(complete::images))]
    images: Vec<String>,
    /// Where to [default: standard output]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// As an OCI layout instead of docker's form
    #[arg(long)]
    oci: bool,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Names or digests
    #[arg(required = true, value_name = "IMAGE", add = ArgValueCompleter::new(complete::images))]
    images: Vec<String>,
    /// Also when replicas that have ended still refer to it
    #[arg(short, long)]
    force: bool,
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Import(args) => import(global, args).await,
        Command::Load(args) => load(global, args).await,
        Command::Save(args) => save(global, args).await,
        Command::Ls => list(global).await,
        Command::Rm(args) => remove(global, args).await,
        Command::Pull(args) => transfer::pull(global, &args).await,
        Command::Push(args) => transfer::push(global, &args).await,
        Command::Tag(args) => store::tag(global, &args).await,
        Command::Inspect(args) => store::inspect(global, &args).await,
        Command::History(args) => store::history(global, &args).await,
        Command::Prune(args) => store::prune(global, &args).await,
        Command::Du(args) => store::usage(global, &args).await,
        Command::Verify(args) => store::verify(global, &args).await,
    }
}

async fn import(global: &Global, args: ImportArgs) -> Outcome {
    let options = changes::options(&args.change)?;
    let client = Client::open(global).await?;
    let start = ImportImageStart {
        format: Archive::Rootfs.into(),
        reference: args.reference.to_string(),
        options_json: options.to_string().into_bytes().into(),
        node: args.node,
    };
    show(global, &upload(&client, start, &args.path).await?)
}

async fn load(global: &Global, args: LoadArgs) -> Outcome {
    if args.path.as_os_str() == "-" && terminal::is_input() {
        let problem = Problem::new(Class::Invalid, "standard input", "is a terminal, not an archive");
        return Err(problem.remedy("name the archive, or pipe it in").into());
    }
    let client = Client::open(global).await?;
    let start = ImportImageStart {
        format: Archive::Archive.into(),
        reference: String::new(),
        options_json: Vec::new().into(),
        node: args.node,
    };
    show(global, &upload(&client, start, &args.path).await?)
}

fn show(global: &Global, reply: &ImportImageReply) -> Outcome {
    let images: Vec<_> = reply
        .images
        .iter()
        .map(|image| {
            json!({
                "digest": image.digest, "config_digest": image.config_digest, "references": image.references,
                "size": image.size_bytes, "platform": image.platform,
            })
        })
        .collect();
    let json = json!({ "node": reply.node, "images": images });
    let names: Vec<&str> = reply
        .images
        .iter()
        .flat_map(|image| &image.references)
        .map(String::as_str)
        .collect();
    output::object(global.output, &names.join("\n"), &json, || {
        let line = |image: &gantry_api::v1::ImageInfo| {
            let names: Vec<String> = image.references.iter().map(|reference| familiar(reference)).collect();
            let names = names.join(", ");
            format!(
                "{names} {} ({}) on {}\n",
                image.digest,
                ByteSize(image.size_bytes),
                reply.node
            )
        };
        reply.images.iter().map(line).collect()
    })?;
    Ok(())
}

async fn save(global: &Global, args: SaveArgs) -> Outcome {
    if args.to.is_none() && terminal::is_output() {
        let problem = Problem::new(
            Class::Invalid,
            "standard output",
            "is a terminal, and an archive is not text",
        );
        return Err(problem.remedy("name a file with --to, or redirect the output").into());
    }
    let client = Client::open(global).await?;
    let request = ExportImageRequest {
        images: args.images,
        oci: args.oci,
    };
    let mut stream = client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.export_image(request).await }
        })
        .await?;
    let mut file = args.to.as_deref().map(upload::create).transpose()?;
    let mut progress = Progress::new("received");
    while let Some(chunk) = stream.message().await.map_err(|status| stream_problem(&status))? {
        progress.add(chunk.data.len());
        match (&mut file, &args.to) {
            (Some(file), Some(path)) => {
                file.write_all(&chunk.data)
                    .map_err(|error| file_problem("be written", path, &error))?;
            }
            _ => output::emit_bytes(&chunk.data)?,
        }
    }
    progress.end();
    Ok(())
}

async fn list(global: &Global) -> Outcome {
    let client = Client::open(global).await?;
    let images: Vec<Read<ImageRecord>> = client.read(kind::IMAGE, "", "").await?;
    let tags: Vec<Read<TagRecord>> = client.read(kind::TAG, "", "").await?;
    let nodes = client.node_names().await?;
    let table = table(images, &tags, &nodes, System.now());
    output::list(
        global.output,
        &table,
        "there are no images: `gantry image load` or `import` brings them in",
    )?;
    Ok(())
}

fn table(
    images: Vec<Read<ImageRecord>>,
    tags: &[Read<TagRecord>],
    nodes: &BTreeMap<NodeId, String>,
    now: Timestamp,
) -> Table {
    let mut table = Table::new(vec![
        Column::new("IMAGE"),
        Column::new("DIGEST"),
        Column::new("SIZE"),
        Column::new("PLATFORM"),
        Column::new("NODES"),
        Column::new("CREATED"),
        Column::wide("ID"),
    ]);
    for Read {
        object: image,
        mut json,
    } in images
    {
        let mut names: Vec<String> = tags
            .iter()
            .filter(|tag| tag.object.digest == image.digest)
            .map(|tag| familiar(&tag.object.reference))
            .collect();
        json["references"] = names.clone().into();
        if names.is_empty() {
            names.push(String::new());
        }
        let holders: Vec<String> = image
            .nodes
            .iter()
            .map(|id| nodes.get(id).cloned().unwrap_or_else(|| id.to_string()))
            .collect();
        for name in names {
            let cells = [
                name.clone(),
                short_digest(&image.digest).to_string(),
                image.size.to_string(),
                image.platform.clone(),
                holders.join(","),
                image.created_at.map(|at| age::ago(now, at)).unwrap_or_default(),
                image.config_digest.clone(),
            ];
            let name = if name.is_empty() { image.digest.clone() } else { name };
            table.push(name, cells, json.clone());
        }
    }
    table
}

/// As people write it: without the default registry.
fn familiar(reference: &str) -> String {
    let parsed: Result<ImageReference, _> = reference.parse();
    parsed.map_or_else(|_| reference.to_string(), |reference| reference.familiar())
}

/// `sha256:` and twelve digits, enough to tell images apart.
fn short_digest(digest: &str) -> &str {
    digest.get(.."sha256:".len() + 12).unwrap_or(digest)
}

async fn remove(global: &Global, args: RemoveArgs) -> Outcome {
    let client = Client::open(global).await?;
    for image in args.images {
        let request = RemoveImageRequest {
            image,
            force: args.force,
        };
        let reply = client
            .call(Repeat::Harmless, |mut cluster| {
                let request = request.clone();
                async move { cluster.remove_image(request).await }
            })
            .await?;
        for reference in &reply.untagged {
            output::emit(&format!("untagged {}\n", familiar(reference)))?;
        }
        for digest in &reply.deleted {
            output::emit(&format!("deleted {digest}\n"))?;
        }
    }
    Ok(())
}

/// Dockerfile instructions as the options of an import.
mod changes {
    use gantry_model::{Class, Problem};
    use serde_json::{Map, Value, json};

    /// The options as JSON, every field present.
    pub fn options(instructions: &[String]) -> Result<Value, Problem> {
        let mut options = json!({
            "cmd": [], "entrypoint": [], "env": [], "working_dir": "", "user": "", "exposed_ports": [],
            "volumes": [], "labels": Map::new(), "stop_signal": null, "healthcheck": null, "created_at": null,
        });
        for instruction in instructions {
            apply(&mut options, instruction).map_err(|reason| {
                Problem::new(Class::Invalid, format!("--change '{instruction}'"), reason)
                    .remedy("write an instruction as in a Dockerfile, such as 'CMD [\"/bin/web\"]' or 'ENV PORT=80'")
            })?;
        }
        Ok(options)
    }

    fn apply(options: &mut Value, instruction: &str) -> Result<(), String> {
        let (word, rest) = instruction
            .trim()
            .split_once(char::is_whitespace)
            .ok_or("has no value")?;
        let rest = rest.trim();
        match word.to_ascii_uppercase().as_str() {
            "CMD" => options["cmd"] = command(rest)?,
            "ENTRYPOINT" => options["entrypoint"] = command(rest)?,
            "ENV" => push(options, "env", &pair(rest)?.join("=")),
            "EXPOSE" => rest
                .split_whitespace()
                .for_each(|port| push(options, "exposed_ports", port)),
            "VOLUME" => match rest.starts_with('[') {
                true => command(rest)?.as_array().into_iter().flatten().for_each(|volume| {
                    push(options, "volumes", volume.as_str().unwrap_or_default());
                }),
                false => rest
                    .split_whitespace()
                    .for_each(|volume| push(options, "volumes", volume)),
            },
            "LABEL" => {
                let [key, value] = pair(rest)?;
                options["labels"][key] = Value::from(value);
            }
            "WORKDIR" => options["working_dir"] = Value::from(rest),
            "USER" => options["user"] = Value::from(rest),
            "STOPSIGNAL" => options["stop_signal"] = Value::from(rest),
            other => return Err(format!("'{other}' is not an instruction that an import knows")),
        }
        Ok(())
    }

    fn push(options: &mut Value, key: &str, item: &str) {
        if let Some(items) = options[key].as_array_mut() {
            items.push(Value::from(item));
        }
    }

    /// The exec form as it is; the shell form runs in a shell, as in a Dockerfile.
    fn command(text: &str) -> Result<Value, String> {
        if text.starts_with('[') {
            let words: Vec<String> =
                serde_json::from_str(text).map_err(|error| format!("is no list of texts: {error}"))?;
            return Ok(json!(words));
        }
        Ok(json!(["/bin/sh", "-c", text]))
    }

    /// `KEY=VALUE` or `KEY VALUE`, the value in quotes or not.
    fn pair(text: &str) -> Result<[String; 2], String> {
        let split = text.split_once('=').or_else(|| text.split_once(char::is_whitespace));
        let (key, value) = split.filter(|(key, _)| !key.is_empty()).ok_or("is not KEY=VALUE")?;
        let value = value.trim();
        let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Ok([key.to_string(), unquoted.unwrap_or(value).to_string()])
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn instructions_configure_the_image() {
            let lines = [
                "CMD [\"/bin/web\", \"-v\"]",
                "entrypoint /init now",
                "ENV PORT=80",
                "ENV GREETING \"hello world\"",
                "EXPOSE 80 53/udp",
                "LABEL a.b=c",
                "VOLUME [\"/data\"]",
                "WORKDIR /app",
                "USER 1000:www",
                "STOPSIGNAL SIGQUIT",
            ]
            .map(ToString::to_string);
            let options = options(&lines).expect("valid");
            assert_eq!(options["cmd"], json!(["/bin/web", "-v"]));
            assert_eq!(options["entrypoint"], json!(["/bin/sh", "-c", "/init now"]));
            assert_eq!(options["env"], json!(["PORT=80", "GREETING=hello world"]));
            assert_eq!(options["exposed_ports"], json!(["80", "53/udp"]));
            assert_eq!(options["labels"], json!({"a.b": "c"}));
            assert_eq!(options["volumes"], json!(["/data"]));
            assert_eq!(options["stop_signal"], "SIGQUIT");
            for wrong in ["RUN make", "CMD", "ENV x", "CMD [1]"] {
                assert!(super::options(&[wrong.to_string()]).is_err(), "{wrong}");
            }
        }
    }
}
