//! The sockets that clients connect to. All workers accept from the same one, so that whoever is idle takes the next client.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use tokio::net::{TcpListener, TcpSocket};

use crate::limits::BACKLOG;

/// Binds an address. An agent that is started anew binds it at once, whatever connections its predecessor had.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// The same socket for one worker; within its runtime.
pub(crate) fn share(listener: &StdListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener.try_clone()?)
}
