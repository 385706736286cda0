//! Queries for names that are not the cluster's, passed to the node's own resolvers.
//!
//! **Invariant:** an answer is believed only from the resolver asked, at a port and with an id drawn for this query, and to the
//! same question.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gantry_env::{Env, System};
use hickory_proto::op::{Message, MessageType};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::{Query, Transport};
use super::cache::Cache;
use super::{read_framed, write_framed};

/// For one resolver to answer; glibc gives it 5 s, but its clients have given up on us by then.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(2);
/// Resolvers tried, as in glibc (MAXNS).
const RESOLVERS_MAX: usize = 3;
/// How often each is tried over UDP, where a datagram may be lost.
const ROUNDS: usize = 2;
/// The port of DNS.
const PORT: u16 = 53;

/// Where the node's resolvers are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// In a file such as `/etc/resolv.conf`, read anew for each query that is not cached, since it changes with the network.
    File(PathBuf),
    /// Here.
    List(Vec<SocketAddr>),
}

impl Default for Upstreams {
    fn default() -> Self {
        Self::File(PathBuf::from("/etc/resolv.conf"))
    }
}

impl Upstreams {
    fn resolvers(&self) -> Vec<SocketAddr> {
        match self {
            Self::List(list) => list.clone(),
            Self::File(path) => parse(&fs::read_to_string(path).unwrap_or_default()),
        }
    }
}

/// The `nameserver` lines of resolv.conf(5).
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|server| server.split_whitespace().next()?.parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, PORT)).collect()
}

/// Asks the node's resolvers.
#[derive(Debug)]
pub(super) struct Forwarder {
    upstreams: Upstreams,
    /// Ourselves, never to be asked.
    own: SocketAddr,
    cache: Mutex<Cache>,
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams, own: SocketAddr) -> Self {
        Self {
            upstreams,
            own,
            cache: Mutex::default(),
        }
    }

    /// An answer got before.
    pub(super) fn cached(&self, query: &Query) -> Option<Vec<u8>> {
        self.cache().get(query, System.monotonic())
    }

    /// The answer of the first resolver that gives one.
    pub(super) async fn resolve(&self, query: &Query) -> Vec<u8> {
        let resolvers = self.upstreams.resolvers();
        let resolvers = resolvers.into_iter().filter(|resolver| *resolver != self.own);
        let resolvers: Vec<SocketAddr> = resolvers.take(RESOLVERS_MAX).collect();
        let rounds = match query.transport {
            Transport::Udp => ROUNDS,
            Transport::Tcp => 1,
        };
        for resolver in resolvers.iter().cycle().take(resolvers.len() * rounds) {
            let Ok(Ok(reply)) = timeout(ANSWER_SECONDS_MAX, ask(query, *resolver)).await else {
                continue;
            };
            self.cache().put(query, reply.message, System.monotonic());
            return reply.bytes;
        }
        query.failure()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reply {
    message: Message,
    bytes: Vec<u8>,
}

async fn ask(query: &Query, resolver: SocketAddr) -> io::Result<Reply> {
    let id = (System.random_u64() & 0xffff) as u16;
    let mut packet = query.bytes.clone();
    set_id(&mut packet, id);
    let mut reply = match query.transport {
        Transport::Udp => ask_udp(query, &packet, id, resolver).await?,
        Transport::Tcp => {
            let mut stream = TcpStream::connect(resolver).await?;
            write_framed(&mut stream, &packet).await?;
            let bytes = read_framed(&mut stream, usize::from(u16::MAX)).await?;
            believe(query, &bytes, id).ok_or(io::ErrorKind::InvalidData)?
        }
    };
    set_id(&mut reply.bytes, query.message.metadata.id);
    Ok(reply)
}

async fn ask_udp(query: &Query, packet: &[u8], id: u16, resolver: SocketAddr) -> io::Result<Reply> {
    let any = match resolver {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not fit the query may be forged: the true answer may still come.
        if let Some(reply) = believe(query, &buffer[..length], id) {
            return Ok(reply);
        }
    }
}

fn believe(query: &Query, bytes: &[u8], id: u16) -> Option<Reply> {
    let message = Message::from_vec(bytes).ok()?;
    let metadata = &message.metadata;
    let fits = metadata.id == id && metadata.message_type == MessageType::Response;
    // Names compare without regard to case, which some resolvers change.
    (fits && message.queries == query.message.queries).then(|| Reply {
        message,
        bytes: bytes.to_vec(),
    })
}

fn set_id(packet: &mut [u8], id: u16) {
    if let Some(place) = packet.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_from_their_file() {
        let text = "# comment\nsearch example\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \nnameserver nonsense\noptions x\n";
        let resolvers = parse(text);
        assert_eq!(
            resolvers,
            ["192.0.2.1:53".parse(), "[2001:db8::1]:53".parse()].map(|text| text.expect("an address"))
        );
    }
}
