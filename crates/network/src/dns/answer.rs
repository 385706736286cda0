//! From a query's bytes to an answer, or to the decision that somebody else must answer. No I/O.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_netplan::{Place, Zone};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// How long clients may keep an answer: a replica that left must be forgotten soon.
const TTL_SECONDS: u32 = 5;
/// Largest answer over UDP, below every sensible MTU (DNS flag day 2020).
const UDP_BYTES_MAX: u16 = 1232;
/// Every message begins with so many bytes (RFC 1035, 4.1.1).
const HEADER_BYTES: usize = 12;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A query and its bytes.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) message: Message,
    pub(super) bytes: Vec<u8>,
    pub(super) transport: Transport,
}

/// What becomes of a packet.
#[derive(Debug)]
pub(super) enum Decision {
    /// Not a query: answering could start an endless exchange of errors.
    Drop,
    /// This is the answer.
    Reply(Vec<u8>),
    /// The node's resolvers know.
    Forward(Query),
}

impl Query {
    /// Reads a packet; none when it is nothing to answer. What is a query, but a broken one, has no question.
    pub(super) fn decode(packet: &[u8], transport: Transport) -> Option<Self> {
        if packet.len() < HEADER_BYTES || packet[2] & 0x80 != 0 {
            return None;
        }
        let message = Message::from_vec(packet).unwrap_or_else(|_| {
            let id = u16::from_be_bytes([packet[0], packet[1]]);
            Message::new(id, MessageType::Query, OpCode::Query)
        });
        Some(Self {
            message,
            bytes: packet.to_vec(),
            transport,
        })
    }

    /// Largest answer its client takes.
    pub(super) fn reply_bytes_max(&self) -> usize {
        match self.transport {
            Transport::Udp => usize::from(self.message.max_payload().min(UDP_BYTES_MAX)),
            Transport::Tcp => usize::from(u16::MAX),
        }
    }

    /// The answer that no answer could be had.
    pub(super) fn failure(&self) -> Vec<u8> {
        self.refuse(ResponseCode::ServFail)
    }

    fn refuse(&self, code: ResponseCode) -> Vec<u8> {
        let mut reply = self.empty_reply();
        reply.metadata.response_code = code;
        encode(&reply)
    }

    fn empty_reply(&self) -> Message {
        let asked = &self.message.metadata;
        let mut reply = Message::new(asked.id, MessageType::Response, asked.op_code);
        reply.metadata = Metadata::response_from_request(asked);
        reply.metadata.recursion_available = true;
        reply.add_queries(self.message.queries.iter().cloned());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX).set_version(0);
            reply.set_edns(edns);
        }
        reply
    }

    /// The name asked for, when it could be one of a service's.
    fn name(&self) -> Option<String> {
        let name = self.message.queries.first()?.name();
        let labels: Option<Vec<&str>> = name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        Some(labels?.join("."))
    }
}

/// Answers from a zone.
#[derive(Debug, Default)]
pub(super) struct Responder {
    /// Turns the order of addresses from answer to answer.
    turn: AtomicUsize,
}

impl Responder {
    pub(super) fn answer(&self, zone: &Zone, source: Ipv4Addr, query: Query) -> Decision {
        if !zone.owns(source) {
            return Decision::Reply(query.refuse(ResponseCode::Refused));
        }
        if query.message.metadata.op_code != OpCode::Query {
            return Decision::Reply(query.refuse(ResponseCode::NotImp));
        }
        let [question] = query.message.queries.as_slice() else {
            return Decision::Reply(query.refuse(ResponseCode::FormErr));
        };
        if question.query_class() != DNSClass::IN {
            return Decision::Reply(query.refuse(ResponseCode::NotImp));
        }
        if let Some(addresses) = query.name().and_then(|name| zone.lookup(source, &name)) {
            return Decision::Reply(self.addresses(&query, addresses));
        }
        if let Some(places) = query.name().and_then(|name| zone.places(source, &name)) {
            return Decision::Reply(self.places(&query, places));
        }
        if let Ok(network) = question.name().parse_arpa_name()
            && let IpAddr::V4(address) = network.addr()
            && zone.owns(address)
        {
            return Decision::Reply(match zone.name_of(source, address) {
                Some(name) => pointer(&query, &name),
                None => query.refuse(ResponseCode::NXDomain),
            });
        }
        if !zone.leads_outside(source) {
            return Decision::Reply(query.refuse(ResponseCode::NXDomain));
        }
        Decision::Forward(query)
    }

