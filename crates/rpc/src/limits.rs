//! Limits of connections and messages, and where they come from.

use std::time::Duration;

use gantry_api::v1;
use tonic::transport::Channel;

/// Largest request. A manifest with all its configs and secrets (at most 1000 KiB each) fits many times over, and a server that
/// gets many of them at once stays within its memory.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// Largest reply: all replicas of a large cluster in one list (100,000 of about 2 KiB).
pub const REPLY_BYTES_MAX: usize = 256 << 20;

/// A machine that does not answer within this time is treated as away, and the next one is asked.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for the answer of a call that is not a stream.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A silent connection is probed this often, below the idle time-outs of firewalls and of IPVS (900 s).
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A probe without an answer for this long ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections are closed and made anew after this time, so that a revoked or replaced certificate stops working.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(12 * 3600);

/// Connections made with replaced credentials live this much longer.
pub(crate) const REPLACED_GRACE: Duration = Duration::from_secs(60);

/// A closing connection may finish its calls for this long; after it, streams are cut and taken up anew by their owners.
pub(crate) const CLOSING_GRACE: Duration = Duration::from_secs(30);

/// On shutdown, calls may finish for this long.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// A handshake takes two round trips; a client that takes longer than this holds a slot for nothing.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The head of an HTTP/1.1 request arrives within this time, and the next request on the connection after the last one.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest HTTP/2 frame taken: image layers arrive in pieces of this size rather than of 16 KiB.
pub(crate) const FRAME_BYTES_MAX: u32 = 256 << 10;

/// Handshakes at once; each costs about 1 ms of processor time, so more would only queue in the kernel's stead.
pub(crate) const HANDSHAKES_MAX: usize = 256;

/// Concurrent calls on one connection. A whole machine shares one, with its log streams.
pub(crate) const STREAMS_MAX: u32 = 4096;

/// HTTP/2 flow control window of a stream: images move at the speed of the link up to 25 ms away at 1 Gbit/s.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// HTTP/2 flow control window of a connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

const _: () = assert!(REQUEST_BYTES_MAX <= REPLY_BYTES_MAX);
const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(CONNECT_TIMEOUT.as_millis() < CALL_TIMEOUT.as_millis());

/// Sets the message limits of a generated client or server. Every one that is made goes through this.
///
/// The receiver alone limits: tonic answers a message over the sender's own limit with a broken stream, over the receiver's
/// with a status that says both sizes.
pub trait WithLimits: Sized {
    /// Itself with [`REQUEST_BYTES_MAX`] and [`REPLY_BYTES_MAX`].
    #[must_use]
    fn with_limits(self) -> Self;
}

macro_rules! limits {
    ($($module_client:ident::$client:ident, $module_server:ident::$server:ident;)*) => {$(
        impl WithLimits for v1::$module_client::$client<Channel> {
            fn with_limits(self) -> Self {
                self.max_decoding_message_size(REPLY_BYTES_MAX)
            }
        }

        impl<T> WithLimits for v1::$module_server::$server<T> {
            fn with_limits(self) -> Self {
                self.max_decoding_message_size(REQUEST_BYTES_MAX)
            }
        }
    )*};
}

limits! {
    cluster_client::ClusterClient, cluster_server::ClusterServer;
    engine_client::EngineClient, engine_server::EngineServer;
    enrollment_client::EnrollmentClient, enrollment_server::EnrollmentServer;
    node_agent_client::NodeAgentClient, node_agent_server::NodeAgentServer;
    raft_client::RaftClient, raft_server::RaftServer;
    session_client::SessionClient, session_server::SessionServer;
}
