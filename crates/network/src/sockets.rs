//! The TCP connections that clients have with a replica, as the kernel of its network namespace knows them (`sock_diag`).
//!
//! Asked in the replica's own namespace, and not of the connection tracking of all nodes that route to it: one question to one
//! kernel sees the connections of every way in, and it sees what tracking does not know: whether a request waits for its answer.
//!
//! **Invariant:** only connections that others opened count; those that the replica opened, and its own with itself, do not.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::NetworkError;
use crate::namespace;

/// A connection on which nobody has said anything for so long, and on which the replica spoke last, is not in use: one that a
/// client keeps for later. Shorter would take the silence of a slow answer for idleness where a protocol acknowledges requests
/// (HTTP/2); longer would make every stop wait for pools of connections.
const QUIET_MIN: Duration = Duration::from_secs(5);

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h, net/tcp_states.h.
const HEADER_LENGTH: usize = 16;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const REQUEST_LENGTH: usize = 56;
const ENTRY_LENGTH: usize = 72;
const INFO: u16 = 2;
const TCP: u8 = 6;
const INET: u8 = 2;
const INET6: u8 = 10;
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// Half open: the kernel lists it under the state it had before 4.4, `SYN_RECV`.
const SYN_RECV: u8 = 3;

/// Connections of a replica with its clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Connections that clients opened and neither side has closed for good.
    pub open: usize,
    /// Those among them on which nothing has been under way for a while.
    pub idle: usize,
    /// Connections that the replica has closed, whose last bytes are not acknowledged yet.
    pub sending: usize,
}

impl Connections {
    /// Open connections with something under way.
    #[must_use]
    pub const fn busy(self) -> usize {
        self.open - self.idle
    }
}

/// One socket of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    state: u8,
    local: (IpAddr, u16),
    remote: IpAddr,
    /// Received and not yet read.
    unread: u32,
    /// Sent and not yet acknowledged.
    unacknowledged: u32,
    /// How long ago the last byte went out, and the last one came in.
    silence: Option<(Duration, Duration)>,
}

/// Counts them in the namespace kept at `path`; none when there is no namespace.
pub(crate) async fn connections(path: &Path) -> Result<Option<Connections>, NetworkError> {
    if !namespace::exists(path) {
        return Ok(None);
    }
    Ok(Some(count(&sockets(path).await?)))
}

async fn sockets(path: &Path) -> Result<Vec<Entry>, NetworkError> {
    let read = || {
        let mut entries = dump(INET)?;
        // A kernel without IPv6 knows no sockets of it.
        entries.extend(dump(INET6).unwrap_or_default());
        Ok(entries)
    };
    namespace::inside(path, read).await
}

/// The TCP ports on which something accepts connections from others.
pub(crate) async fn listening(path: &Path) -> Result<Option<BTreeSet<u16>>, NetworkError> {
    if !namespace::exists(path) {
        return Ok(None);
    }
    let entries = sockets(path).await?;
    let for_others = |entry: &&Entry| entry.state == LISTEN && !entry.local.0.is_loopback();
    Ok(Some(
        entries.iter().filter(for_others).map(|entry| entry.local.1).collect(),
    ))
}

fn count(entries: &[Entry]) -> Connections {
    let listened = entries.iter().filter(|entry| entry.state == LISTEN);
    let ports: BTreeSet<u16> = listened.map(|entry| entry.local.1).collect();
    let mut count = Connections::default();
    let foreign = |entry: &&Entry| !entry.remote.is_loopback() && entry.remote != entry.local.0;
    for entry in entries.iter().filter(foreign) {
        match entry.state {
            ESTABLISHED | CLOSE_WAIT | SYN_RECV if ports.contains(&entry.local.1) => {
                count.open += 1;
                count.idle += usize::from(entry.is_idle());
            }
            FIN_WAIT1 | CLOSING | LAST_ACK if entry.unacknowledged > 0 => count.sending += 1,
            _ => {}
        }
    }
    count
}

impl Entry {
    fn is_idle(&self) -> bool {
        let Some((sent, received)) = self.silence else {
            return false;
        };
        let at_rest = self.unread == 0 && self.unacknowledged == 0;
        // Times are coarse: an answer may bear the same time as its request.
        at_rest && sent <= received && sent >= QUIET_MIN
    }
}

