//! `gantry.v1.NodeAgent` and `gantry.v1.Engine`: what people ask of this node, through a server or as root of its machine, and
//! other agents directly.
//!
//! **Invariant:** every call names the roles that may make it; servers speak for people, who were checked there.

mod blobs;
pub(crate) mod build;
pub(crate) mod engine;
mod exec;
mod images;
pub(crate) mod local;
mod logs;
pub(crate) mod names;
pub(crate) mod registry;
mod streams;

use std::sync::Arc;

use gantry_api::v1::node_agent_server::NodeAgent;
use gantry_api::v1::{
    Chunk, Empty, ExecInput, ExecOutput, ExportImageRequest, GetBlobRequest, ImageInfo, ImportImageChunk,
    ImportImageReply, KeepBlobRequest, KeepImageRequest, LogRecord, LogsRequest, PutManifestRequest, RemoveImageReply,
    RemoveImageRequest, UploadPiece, UploadReply, UploadRequest,
};
use gantry_model::object::Role;
use gantry_model::spec::Resources;
use gantry_model::{Class, Problem, ReplicaId, Timestamp};
use gantry_rpc::require;
use gantry_rpc::status::from_problem;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};

use crate::disk::Record;
use crate::drivers::blocking;
use crate::drivers::containers::Containers;
use crate::drivers::images::NodeImages;
use crate::engine::{Engine, Entry};
use crate::limits::{COLLECT_INTERVAL, DATAPATH_HEAL_INTERVAL};
use crate::shared::Shared;
pub(crate) use blobs::Readers;
use registry::Registries;

/// Messages of one stream that wait for the network.
const STREAM_WAITING: usize = 16;

/// A stream of answers.
type Answers<T> = ReceiverStream<Result<T, Status>>;

/// See the module.
#[derive(Clone)]
pub(crate) struct NodeService {
    pub(crate) shared: Arc<Shared>,
    /// Of replicas.
    pub(crate) containers: Containers,
    /// Containers run by hand.
    pub(crate) engine: Engine,
    /// How they are reached in the runtime.
    pub(crate) by_hand: Containers,
    pub(crate) images: NodeImages,
    pub(crate) registries: Registries,
    /// Blobs that are sent to others.
    pub(crate) readers: Readers,
    /// Builds images.
    pub(crate) builder: Arc<gantry_build::Builder>,
    /// Name of the node.
    pub(crate) node: String,
    /// Streams that would never end by themselves end with it.
    pub(crate) shutdown: CancellationToken,
}

/// A container that runs or has run here: a replica's, or one run by hand.
pub(crate) struct Target {
    pub(crate) id: ReplicaId,
    /// For people.
    pub(crate) name: String,
    pub(crate) containers: Containers,
    /// Its first process, while it runs.
    pub(crate) pid: Option<u32>,
    /// What it may use.
    pub(crate) resources: Resources,
    /// Whether it may still print something.
    pub(crate) goes_on: Box<dyn Fn() -> bool + Send + Sync>,
}

impl NodeService {
    /// A container by name, id or the beginning of one, or a replica of this node by id or name.
    pub(crate) async fn target(&self, text: &str) -> Result<Target, Problem> {
        match self.engine.look_up(text)? {
            Some((id, entry)) => Ok(self.by_hand(id, entry)),
            None => self.replica(text).await,
        }
    }

    fn by_hand(&self, id: ReplicaId, entry: Entry) -> Target {
        let record = Arc::clone(&entry.view.borrow().record);
        Target {
            id,
            name: record.name.clone(),
            containers: self.by_hand.clone(),
            pid: record.life.state.pid,
            resources: record.spec.resources.clone(),
            goes_on: Box::new(move || {
                let view = entry.view.borrow();
                !view.is_gone && !view.record.life.is_at_rest()
            }),
        }
    }

    async fn replica(&self, text: &str) -> Result<Target, Problem> {
        let (shared, wanted) = (Arc::clone(&self.shared), text.to_string());
        let record = blocking(move || -> Result<Option<Record>, Problem> {
            match wanted.parse() {
                Ok(id) => shared.disk.record(id),
                Err(_) => Ok(shared
                    .disk
                    .records()?
                    .into_iter()
                    .find(|record| is_called(record, &wanted))),
            }
        });
        let record = record.await?.ok_or_else(|| {
            let reason = format!("is not on node {}", self.node);
            Problem::new(Class::NotFound, format!("container or replica {text}"), reason)
        })?;
        let (id, shared) = (record.item.id, Arc::clone(&self.shared));
        Ok(Target {
            id,
            name: record.item.name(),
            containers: self.containers.clone(),
            pid: record.machine.observed().pid,
            resources: record.item.spec.resources.clone(),
            goes_on: Box::new(move || shared.board.phase(id).is_some_and(|phase| !phase.is_terminal())),
        })
    }
}

