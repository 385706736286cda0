//! `gantry.v1.NodeAgent`: what people ask of this node through a server, and other agents directly.
//!
//! **Invariant:** every call names the roles that may make it; servers speak for people, who were checked there.

mod exec;
mod images;
mod logs;

use std::sync::Arc;

use gantry_api::v1::node_agent_server::NodeAgent;
use gantry_api::v1::{
    Chunk, ExecInput, ExecOutput, ExportImageRequest, GetBlobRequest, ImportImageChunk, ImportImageReply, LogRecord,
    LogsRequest, RemoveImageReply, RemoveImageRequest,
};
use gantry_model::object::Role;
use gantry_model::{Class, Problem, ReplicaId};
use gantry_rpc::require;
use gantry_rpc::status::from_problem;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::disk::Record;
use crate::drivers::blocking;
use crate::drivers::containers::Containers;
use crate::drivers::images::NodeImages;
use crate::shared::Shared;

/// Messages of one stream that wait for the network.
const STREAM_WAITING: usize = 16;

/// A stream of answers.
type Answers<T> = ReceiverStream<Result<T, Status>>;

/// See the module.
#[derive(Clone)]
pub(crate) struct NodeService {
    pub(crate) shared: Arc<Shared>,
    pub(crate) containers: Containers,
    pub(crate) images: NodeImages,
    /// Name of the node.
    pub(crate) node: String,
    /// Streams that would never end by themselves end with it.
    pub(crate) shutdown: CancellationToken,
}

impl NodeService {
    /// The record of a replica of this node.
    async fn record(&self, replica: &str) -> Result<Record, Problem> {
        let id: ReplicaId = gantry_api::parse_id("replica id", replica)?;
        let shared = Arc::clone(&self.shared);
        let record = blocking(move || shared.disk.record(id)).await?;
        record.ok_or_else(|| {
            Problem::new(
                Class::NotFound,
                format!("replica {id}"),
                format!("is not on node {}", self.node),
            )
        })
    }
}

#[tonic::async_trait]
impl NodeAgent for NodeService {
    type LogsStream = Answers<LogRecord>;
    type ExecStream = Answers<ExecOutput>;
    type GetBlobStream = Answers<Chunk>;
    type ExportImageStream = Answers<Chunk>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        require(&request, &[Role::Server])?;
        let stream = logs::open(self, request.into_inner()).await;
        stream.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Result<Response<Self::ExecStream>, Status> {
        require(&request, &[Role::Server])?;
        let stream = exec::open(self, request.into_inner()).await;
        stream.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn get_blob(&self, request: Request<GetBlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        require(&request, &[Role::Agent, Role::Server])?;
        let stream = images::get_blob(self, request.get_ref()).await;
        stream.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageChunk>>,
    ) -> Result<Response<ImportImageReply>, Status> {
        require(&request, &[Role::Server])?;
        let reply = images::import(self, request.into_inner()).await;
        reply.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn export_image(
        &self,
        request: Request<ExportImageRequest>,
    ) -> Result<Response<Self::ExportImageStream>, Status> {
        require(&request, &[Role::Server])?;
        let stream = images::export(self, request.into_inner());
        stream.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Result<Response<RemoveImageReply>, Status> {
        require(&request, &[Role::Server])?;
        let reply = images::remove(self, request.into_inner()).await;
        reply.map(Response::new).map_err(|problem| from_problem(&problem))
    }
}
