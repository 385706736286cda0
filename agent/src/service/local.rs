//! The agent's own socket: what root of this machine asks, without a server in between.
//!
//! **Invariant:** nobody but root gets in, by the kernel's word for who connects; the mode of the file says the same.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use gantry_model::{Class, Problem};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

/// Name of the socket in the run folder.
pub(crate) const SOCKET_FILE: &str = "agent.sock";
/// Calls that are under way at shutdown may take so long.
const CLOSING_GRACE: Duration = Duration::from_secs(2);
/// HTTP/2 flow control window of a stream: files and images pass in few round trips.
const WINDOW_BYTES: u32 = 4 << 20;

/// A socket that was bound.
pub(crate) struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    /// Binds it in the run folder, in place of one that a former agent left.
    pub(crate) fn bind(run_dir: &Path) -> Result<Self, Problem> {
        let path = run_dir.join(SOCKET_FILE);
        let bind = || -> io::Result<UnixListener> {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| {
            let reason = format!("cannot listen on {}: {error}", path.display());
            Problem::new(Class::Unavailable, "agent", reason)
        })?;
        Ok(Self { listener, path })
    }

    /// Serves until shutdown; then calls may finish for a moment.
    pub(crate) async fn serve(self, routes: Routes, shutdown: CancellationToken) -> Result<(), Problem> {
        let connections = UnixListenerStream::new(self.listener).filter_map(|connection| async move {
            match connection {
                Ok(connection) if is_root(&connection) => Some(Ok::<_, io::Error>(connection)),
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the agent's socket");
                    None
                }
            }
        });
        let mut server = Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let serving = server
            .add_routes(routes)
            .serve_with_incoming_shutdown(connections, shutdown.cancelled());
        let cut = async {
            shutdown.cancelled().await;
            tokio::time::sleep(CLOSING_GRACE).await;
        };
        let served = tokio::select! {
            served = serving => served,
            () = cut => Ok(()),
        };
        // The next agent binds its own whether or not this one is gone.
        let _ = fs::remove_file(&self.path);
        served.map_err(|error| Problem::new(Class::Unavailable, "agent", format!("its socket broke: {error}")))
    }
}

fn is_root(connection: &UnixStream) -> bool {
    let credentials = connection.peer_cred();
    let is_root = credentials.as_ref().is_ok_and(|credentials| credentials.uid() == 0);
    if !is_root {
        tracing::warn!(?credentials, "somebody other than root was turned away");
    }
    is_root
}
