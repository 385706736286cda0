//! What a container runs to be asked by datagrams: each is sent back with `got` before it. BusyBox has no server for them.

use std::net::UdpSocket;

/// Largest datagram answered.
const DATAGRAM_BYTES_MAX: usize = 1024;

fn main() -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:53")?;
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&[b"got ", &buffer[..length]].concat(), from)?;
    }
}
