//! The name server of a node: names of services from the zone, all others from the node's own resolvers.
//!
//! **Invariant:** nothing a client sends can stop the server or make it hold more than the limits below.
//! **Invariant:** a query is answered from one zone, whole: the zone is swapped as one pointer.
//! **Invariant:** only addresses of the cluster are served, so the node is no open resolver.

mod answer;
mod cache;
mod forward;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gantry_netplan::Zone;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::NetworkError;
use answer::{Decision, Query, Responder, Transport};
use forward::Forwarder;

pub use forward::Upstreams;

/// Queries larger than this are refused; real ones are below 512 (RFC 1035, 4.2.1) plus EDNS options.
const QUERY_BYTES_MAX: usize = 4096;
/// Foreign queries under way; each holds a socket. Past it clients are told to try elsewhere (SERVFAIL).
const FORWARDS_MAX: usize = 256;
/// TCP connections served at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// A TCP client that is silent for so long loses its connection (RFC 7766, 6.2.3 leaves it to the server).
const IDLE_SECONDS_MAX: Duration = Duration::from_secs(5);
/// Pause after a failed receive or accept, such as for want of file descriptors, so that it does not spin.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A bound name server.
pub struct DnsServer {
    udp: UdpSocket,
    tcp: TcpListener,
    service: Arc<Service>,
}

struct Service {
    zone: Arc<ArcSwap<Zone>>,
    responder: Responder,
    forwarder: Forwarder,
    forwards: Arc<Semaphore>,
}

impl DnsServer {
    /// Listens on UDP and TCP; the address must be the node's already.
    ///
    /// # Errors
    /// When the address is not there or taken.
    pub async fn bind(
        listen: SocketAddr,
        zone: Arc<ArcSwap<Zone>>,
        upstreams: Upstreams,
    ) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Listen {
            address: listen,
            source,
        };
        let udp = UdpSocket::bind(listen).await.map_err(failed)?;
        let address = udp.local_addr().map_err(failed)?;
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let service = Arc::new(Service {
            zone,
            responder: Responder::default(),
            forwarder: Forwarder::new(upstreams, address),
            forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
        });
        Ok(Self { udp, tcp, service })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves until `shutdown` completes; queries under way are dropped then.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { udp, tcp, service } = self;
        tokio::select! {
            () = serve_udp(Arc::new(udp), &service) => {}
            () = serve_tcp(tcp, &service) => {}
            () = shutdown => {}
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, service: &Arc<Service>) {
    let mut forwards = JoinSet::new();
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    loop {
        while forwards.try_join_next().is_some() {}
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            sleep(RETRY_PAUSE).await;
            continue;
        };
        match service.decide(&buffer[..length], from.ip(), Transport::Udp) {
            Decision::Drop => {}
            // An answer that does not fit into the socket's buffer is lost like any datagram.
            Decision::Reply(reply) => drop(socket.try_send_to(&reply, from)),
            Decision::Forward(query) => {
                let Ok(permit) = Arc::clone(&service.forwards).try_acquire_owned() else {
                    drop(socket.try_send_to(&query.failure(), from));
                    continue;
                };
                let (socket, service) = (Arc::clone(&socket), Arc::clone(service));
                forwards.spawn(async move {
                    let reply = service.forwarder.resolve(&query).await;
                    drop((socket.send_to(&reply, from).await, permit));
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, service: &Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let Ok((stream, from)) = listener.accept().await else {
            sleep(RETRY_PAUSE).await;
            continue;
        };
        let service = Arc::clone(service);
        connections.spawn(async move {
            // Ends with the client's end of the stream, its silence, or its first unreadable query.
            let _ = service.serve_connection(stream, from.ip()).await;
        });
    }
}

impl Service {
    async fn serve_connection(&self, mut stream: TcpStream, from: IpAddr) -> std::io::Result<()> {
        loop {
            let query = timeout(IDLE_SECONDS_MAX, read_framed(&mut stream, QUERY_BYTES_MAX)).await??;
            let reply = match self.decide(&query, from, Transport::Tcp) {
                Decision::Drop => return Ok(()),
                Decision::Reply(reply) => reply,
                Decision::Forward(query) => match self.forwards.try_acquire() {
                    Ok(_permit) => self.forwarder.resolve(&query).await,
                    Err(_) => query.failure(),
                },
            };
            timeout(IDLE_SECONDS_MAX, write_framed(&mut stream, &reply)).await??;
        }
    }

    fn decide(&self, packet: &[u8], from: IpAddr, transport: Transport) -> Decision {
        let Some(query) = Query::decode(packet, transport) else {
            return Decision::Drop;
        };
        let source = match from {
            IpAddr::V4(source) => source,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        match self.responder.answer(&self.zone.load(), source, query) {
            Decision::Forward(query) => match self.forwarder.cached(&query) {
                Some(reply) => Decision::Reply(reply),
                None => Decision::Forward(query),
            },
            decision => decision,
        }
    }
}

/// Reads one message with its length in front (RFC 1035, 4.2.2).
async fn read_framed(stream: &mut TcpStream, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > bytes_max {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "message too long"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let too_long = |_| std::io::Error::new(std::io::ErrorKind::InvalidData, "message too long");
    let length = u16::try_from(message.len()).map_err(too_long)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
