//! Builds on this node: a person's connection on one side, the executor (`gantry-build`) on threads of its own on the other.
//!
//! **Invariant:** a build ends when nobody hears of it any more.

mod remote;
mod surroundings;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use gantry_api::v1::{
    self, BuildInput, BuildOutput, PruneImagesReply, PruneImagesRequest, PushImageRequest, build_input, build_output,
};
use gantry_api::{decode, encode, kind};
use gantry_build::{Builder, BuilderConfig, Cancel};
use gantry_env::{Env, System};
use gantry_image::{ImageError, Selector};
use gantry_model::build::{BuildEvent, BuildOutputKind, BuildRequest, BuildResult};
use gantry_model::{Class, DurationMs, ImageReference, Problem};
use gantry_rpc::status::{from_problem, to_problem};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::registry::Registries;
use super::{Answers, NodeService, STREAM_WAITING};
use crate::drivers::blocking;
use crate::drivers::containers::Containers;
use crate::drivers::images::{NodeImages, wire_info};
use crate::engine::Engine;
use remote::Remote;
use surroundings::{Bases, LocalNetworks};

/// What executors of builds are given by the agent.
pub(crate) struct Parts<'a> {
    pub(crate) data_dir: &'a Path,
    pub(crate) run_dir: &'a Path,
    pub(crate) containers: &'a Containers,
    pub(crate) images: &'a NodeImages,
    pub(crate) registries: &'a Registries,
    /// Gives the network of `RUN`.
    pub(crate) engine: &'a Engine,
}

/// Opens the node's executor.
pub(crate) async fn builder(parts: Parts<'_>) -> Result<Arc<Builder>, Problem> {
    let (shim, layout, cgroup_parent) = parts.containers.launcher();
    let config = BuilderConfig {
        dir: parts.data_dir.join("build"),
        run_dir: parts.run_dir.to_path_buf(),
        store: Arc::clone(parts.images.store()),
        images: Arc::new(Bases::new(parts.images.clone(), parts.registries.clone())),
        networks: Arc::new(LocalNetworks::new(parts.engine)),
        env: Arc::new(System),
        layout,
        cgroup_parent,
        shim,
        parallelism: None,
    };
    let opened = blocking(move || Builder::open(config)).await;
    opened.map(Arc::new).map_err(|error| error.into_problem("build cache"))
}

/// Builds what the first message asks for.
pub(super) async fn open(
    service: &NodeService,
    mut input: Streaming<BuildInput>,
) -> Result<Answers<BuildOutput>, Problem> {
    let first = input.message().await.map_err(|status| to_problem(&status, "build"))?;
    let Some(build_input::Input::Start(start)) = first.and_then(|first| first.input) else {
        return Err(Problem::new(Class::Invalid, "build", "does not begin with a start"));
    };
    let request: BuildRequest = decode(&start, kind::BUILD_REQUEST)?;
    let cancel = Cancel::new().map_err(|error| error.into_problem("build"))?;
    let (output, answers) = mpsc::channel(STREAM_WAITING);
    let remote = Remote::new(
        &request,
        output.clone(),
        Arc::clone(service.builder.contents()),
        cancel.clone(),
    );
    let receiving = tokio::spawn(Arc::clone(&remote).receive(input));
    let service = service.clone();
    tokio::spawn(async move {
        let last = build(&service, request, &remote, &cancel).await;
        // Nobody is told when the other end has hung up.
        drop(output.send(last.map_err(|problem| from_problem(&problem))).await);
        // It holds the answers open as long as the other end may send.
        receiving.abort();
    });
    Ok(ReceiverStream::new(answers))
}

async fn build(
    service: &NodeService,
    request: BuildRequest,
    remote: &Arc<Remote>,
    cancel: &Cancel,
) -> Result<BuildOutput, Problem> {
    let (builder, client, cancelled) = (Arc::clone(&service.builder), Arc::clone(remote), cancel.clone());
    let (build, request) = (Arc::new(request.clone()), request);
    let running = blocking(move || builder.build(&build, client, &cancelled));
    tokio::pin!(running);
    let result = tokio::select! {
        result = &mut running => result,
        () = ended(service, remote) => {
            cancel.set();
            running.await
        }
    }?;
    if request.output == BuildOutputKind::Image {
        publish(service, &result).await;
        if request.push {
            push(service, &request, &result.references, ("pushing", remote)).await?;
        }
    }
    if !result.caches.is_empty() {
        push(service, &request, &result.caches, ("exporting cache to", remote)).await?;
        forget_caches(service, &result).await;
    }
    Ok(BuildOutput {
        output: Some(build_output::Output::Result(encode(kind::BUILD_RESULT, &result))),
    })
}

