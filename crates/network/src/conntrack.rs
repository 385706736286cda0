//! Tracked connections to endpoints that left.
//!
//! A TCP connection ends with its endpoint; a UDP client that keeps its source port would be sent to the departed endpoint for as
//! long as it keeps talking, so its entry is deleted and its next packet is balanced anew. So is a TCP connection that was never
//! answered: its client asks again, and may be answered by somebody else.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::NetworkError;

/// Which entries are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Udp,
    UnansweredTcp,
}

/// Deletes the UDP entries whose answers would come from a departed address; how many there were.
pub(crate) async fn forget_udp(departed: impl Fn(Ipv4Addr) -> bool + Send + 'static) -> Result<usize, NetworkError> {
    forget(Which::Udp, departed).await
}

/// Deletes the TCP entries whose first answer would come from a departed address; how many there were. An endpoint that drains
/// may be about to answer, so this is not for the moment of its departure.
pub(crate) async fn forget_unanswered(
    departed: impl Fn(Ipv4Addr) -> bool + Send + 'static,
) -> Result<usize, NetworkError> {
    forget(Which::UnansweredTcp, departed).await
}

async fn forget(which: Which, departed: impl Fn(Ipv4Addr) -> bool + Send + 'static) -> Result<usize, NetworkError> {
    let deleted = tokio::task::spawn_blocking(move || delete_entries(which, &departed)).await;
    let deleted = deleted.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    deleted.map_err(|source| NetworkError::Conntrack { source })
}

fn delete_entries(which: Which, departed: &dyn Fn(Ipv4Addr) -> bool) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let stale = stale_entries(&socket, which, departed)?;
    for original in &stale {
        let original = vec![ConntrackAttribute::CtaTupleOrig(original.clone())];
        send(&socket, ConntrackMessage::Delete(original), NLM_F_REQUEST | NLM_F_ACK)?;
        receive(&socket, |_| {})?;
    }
    Ok(stale.len())
}

/// Original directions of the entries to delete.
fn stale_entries(socket: &Socket, which: Which, departed: &dyn Fn(Ipv4Addr) -> bool) -> io::Result<Vec<Vec<Tuple>>> {
    send(socket, ConntrackMessage::Get(Vec::new()), NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut stale = Vec::new();
    receive(socket, |attributes| {
        let (mut original, mut matches, mut answered) = (None, false, false);
        for attribute in attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuples) => original = Some(tuples),
                ConntrackAttribute::CtaTupleReply(tuples) => matches = answers_from(&tuples, which, departed),
                ConntrackAttribute::CtaStatus(status) => answered = status.contains(Status::SeenReply),
                _ => {}
            }
        }
        let is_stale = matches && (which == Which::Udp || !answered);
        stale.extend(original.filter(|_| is_stale));
    })?;
    Ok(stale)
}

fn answers_from(reply: &[Tuple], which: Which, departed: &dyn Fn(Ipv4Addr) -> bool) -> bool {
    let protocol = match which {
        Which::Udp => Protocol::Udp,
        Which::UnansweredTcp => Protocol::Tcp,
    };
    let (mut is_protocol, mut matches) = (false, false);
    for tuple in reply {
        match tuple {
            Tuple::Ip(parts) => {
                matches |= parts.iter().any(|part| match part {
                    IPTuple::SourceAddress(IpAddr::V4(source)) => departed(*source),
                    _ => false,
                });
            }
            Tuple::Proto(parts) => is_protocol |= parts.contains(&ProtoTuple::Protocol(protocol)),
            _ => {}
        }
    }
    is_protocol && matches
}

fn send(socket: &Socket, message: ConntrackMessage, flags: u16) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let message = NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), message);
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0).map(|_| ())
}

/// Reads one answer to its end: the end of a dump, or an acknowledgement. An entry that is gone already is no error.
fn receive(socket: &Socket, mut entry: impl FnMut(Vec<ConntrackAttribute>)) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("netlink message: {error}"));
            let length = NetlinkBuffer::new_checked(rest).map_err(invalid)?.length() as usize;
            let packet = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(invalid)?;
            match packet.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => {
                    let error = error.to_io();
                    let benign = [None, Some(0), Some(nix::libc::ENOENT)].contains(&error.raw_os_error());
                    return if benign { Ok(()) } else { Err(error) };
                }
                NetlinkPayload::InnerMessage(message) => {
                    if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
                        entry(attributes);
                    }
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
