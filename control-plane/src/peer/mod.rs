//! Servers among themselves: the frames of `raft` over gRPC.

mod service;
mod transport;

pub use service::RaftService;
pub use transport::{FRAME_BYTES_MAX, GrpcTransport};
