//! `gantry image pull` and `push`: images from and to registries, by the agent of a node.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use gantry_api::v1::{ImportImageReply, PullImageRequest, PushImageRequest, TransferProgress};
use gantry_model::{Class, Problem};
use tonic::Streaming;

use crate::args::Global;
use crate::client::stream_problem;
use crate::commands::container::{NodeArgs, Progress, registry_auth};
use crate::complete;
use crate::engine::Engine;
use crate::failure::{Failure, Outcome};

// Arguments of `gantry image pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Platform, such as linux/arm64; `all` for every one
    #[arg(long, value_name = "OS/ARCH", default_value = "", hide_default_value = true)]
    platform: String,
    /// Every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Speak HTTP with the registry: anybody in between can read and change what comes
    #[arg(long)]
    plain_http: bool,
    /// Say only what came
    #[arg(short, long)]
    quiet: bool,
    /// Names
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

// Arguments of `gantry image push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Speak HTTP with the registry: anybody in between can read and change what goes
    #[arg(long)]
    plain_http: bool,
    /// Say only what went
    #[arg(short, long)]
    quiet: bool,
    /// Names
    #[arg(required = true, value_name = "IMAGE", add = ArgValueCompleter::new(complete::images))]
    images: Vec<String>,
}

/// Brings images in.
pub async fn pull(global: &Global, args: &PullArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    for image in &args.images {
        let request = PullImageRequest {
            reference: image.clone(),
            platform: args.platform.clone(),
            registry_auth_json: registry_auth(image).await.into(),
            plain_http: args.plain_http,
            all_tags: args.all_tags,
            only_missing: false,
        };
        let reply = pull_one(&engine, request, args.quiet).await?;
        super::show(global, &reply)?;
    }
    Ok(())
}

/// Pulls as the request says, with its progress on standard error.
///
/// # Errors
/// When the registry or the node refuses.
pub async fn pull_one(engine: &Engine, request: PullImageRequest, quiet: bool) -> Result<ImportImageReply, Failure> {
    let image = request.reference.clone();
    let answer = engine.client().pull_image(engine.request(request)).await;
    let steps = answer.map_err(|status| stream_problem(&status))?.into_inner();
    follow(steps, &image, quiet).await
}

/// Sends images out.
pub async fn push(global: &Global, args: &PushArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    for image in &args.images {
        let request = PushImageRequest {
            reference: image.clone(),
            registry_auth_json: registry_auth(image).await.into(),
            plain_http: args.plain_http,
            all_tags: args.all_tags,
        };
        let answer = engine.client().push_image(engine.request(request)).await;
        let steps = answer.map_err(|status| stream_problem(&status))?.into_inner();
        let reply = follow(steps, image, args.quiet).await?;
        super::show(global, &reply)?;
    }
    Ok(())
}

async fn follow(mut steps: Streaming<TransferProgress>, image: &str, quiet: bool) -> Result<ImportImageReply, Failure> {
    let mut progress = Progress::new(quiet);
    while let Some(step) = steps.message().await.map_err(|status| stream_problem(&status))? {
        progress.show(&step);
        if let Some(reply) = step.result {
            return Ok(reply);
        }
    }
    let reason = "the connection ended before it was complete";
    Err(Problem::new(Class::Unavailable, format!("image {image}"), reason)
        .remedy("try again: what has come is kept")
        .into())
}