fn dump(family: u8) -> io::Result<Vec<Entry>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(family), 0)?;
    let mut entries = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while let Some((kind, body, next)) = split_message(rest) {
            match kind {
                DONE => return Ok(entries),
                ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => entries.extend(parse(body)),
            }
            rest = next;
        }
    }
}

/// `nlmsghdr` and `inet_diag_req_v2`: all sockets that count, with `tcp_info`.
fn request(family: u8) -> Vec<u8> {
    let states = [ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING];
    let states: u32 = states.iter().map(|state| 1 << state).sum();
    let length = HEADER_LENGTH + REQUEST_LENGTH;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&(length as u32).to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, TCP, 1 << (INFO - 1), 0]);
    bytes.extend_from_slice(&states.to_ne_bytes());
    bytes.resize(length, 0);
    bytes
}

/// Type and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER_LENGTH..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// `inet_diag_msg` and its attributes.
fn parse(body: &[u8]) -> Option<Entry> {
    let family = *body.first()?;
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = body.get(at..)?;
        Some(match family {
            INET => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
            _ => Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_canonical(),
        })
    };
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    Some(Entry {
        state: *body.get(1)?,
        local: (address(8)?, port),
        remote: address(24)?,
        unread: u32_at(body, 56)?,
        unacknowledged: u32_at(body, 60)?,
        silence: tcp_info(body.get(ENTRY_LENGTH..)?).and_then(silence),
    })
}

fn tcp_info(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == INFO {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

/// `tcpi_last_data_sent` and `tcpi_last_data_recv`, in milliseconds.
fn silence(info: &[u8]) -> Option<(Duration, Duration)> {
    let at = |offset| u32_at(info, offset).map(|ms| Duration::from_millis(ms.into()));
    Some((at(44)?, at(52)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: u8, port: u16, remote: &str) -> Entry {
        Entry {
            state,
            local: ("10.128.0.2".parse().expect("an address"), port),
            remote: remote.parse().expect("an address"),
            unread: 0,
            unacknowledged: 0,
            silence: Some((Duration::from_secs(60), Duration::from_secs(60))),
        }
    }

    #[test]
    fn only_connections_that_others_opened_count() {
        let listener = entry(LISTEN, 80, "0.0.0.0");
        let own = entry(ESTABLISHED, 40_000, "10.128.0.9");
        let client = entry(ESTABLISHED, 80, "10.128.0.9");
        let inner = entry(ESTABLISHED, 80, "127.0.0.1");
        let itself = entry(ESTABLISHED, 80, "10.128.0.2");
        let counted = count(&[listener, own, client, inner, itself]);
        assert_eq!((counted.open, counted.idle, counted.sending), (1, 1, 0));
    }

    #[test]
    fn a_request_that_waits_for_its_answer_is_not_idle() {
        let quiet = entry(ESTABLISHED, 80, "10.128.0.9");
        assert!(quiet.is_idle());
        let heard_last = (Duration::from_secs(60), Duration::from_secs(50));
        let just_answered = (Duration::from_secs(1), Duration::from_secs(2));
        for busy in [
            Entry {
                silence: Some(heard_last),
                ..quiet.clone()
            },
            Entry {
                silence: Some(just_answered),
                ..quiet.clone()
            },
            Entry {
                unread: 1,
                ..quiet.clone()
            },
            Entry {
                unacknowledged: 1,
                ..quiet.clone()
            },
            Entry {
                silence: None,
                ..quiet.clone()
            },
        ] {
            assert!(!busy.is_idle(), "{busy:?}");
        }
    }

    #[test]
    fn bytes_still_to_be_acknowledged_after_the_end_are_waited_for() {
        let sent = entry(FIN_WAIT1, 80, "10.128.0.9");
        let pending = Entry {
            unacknowledged: 5,
            ..sent.clone()
        };
        assert_eq!(count(&[sent, pending]).sending, 1);
    }

    #[test]
    fn cut_messages_are_no_sockets() {
        let mut bytes = request(INET);
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            assert!(split_message(cut).is_none() || length >= HEADER_LENGTH);
            assert_eq!(parse(&bytes[..length.min(ENTRY_LENGTH)]), None);
        }
        bytes.truncate(3);
        assert_eq!(tcp_info(&bytes), None);
    }
}