/// What has to be done from time to time, until shutdown.
pub(crate) async fn tend(service: &NodeService, shutdown: &CancellationToken) {
    let (mut heal_at, mut collect_at) = (Timestamp(0), Timestamp(0));
    loop {
        let now = service.shared.clock.now();
        if heal_at <= now {
            heal_at = now.after(DATAPATH_HEAL_INTERVAL);
            if let Err(problem) = service.engine.parts().bridge.heal().await {
                tracing::warn!(%problem, "the network of containers run by hand could not be healed");
            }
        }
        if collect_at <= now {
            collect_at = now.after(COLLECT_INTERVAL);
            if let Err(problem) = engine::images::collect(service).await {
                tracing::warn!(%problem, "disk space could not be freed");
            }
            if let Err(problem) = blobs::expire_uploads(service).await {
                tracing::warn!(%problem, "abandoned uploads could not be dropped");
            }
        }
        let next = service.shared.clock.sleep_until(Some(heal_at.min(collect_at)));
        if shutdown.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

fn is_called(record: &Record, text: &str) -> bool {
    let name = record.item.name();
    name == text || format!("{}/{name}", record.item.namespace) == text
}

/// Whether the call came over the machine's own socket, which serves its root alone.
fn is_local<T>(request: &Request<T>) -> bool {
    let credentials = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred);
    credentials.is_some_and(|credentials| credentials.uid() == 0)
}

/// Root of this machine may do everything here; others need one of the roles.
fn allow<T>(request: &Request<T>, roles: &[Role]) -> Result<(), Status> {
    if is_local(request) {
        return Ok(());
    }
    require(request, roles).map(drop)
}

fn answer<T>(outcome: Result<T, Problem>) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(|problem| from_problem(&problem))
}

#[tonic::async_trait]
impl NodeAgent for NodeService {
    type LogsStream = Answers<LogRecord>;
    type ExecStream = Answers<ExecOutput>;
    type GetBlobStream = Answers<Chunk>;
    type ExportImageStream = Answers<Chunk>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        allow(&request, &[Role::Server])?;
        let stream = logs::open(self, request.into_inner()).await;
        stream.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Result<Response<Self::ExecStream>, Status> {
        allow(&request, &[Role::Server])?;
        let stream = exec::open(self, request.into_inner()).await;
        stream.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn get_blob(&self, request: Request<GetBlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        allow(&request, &[Role::Agent, Role::Server])?;
        let stream = blobs::get(self, &request).await;
        stream.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageChunk>>,
    ) -> Result<Response<ImportImageReply>, Status> {
        allow(&request, &[Role::Server])?;
        let reply = images::import(self, request.into_inner()).await;
        reply.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn export_image(
        &self,
        request: Request<ExportImageRequest>,
    ) -> Result<Response<Self::ExportImageStream>, Status> {
        allow(&request, &[Role::Server])?;
        let stream = images::export(self, request.into_inner());
        stream.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Result<Response<RemoveImageReply>, Status> {
        allow(&request, &[Role::Server])?;
        let reply = images::remove(self, request.into_inner()).await;
        reply.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn begin_upload(&self, request: Request<Empty>) -> Result<Response<UploadReply>, Status> {
        allow(&request, &[Role::Server])?;
        answer(blobs::begin(self).await)
    }

    async fn write_upload(&self, request: Request<Streaming<UploadPiece>>) -> Result<Response<UploadReply>, Status> {
        allow(&request, &[Role::Server])?;
        answer(blobs::write(self, request.into_inner()).await)
    }

    async fn upload_status(&self, request: Request<UploadRequest>) -> Result<Response<UploadReply>, Status> {
        allow(&request, &[Role::Server])?;
        answer(blobs::status(self, request.get_ref()).await)
    }

    async fn cancel_upload(&self, request: Request<UploadRequest>) -> Result<Response<Empty>, Status> {
        allow(&request, &[Role::Server])?;
        answer(blobs::cancel(self, request.get_ref()).await.map(|()| Empty {}))
    }

    async fn keep_blob(&self, request: Request<KeepBlobRequest>) -> Result<Response<UploadReply>, Status> {
        allow(&request, &[Role::Server])?;
        answer(blobs::keep_blob(self, request.get_ref()).await)
    }

    async fn put_manifest(&self, request: Request<PutManifestRequest>) -> Result<Response<ImageInfo>, Status> {
        allow(&request, &[Role::Server])?;
        answer(blobs::put_manifest(self, request.into_inner()).await)
    }

    async fn keep_image(&self, request: Request<KeepImageRequest>) -> Result<Response<ImageInfo>, Status> {
        allow(&request, &[Role::Server])?;
        answer(blobs::keep_image(self, request.get_ref()).await)
    }

    async fn drop_image(&self, request: Request<KeepImageRequest>) -> Result<Response<Empty>, Status> {
        allow(&request, &[Role::Server])?;
        answer(blobs::drop_image(self, request.get_ref()).await.map(|()| Empty {}))
    }
}
