//! Notices when somebody else changes what the data path made in the kernel.
//!
//! Two sockets hear what the kernel tells everybody about packet rules, and about links, addresses and routes. Changes of our
//! table are told from our own by the generation of the rules that they made, which the committer notes. Of links and routes
//! everything that could concern us counts, our own changes included: looking at them costs little and changes nothing when
//! nothing is wrong.
//!
//! **Invariant:** a missed message is a disturbance too.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::NetworkError;

// linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_NFTABLES: u32 = 7;
const HEADER_LENGTH: usize = 16;
/// `nfgenmsg`
const NETFILTER_HEADER_LENGTH: usize = 4;
const ROUTE_NEW: u16 = 24;
const ROUTE_DELETED: u16 = 25;
/// Position of the protocol in `rtmsg`.
const ROUTE_PROTOCOL: usize = 5;
const SUBSYSTEM_NFTABLES: u16 = 10;
const GENERATION_NEW: u16 = SUBSYSTEM_NFTABLES << 8 | 15;
const GENERATION_GET: u16 = SUBSYSTEM_NFTABLES << 8 | 16;
const REQUEST: u16 = 1;
/// In every message about a table, chain, rule, set or element the attribute with the table's name.
const TABLE_NAME: u16 = 1;
const GENERATION_ID: u16 = 1;

/// Generations of our own that are remembered; messages about older ones have long been read.
const OWN_GENERATIONS_MAX: usize = 256;

/// What may differ from what was applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// Packet rules of our table.
    pub rules: bool,
    /// Links, addresses or routes.
    pub links: bool,
}

/// See the module.
pub(crate) struct Watch {
    seen: Arc<Seen>,
    own: Arc<OwnChanges>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct Seen {
    rules: AtomicBool,
    links: AtomicBool,
    news: Notify,
}

/// Generations of the packet rules that our transactions made. The lock is held while a transaction runs, so that the news of it
/// is judged only after it is noted.
#[derive(Default)]
pub(crate) struct OwnChanges {
    generations: Mutex<VecDeque<u16>>,
    committing: tokio::sync::Mutex<()>,
}

impl Watch {
    /// Watches the namespace of the calling thread for changes of `tables` and of routes of `protocol`.
    pub(crate) fn start(tables: Vec<String>, protocol: u8) -> Result<Self, NetworkError> {
        let open = |family, groups: &[u32]| listen(family, groups).map_err(|source| NetworkError::Socket { source });
        let rules = open(NETLINK_NETFILTER, &[GROUP_NFTABLES])?;
        let links = open(NETLINK_ROUTE, &[GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE])?;
        let (seen, own) = (Arc::new(Seen::default()), Arc::new(OwnChanges::default()));
        let tasks = [
            tokio::spawn(watch_rules(rules, tables, Arc::clone(&own), Arc::clone(&seen))),
            tokio::spawn(watch_links(links, protocol, Arc::clone(&seen))),
        ];
        Ok(Self { seen, own, tasks })
    }

    /// Runs a transaction of ours.
    pub(crate) async fn own<T>(&self, transaction: impl Future<Output = T>) -> T {
        let _committing = self.own.committing.lock().await;
        // Without a generation our own change is taken for another's, and healed for nothing.
        let before = generation().unwrap_or_default();
        let done = transaction.await;
        let after = generation().unwrap_or_default();
        let mut generations = self.own.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = before;
        while next != after && generations.len() < 2 * OWN_GENERATIONS_MAX {
            next = next.wrapping_add(1);
            generations.push_back(next as u16);
        }
        while generations.len() > OWN_GENERATIONS_MAX {
            generations.pop_front();
        }
        drop(generations);
        done
    }

