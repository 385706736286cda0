//! Connections between members, and from people: TLS 1.3 with certificates of the cluster's authority, HTTP/2, gRPC;
//! HTTP/1.1 besides for clients of the image registry.
//!
//! **Invariant:** every connection is encrypted; a caller without a certificate gets in, but [`require`] lets it call nothing
//! but what joins it to the cluster. **Invariant:** problems become status codes, and back, in [`status`] alone.
//! Deliberately not here: what the services do (`control-plane`, `agent`), and who may be given a certificate.

mod caller;
mod connect;
mod credentials;
mod enroll;
mod limits;
mod patience;
mod pool;
pub mod renewal;
mod server;
pub mod status;
mod tls;

pub use caller::{Caller, require};
pub use connect::{Channels, ConnectFailure, Remote};
pub use credentials::{Credentials, CredentialsError};
pub use enroll::{Enrolled, enroll, enroll_channel};
pub use limits::{
    CALL_TIMEOUT, CONNECT_TIMEOUT, CONNECTION_AGE_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, REPLY_BYTES_MAX,
    REQUEST_BYTES_MAX, WithLimits,
};
pub use patience::Patience;
pub use pool::{Repeat, ServerPool};
pub use server::serve;