    /// Where a port is, in another order each time, with the addresses that the client would ask for next.
    fn places(&self, query: &Query, mut places: Vec<Place>) -> Vec<u8> {
        let mut reply = query.empty_reply();
        reply.metadata.authoritative = true;
        let Some(question) = query.message.queries.first() else {
            return encode(&reply);
        };
        if !places.is_empty() && matches!(question.query_type(), RecordType::SRV | RecordType::ANY) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % places.len();
            places.rotate_left(turn);
            for place in places {
                let Some(target) = full_name(&place.name) else { continue };
                let service = RData::SRV(SRV::new(0, 0, place.port, target.clone()));
                reply.add_answer(Record::from_rdata(question.name().clone(), TTL_SECONDS, service));
                reply.add_additional(Record::from_rdata(target, TTL_SECONDS, RData::A(A(place.address))));
            }
        }
        fit(reply, query.reply_bytes_max())
    }

    /// The addresses, in another order each time; none, if another type of record is asked for.
    fn addresses(&self, query: &Query, mut addresses: Vec<Ipv4Addr>) -> Vec<u8> {
        let mut reply = query.empty_reply();
        reply.metadata.authoritative = true;
        let Some(question) = query.message.queries.first() else {
            return encode(&reply);
        };
        if !addresses.is_empty() && matches!(question.query_type(), RecordType::A | RecordType::ANY) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
            let record = |address| Record::from_rdata(question.name().clone(), TTL_SECONDS, RData::A(A(address)));
            reply.add_answers(addresses.into_iter().map(record));
        }
        fit(reply, query.reply_bytes_max())
    }
}

fn pointer(query: &Query, name: &str) -> Vec<u8> {
    let mut reply = query.empty_reply();
    reply.metadata.authoritative = true;
    if let (Some(question), Some(name)) = (query.message.queries.first(), full_name(name))
        && matches!(question.query_type(), RecordType::PTR | RecordType::ANY)
    {
        let data = RData::PTR(PTR(name));
        reply.add_answer(Record::from_rdata(question.name().clone(), TTL_SECONDS, data));
    }
    fit(reply, query.reply_bytes_max())
}

/// None for what a name server cannot say, such as a label that is too long.
fn full_name(name: &str) -> Option<Name> {
    let mut full = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
    full.set_fqdn(true);
    Some(full)
}

/// As many of the answers as fit, said to be cut when they are not all: a client without TCP can still use them.
fn fit(mut reply: Message, bytes_max: usize) -> Vec<u8> {
    let mut bytes = encode(&reply);
    if bytes.len() > bytes_max {
        // They can be asked for.
        reply.additionals.clear();
        bytes = encode(&reply);
    }
    while bytes.len() > bytes_max && !reply.answers.is_empty() {
        reply.metadata.truncation = true;
        let kept = reply.answers.len() * bytes_max / bytes.len();
        reply.answers.truncate(kept.min(reply.answers.len() - 1));
        bytes = encode(&reply);
    }
    bytes
}

fn encode(reply: &Message) -> Vec<u8> {
    // Only a name that could not have been decoded cannot be encoded; an empty datagram is then as good as none.
    reply.to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query as Question;
    use proptest::prelude::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 128, 1, 2);

    fn zone() -> Zone {
        Zone {
            pools: vec!["10.128.0.0/10".parse().expect("a network")],
            ..Zone::default()
        }
    }

    fn packet(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Question::query(Name::from_ascii(name).expect("a name"), kind));
        message.to_vec().expect("a query can be encoded")
    }

    fn code(decision: Decision) -> Option<ResponseCode> {
        match decision {
            Decision::Reply(bytes) => Some(Message::from_vec(&bytes).expect("a message").metadata.response_code),
            Decision::Drop | Decision::Forward(_) => None,
        }
    }

    fn decide(source: Ipv4Addr, packet: &[u8]) -> Decision {
        let Some(query) = Query::decode(packet, Transport::Udp) else {
            return Decision::Drop;
        };
        Responder::default().answer(&zone(), source, query)
    }

    #[test]
    fn names_of_our_own_addresses_are_not_asked_for_elsewhere() {
        let ours = packet("9.1.128.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(code(decide(CLIENT, &ours)), Some(ResponseCode::NXDomain));
        let theirs = packet("9.1.0.192.in-addr.arpa.", RecordType::PTR);
        assert!(matches!(decide(CLIENT, &theirs), Decision::Forward(_)));
    }

    #[test]
    fn strangers_and_broken_or_odd_queries_are_refused() {
        let query = packet("example.org.", RecordType::A);
        let refused = code(decide(Ipv4Addr::new(192, 0, 2, 1), &query));
        assert_eq!(refused, Some(ResponseCode::Refused));
        assert_eq!(code(decide(CLIENT, &query[..14])), Some(ResponseCode::FormErr));
        let mut update = query.clone();
        update[2] |= 5 << 3;
        assert_eq!(code(decide(CLIENT, &update)), Some(ResponseCode::NotImp));
        let mut response = query;
        response[2] |= 0x80;
        assert!(matches!(decide(CLIENT, &response), Decision::Drop));
        assert!(matches!(decide(CLIENT, b"short"), Decision::Drop));
    }

    proptest! {
        #[test]
        fn any_packet_is_survived(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            decide(CLIENT, &packet);
        }

        #[test]
        fn any_damage_to_a_query_is_survived(at in 0usize..40, value: u8) {
            let mut packet = packet("web.shop.", RecordType::A);
            let at = at % packet.len();
            packet[at] = value;
            decide(CLIENT, &packet);
        }
    }
}
