//! What one client may cost, together.

use std::time::Duration;

/// Limits of an ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, over all workers; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections of one client address at once; more are closed.
    pub connections_per_client: usize,
    /// A TLS handshake, or the head of a request, must be complete so soon; it is also how long an idle connection is kept.
    pub head_timeout: Duration,
    /// Silence of a client in the middle of a body.
    pub body_timeout: Duration,
    /// A replica must accept a connection so soon.
    pub connect_timeout: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// HTTP/2 requests at once on a connection.
    pub streams: u32,
    /// Idle connections to one replica that a worker keeps.
    pub idle_per_replica: usize,
    /// They are kept so long; below the 5 s that some servers close theirs after.
    pub idle_timeout: Duration,
    /// A connection idle for longer may be closing at the other end: what must not be sent twice takes another one.
    pub fresh_enough: Duration,
    /// A replica that refused a connection is passed over for so long while there are others.
    pub rest: Duration,
}

impl Default for Limits {
    /// 64 KiB of head as in Traefik 1 MiB and nginx 32 KiB, 100 headers, 30 s.
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_client: 4_096,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(1),
            head_bytes: 64 * 1024,
            headers: 100,
            streams: 200,
            idle_per_replica: 256,
            idle_timeout: Duration::from_millis(4_500),
            fresh_enough: Duration::from_millis(500),
            rest: Duration::from_secs(1),
        }
    }
}

/// Connections that wait in the kernel for a worker; the kernel caps it at `net.core.somaxconn` (4096).
pub const BACKLOG: u32 = 4_096;
/// Wait before connections are accepted again when the process has no descriptor left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle upstream connections are looked through.
pub const SWEEP: Duration = Duration::from_secs(1);
/// Most threads; nodes run the ingress beside what they are there for.
pub const WORKERS_MAX: usize = 8;
/// Lines of the access log that wait for the disk; more are dropped and counted.
pub const LOG_WAITING: usize = 65_536;
/// Size at which the access log is set aside as `FILE.1`.
pub const LOG_BYTES_MAX: u64 = 256 << 20;
