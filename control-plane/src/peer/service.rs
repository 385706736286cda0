//! Frames from another server.

use std::sync::Arc;

use gantry_api::v1::RaftFrame;
use gantry_api::v1::raft_server::Raft;
use gantry_model::object::Role;
use gantry_raft::{HandleError, Method, WIRE_VERSION};
use gantry_rpc::require;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::context::Context;

/// Snapshot frames read ahead of the disk.
const FRAMES_AHEAD: usize = 4;

/// The receiving side of Raft.
#[derive(Clone)]
pub struct RaftService {
    context: Arc<Context>,
}

impl RaftService {
    /// Serves from the given context.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn handle(&self, method: Method, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        require(&request, &[Role::Server])?;
        let frame = checked(request.into_inner())?;
        let answer = self.context.raft.handle(method, frame).await.map_err(refusal)?;
        Ok(Response::new(RaftFrame {
            version: WIRE_VERSION,
            payload: answer.into(),
        }))
    }
}

fn checked(frame: RaftFrame) -> Result<Vec<u8>, Status> {
    if frame.version == WIRE_VERSION {
        return Ok(frame.payload.into());
    }
    Err(Status::failed_precondition(format!(
        "the frame has version {}, this server speaks {WIRE_VERSION}: run the same version of gantry on all servers",
        frame.version
    )))
}

/// FAILED_PRECONDITION promises the sender that nothing was done.
fn refusal(error: HandleError) -> Status {
    Status::failed_precondition(error.to_string())
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        self.handle(Method::Append, request).await
    }

    async fn vote(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        self.handle(Method::Vote, request).await
    }

    async fn transfer_leader(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        self.handle(Method::TransferLeader, request).await
    }

    async fn propose(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        self.handle(Method::Propose, request).await
    }

    async fn read_index(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        self.handle(Method::ReadIndex, request).await
    }

    async fn change_members(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        self.handle(Method::ChangeMembers, request).await
    }

    async fn install_snapshot(&self, request: Request<Streaming<RaftFrame>>) -> Result<Response<RaftFrame>, Status> {
        require(&request, &[Role::Server])?;
        let mut incoming = request.into_inner();
        let (sender, frames) = mpsc::channel(FRAMES_AHEAD);
        let pump = async move {
            while let Some(frame) = incoming.next().await {
                if sender.send(checked(frame?)?).await.is_err() {
                    break;
                }
            }
            Ok::<(), Status>(())
        };
        let (pumped, answer) = tokio::join!(pump, self.context.raft.handle_snapshot(ReceiverStream::new(frames)));
        pumped?;
        Ok(Response::new(RaftFrame {
            version: WIRE_VERSION,
            payload: answer.map_err(refusal)?.into(),
        }))
    }
}