    /// Waits until something may be wrong.
    pub(crate) async fn disturbed(&self) -> Disturbance {
        loop {
            let news = self.seen.news.notified();
            let seen = Disturbance {
                rules: self.seen.rules.swap(false, Ordering::AcqRel),
                links: self.seen.links.swap(false, Ordering::AcqRel),
            };
            if seen != Disturbance::default() {
                return seen;
            }
            news.await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Seen {
    fn note(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
        self.news.notify_one();
    }
}

impl OwnChanges {
    async fn made(&self, generation: u16) -> bool {
        let _committing = self.committing.lock().await;
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.contains(&generation)
    }
}

fn listen(family: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(family)?;
    socket.socket_mut().bind_auto()?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

/// The next datagram; none when messages were lost.
async fn receive(socket: &mut TokioSocket) -> io::Result<Option<Vec<u8>>> {
    match socket.recv_from_full().await {
        Ok((bytes, _)) => Ok(Some(bytes)),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn watch_rules(mut socket: TokioSocket, tables: Vec<String>, own: Arc<OwnChanges>, seen: Arc<Seen>) {
    loop {
        match receive(&mut socket).await {
            Ok(Some(bytes)) => {
                if let Some(generation) = change_of(&bytes, &tables)
                    && !own.made(generation).await
                {
                    seen.note(&seen.rules);
                }
            }
            Ok(None) => seen.note(&seen.rules),
            Err(error) => {
                tracing::error!(%error, "changes of packet rules are noticed late from now on");
                return;
            }
        }
    }
}

async fn watch_links(mut socket: TokioSocket, protocol: u8, seen: Arc<Seen>) {
    loop {
        match receive(&mut socket).await {
            Ok(Some(bytes)) => {
                if messages(&bytes).any(|(kind, body)| concerns_links(kind, body, protocol)) {
                    seen.note(&seen.links);
                }
            }
            Ok(None) => seen.note(&seen.links),
            Err(error) => {
                tracing::error!(%error, "changes of links are noticed late from now on");
                return;
            }
        }
    }
}

/// Routes of others are theirs; links and addresses come and go seldom.
fn concerns_links(kind: u16, body: &[u8], protocol: u8) -> bool {
    match kind {
        ROUTE_NEW | ROUTE_DELETED => body.get(ROUTE_PROTOCOL) == Some(&protocol),
        _ => true,
    }
}

/// The generation whose messages mention one of the tables.
fn change_of(bytes: &[u8], tables: &[String]) -> Option<u16> {
    messages(bytes).find_map(|(kind, body)| {
        let is_about_rules = kind >> 8 == SUBSYSTEM_NFTABLES && kind != GENERATION_NEW;
        let generation = u16::from_be_bytes(*body.get(2..)?.first_chunk()?);
        let name = attribute(body.get(NETFILTER_HEADER_LENGTH..)?, TABLE_NAME)?;
        let name = name.split(|byte| *byte == 0).next()?;
        let is_ours = tables.iter().any(|table| name == table.as_bytes());
        (is_about_rules && is_ours).then_some(generation)
    })
}

/// The present generation of the packet rules of the calling thread's namespace.
fn generation() -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = (HEADER_LENGTH + NETFILTER_HEADER_LENGTH) as u32;
    let mut request = Vec::from(length.to_ne_bytes());
    request.extend_from_slice(&GENERATION_GET.to_ne_bytes());
    request.extend_from_slice(&REQUEST.to_ne_bytes());
    request.resize(length as usize, 0);
    socket.send(&request, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let found = messages(&bytes).find_map(|(kind, body)| {
        let id = attribute(body.get(NETFILTER_HEADER_LENGTH..)?, GENERATION_ID)?;
        (kind == GENERATION_NEW).then_some(u32::from_be_bytes(*id.first_chunk()?))
    });
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no generation in the kernel's answer"))
}

/// Types and bodies of the messages of one datagram.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        let body = rest.get(HEADER_LENGTH..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from(((HEADER_LENGTH + body.len()) as u32).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.resize(HEADER_LENGTH, 0);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn rule_of(table: &str, generation: u16) -> Vec<u8> {
        let mut body = vec![2, 0];
        body.extend_from_slice(&generation.to_be_bytes());
        body.extend_from_slice(&(table.len() as u16 + 5).to_ne_bytes());
        body.extend_from_slice(&TABLE_NAME.to_ne_bytes());
        body.extend_from_slice(table.as_bytes());
        body.push(0);
        message(SUBSYSTEM_NFTABLES << 8 | 6, &body)
    }

    #[test]
    fn only_changes_of_our_table_count() {
        let tables = ["gantry".to_string()];
        let ours = rule_of("gantry", 7);
        let other = rule_of("gantry_local", 8);
        assert_eq!(change_of(&[other.clone(), ours].concat(), &tables), Some(7));
        assert_eq!(change_of(&other, &tables), None);
        let unpadded = HEADER_LENGTH + NETFILTER_HEADER_LENGTH + 4 + "gantry_local".len() + 1;
        for length in 0..unpadded {
            assert_eq!(
                change_of(&other[..length], &["gantry_local".to_string()]),
                None,
                "cut at {length}"
            );
        }
    }

    #[test]
    fn routes_of_others_do_not_count() {
        let route = [2, 24, 0, 0, 254, 103, 0, 1];
        assert!(concerns_links(ROUTE_DELETED, &route, 103));
        assert!(!concerns_links(ROUTE_DELETED, &route, 104));
        assert!(concerns_links(16, &[], 103));
    }
}
