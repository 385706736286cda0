//! Raft's own threads: what else a server does, however much it is, must not make its heartbeats late.
//!
//! Everything that is spawned where Raft was started stays here: replication, applying, the connections that it opens.

use std::io;

use tokio::runtime::{Builder, Handle};

/// One applies entries while another sends heartbeats.
const THREADS: usize = 2;

/// Threads for the disk, of which few are ever busy.
const BLOCKING_THREADS_MAX: usize = 8;

/// Enough for the deepest calls, which are those of the encoders.
const STACK_BYTES: usize = 1024 * 1024;

/// See the module.
pub struct Runtime {
    /// Taken when it is dropped.
    inner: Option<tokio::runtime::Runtime>,
}

impl Runtime {
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_stack_size(STACK_BYTES)
            .thread_name("raft")
            .enable_all()
            .build()?;
        Ok(Self { inner: Some(runtime) })
    }

    pub fn handle(&self) -> &Handle {
        self.inner.as_ref().expect("there until it is dropped").handle()
    }
}

/// In the background: whoever drops it may be a task of another runtime, which must not wait.
impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.inner.take() {
            runtime.shutdown_background();
        }
    }
}
