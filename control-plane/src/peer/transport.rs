//! Frames to another server.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use gantry_api::v1::RaftFrame;
use gantry_api::v1::raft_client::RaftClient;
use gantry_raft::{Method, PROPOSAL_BYTES_MAX, Peer, SNAPSHOT_FRAME_BYTES, Transport, TransportError, WIRE_VERSION};
use gantry_rpc::status::surely_not_sent;
use gantry_rpc::{Channels, Remote};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Largest frame: an append of one proposal of the largest size beside a full batch, and room for a frame's own fields.
pub const FRAME_BYTES_MAX: usize = 2 * PROPOSAL_BYTES_MAX + (64 << 10);

const _: () = assert!(SNAPSHOT_FRAME_BYTES < FRAME_BYTES_MAX);

/// Longest transfer of one snapshot; the raft crate gives up no later.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(600);

/// Carries frames over the cluster's mutually authenticated channels.
#[derive(Clone)]
pub struct GrpcTransport {
    channels: Channels,
}

impl GrpcTransport {
    /// Uses the given connections.
    #[must_use]
    pub const fn new(channels: Channels) -> Self {
        Self { channels }
    }

    fn client(&self, peer: &Peer) -> RaftClient<Channel> {
        let limit = FRAME_BYTES_MAX;
        RaftClient::new(self.channels.channel(&peer.address, Remote::Server(peer.id)))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }
}

fn frame(payload: Vec<u8>) -> RaftFrame {
    RaftFrame {
        version: WIRE_VERSION,
        payload: payload.into(),
    }
}

/// The receiver answers FAILED_PRECONDITION only for frames that it did not act upon; a connection that could not be made
/// carried nothing either. Everything else may have arrived.
fn transport_error(status: &Status) -> TransportError {
    let text = status.message().to_string();
    let not_sent = status.code() == Code::FailedPrecondition || surely_not_sent(status);
    if not_sent {
        TransportError::NotSent(text)
    } else {
        TransportError::Lost(text)
    }
}

impl Transport for GrpcTransport {
    fn call<'a>(
        &'a self,
        peer: &'a Peer,
        method: Method,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
        async move {
            let mut client = self.client(peer);
            let mut request = Request::new(frame(payload));
            request.set_timeout(timeout);
            let answer = async {
                match method {
                    Method::Append => client.append(request).await,
                    Method::Vote => client.vote(request).await,
                    Method::TransferLeader => client.transfer_leader(request).await,
                    Method::Propose => client.propose(request).await,
                    Method::ReadIndex => client.read_index(request).await,
                    Method::ChangeMembers => client.change_members(request).await,
                }
            };
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(answer)) => Ok(answer.into_inner().payload.into()),
                Ok(Err(status)) => Err(transport_error(&status)),
                Err(_) => Err(TransportError::Lost(format!(
                    "no answer from {} within {timeout:?}",
                    peer.address
                ))),
            }
        }
        .boxed()
    }

    fn send_snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        frames: mpsc::Receiver<Vec<u8>>,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
        async move {
            let mut request = Request::new(ReceiverStream::new(frames).map(frame));
            request.set_timeout(SNAPSHOT_DEADLINE);
            match self.client(peer).install_snapshot(request).await {
                Ok(answer) => Ok(answer.into_inner().payload.into()),
                Err(status) => Err(transport_error(&status)),
            }
        }
        .boxed()
    }
}
