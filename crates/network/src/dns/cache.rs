//! Answers of the node's resolvers, kept for as long as they allow, up to a limit.

use std::collections::BTreeMap;

use gantry_model::DurationMs;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use super::answer::{Query, Transport};

/// Answers kept; at about 300 bytes each some 300 KiB.
const ENTRIES_MAX: usize = 1024;
/// Longest time an answer is kept, so that a foreign change is seen soon.
const TTL_SECONDS_MAX: u32 = 60;
/// For "there is no such name" without a word on how long that holds (RFC 2308, 5 advises against none at all).
const NEGATIVE_TTL_SECONDS: u32 = 5;

/// What makes two queries have the same answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    name: String,
    kind: u16,
    dnssec: Option<bool>,
    checking_disabled: bool,
    transport: Transport,
}

#[derive(Debug)]
struct Entry {
    reply: Message,
    stored_at: DurationMs,
    expires_at: DurationMs,
}

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: BTreeMap<Key, Entry>,
}

impl Key {
    /// None for a query without a question.
    pub(super) fn of(query: &Query) -> Option<Self> {
        let question = query.message.queries.first()?;
        Some(Self {
            name: question.name().to_lowercase().to_ascii(),
            kind: question.query_type().into(),
            dnssec: query.message.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
            checking_disabled: query.message.metadata.checking_disabled,
            transport: query.transport,
        })
    }
}

impl Cache {
    /// The answer to that query as of `now`, its times counted down.
    pub(super) fn get(&self, query: &Query, now: DurationMs) -> Option<Vec<u8>> {
        let entry = self.entries.get(&Key::of(query)?)?;
        if entry.expires_at.0 <= now.0 {
            return None;
        }
        let mut reply = entry.reply.clone();
        let age = u32::try_from(now.0.saturating_sub(entry.stored_at.0) / 1000).unwrap_or(u32::MAX);
        let records = reply.answers.iter_mut().chain(&mut reply.authorities);
        for record in records.chain(&mut reply.additionals) {
            record.decrement_ttl(age);
        }
        reply.metadata.id = query.message.metadata.id;
        reply.queries.clone_from(&query.message.queries);
        let bytes = reply.to_vec().ok()?;
        (bytes.len() <= query.reply_bytes_max()).then_some(bytes)
    }

    /// Keeps an answer, if it may be kept.
    pub(super) fn put(&mut self, query: &Query, reply: Message, now: DurationMs) {
        let (Some(key), Some(seconds)) = (Key::of(query), lifetime_seconds(&reply)) else {
            return;
        };
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        let entry = Entry {
            reply,
            stored_at: now,
            expires_at: DurationMs(now.0 + u64::from(seconds) * 1000),
        };
        self.entries.insert(key, entry);
    }

    fn make_room(&mut self, now: DurationMs) {
        self.entries.retain(|_, entry| entry.expires_at.0 > now.0);
        if self.entries.len() >= ENTRIES_MAX {
            let soonest = self.entries.iter().min_by_key(|(_, entry)| entry.expires_at.0);
            let soonest = soonest.map(|(key, _)| key.clone());
            soonest.and_then(|key| self.entries.remove(&key));
        }
    }
}

/// How long an answer may be kept; none for errors and cut answers.
fn lifetime_seconds(reply: &Message) -> Option<u32> {
    let cacheable = [ResponseCode::NoError, ResponseCode::NXDomain].contains(&reply.metadata.response_code);
    if !cacheable || reply.metadata.truncation {
        return None;
    }
    let seconds = if reply.answers.is_empty() {
        negative_seconds(reply)
    } else {
        reply.answers.iter().map(|record| record.ttl).min()?
    };
    let seconds = seconds.min(TTL_SECONDS_MAX);
    (seconds > 0).then_some(seconds)
}

/// RFC 2308, 5: the smaller of the SOA record's own time and its minimum.
fn negative_seconds(reply: &Message) -> u32 {
    let soa = reply
        .authorities
        .iter()
        .find(|record| record.record_type() == RecordType::SOA);
    match soa.map(|record| (record.ttl, &record.data)) {
        Some((ttl, RData::SOA(soa))) => ttl.min(soa.minimum),
        _ => NEGATIVE_TTL_SECONDS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode, Query as Question};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, Record};

    fn query(name: &str) -> Query {
        let mut message = Message::query();
        message.add_query(Question::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        let bytes = message.to_vec().expect("a query can be encoded");
        Query::decode(&bytes, Transport::Udp).expect("it can be decoded again")
    }

    fn reply(query: &Query, ttl: Option<u32>) -> Message {
        let mut reply = Message::new(0, MessageType::Response, OpCode::Query);
        reply.add_queries(query.message.queries.iter().cloned());
        let record = |ttl| {
            Record::from_rdata(
                query.message.queries[0].name().clone(),
                ttl,
                RData::A(A::new(192, 0, 2, 1)),
            )
        };
        reply.add_answers(ttl.map(record));
        reply
    }

    fn ttl(bytes: &[u8]) -> Option<u32> {
        Some(Message::from_vec(bytes).expect("a message").answers.first()?.ttl)
    }

    #[test]
    fn answers_age_and_expire() {
        let (mut cache, query) = (Cache::default(), query("example.org."));
        cache.put(&query, reply(&query, Some(10)), DurationMs(1_000));
        let cached = cache.get(&query, DurationMs(4_500)).expect("it is kept");
        assert_eq!(ttl(&cached), Some(7));
        assert_eq!(&cached[..2], &query.bytes[..2], "the answer bears the id of the query");
        assert_eq!(cache.get(&query, DurationMs(11_000)), None);
    }

    #[test]
    fn no_answer_is_kept_longer_than_the_limit_and_errors_not_at_all() {
        let (mut cache, query) = (Cache::default(), query("example.org."));
        cache.put(&query, reply(&query, Some(86_400)), DurationMs(0));
        assert_eq!(cache.get(&query, DurationMs(u64::from(TTL_SECONDS_MAX) * 1000)), None);
        for code in [ResponseCode::ServFail, ResponseCode::Refused] {
            let mut failed = reply(&query, None);
            failed.metadata.response_code = code;
            let mut cache = Cache::default();
            cache.put(&query, failed, DurationMs(0));
            assert_eq!(cache.get(&query, DurationMs(0)), None);
        }
        cache.put(&query, reply(&query, None), DurationMs(0));
        assert!(
            cache.get(&query, DurationMs(1)).is_some(),
            "the absence of a name is kept for a while"
        );
    }

    #[test]
    fn the_cache_does_not_grow_past_its_limit() {
        let mut cache = Cache::default();
        for index in 0..ENTRIES_MAX as u64 + 50 {
            let query = query(&format!("name{index}.example."));
            cache.put(&query, reply(&query, Some(30)), DurationMs(index));
        }
        assert_eq!(cache.entries.len(), ENTRIES_MAX);
        let newest = query(&format!("name{}.example.", ENTRIES_MAX + 49));
        assert!(cache.get(&newest, DurationMs(2_000)).is_some());
    }
}