/// Nobody hears of it any more, or the agent ends.
async fn ended(service: &NodeService, remote: &Remote) {
    tokio::select! {
        () = remote.hung_up() => {}
        () = service.shutdown.cancelled() => {}
    }
}

/// Tells the cluster of the image.
async fn publish(service: &NodeService, result: &BuildResult) {
    service.images.refresh();
    let store = Arc::clone(service.images.store());
    let digest = result.digest.parse();
    let info = blocking(move || store.info(digest.ok()?).ok()).await;
    if let Some(info) = info {
        service.images.record(vec![wire_info(&info)], Vec::new()).await;
    }
}

/// A cache that its registry has needs no name here; what it is made of stays with the records of its steps.
async fn forget_caches(service: &NodeService, result: &BuildResult) {
    let own: BTreeSet<&str> = result.references.iter().map(String::as_str).collect();
    let caches = result.caches.iter().filter(|cache| !own.contains(cache.as_str()));
    let caches: Vec<ImageReference> = caches.filter_map(|cache| cache.parse().ok()).collect();
    let store = Arc::clone(service.images.store());
    let removed = blocking(move || {
        for cache in caches {
            store.remove(&Selector::Reference(cache), &BTreeSet::new())?;
        }
        Ok::<_, ImageError>(())
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "the name of a build's cache stays");
    }
    service.images.refresh();
}

/// Sends images to their registries, each as a step.
async fn push(
    service: &NodeService,
    request: &BuildRequest,
    references: &[String],
    (act, remote): (&str, &Remote),
) -> Result<(), Problem> {
    let auth = serde_json::to_vec(&request.registry_auth)
        .map_err(|_| Problem::new(Class::Internal, "registry credentials", "cannot be passed on"))?;
    for reference in references {
        let id = remote.number();
        let title = format!("{act} {reference}");
        remote.tell(BuildEvent::Step { id, title, line: None }).await;
        remote.tell(BuildEvent::Started { id, at: System.now() }).await;
        let pushed = push_one(service, reference, &auth, (id, remote)).await;
        let at = System.now();
        let event = match &pushed {
            Ok(()) => BuildEvent::Done { id, at, cached: false },
            Err(problem) => BuildEvent::Failed {
                id,
                at,
                reason: problem.to_string(),
                exit_code: None,
            },
        };
        remote.tell(event).await;
        pushed?;
    }
    Ok(())
}

async fn push_one(
    service: &NodeService,
    reference: &str,
    auth: &[u8],
    (id, remote): (u32, &Remote),
) -> Result<(), Problem> {
    let request = PushImageRequest {
        reference: reference.to_string(),
        registry_auth_json: auth.to_vec().into(),
        ..PushImageRequest::default()
    };
    let mut steps = service.registries.push(request)?;
    while let Some(step) = steps.next().await {
        let step = step.map_err(|status: Status| to_problem(&status, &format!("image {reference}")))?;
        if step.result.is_none() {
            let (what, current, total) = (format!("{} {}", step.phase, step.what), step.current, step.total);
            remote
                .tell(BuildEvent::Progress {
                    id,
                    what,
                    current,
                    total,
                })
                .await;
        }
    }
    Ok(())
}

/// Removes build cache.
pub(super) async fn prune(service: &NodeService, request: PruneImagesRequest) -> Result<PruneImagesReply, Problem> {
    if let Some(filter) = request.filters.first() {
        return Err(
            Problem::new(Class::Invalid, "build cache", format!("has no filter '{filter}'"))
                .remedy("leave filters out"),
        );
    }
    let builder = Arc::clone(&service.builder);
    let unused_for = match (request.all, request.unused_for_ms) {
        (true, _) => DurationMs(0),
        // Without a word about time, what the last builds used stays.
        (false, 0) => DurationMs::secs(DEFAULT_UNUSED_S),
        (false, ms) => DurationMs(ms),
    };
    let pruned = blocking(move || builder.prune(unused_for, request.dry_run)).await;
    let pruned = pruned.map_err(|error| error.into_problem("build cache"))?;
    Ok(v1::PruneImagesReply {
        untagged: Vec::new(),
        deleted: pruned.removed,
        freed_bytes: pruned.freed,
    })
}

/// What was not used for so long goes when nothing else is said: two days, as BuildKit's own collector has it.
const DEFAULT_UNUSED_S: u64 = 48 * 3600;

/// Ids of SSH agents that a request forwards: `default` or `ID=PATH`.
fn ssh_ids(request: &BuildRequest) -> BTreeSet<String> {
    let ids = request
        .spec
        .ssh
        .iter()
        .map(|entry| entry.split('=').next().unwrap_or(entry));
    ids.map(str::to_string).collect()
}
