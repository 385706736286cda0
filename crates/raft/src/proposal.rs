//! What an entry of the log carries: a transaction, encoded once.
//!
//! An entry is written to the disk of every server and sent to each of the others; its transaction goes everywhere as the same
//! bytes, which are made where it is proposed and read where it is applied.

use std::fmt;
use std::sync::Arc;

use gantry_state::Transaction;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use crate::codec::{decode, encode};

/// The one field. A struct, so that later versions can add others.
const TRANSACTION: &str = "transaction";

/// See the module.
#[derive(Clone)]
pub struct Proposal {
    encoded: Arc<Encoded>,
}

struct Encoded {
    transaction: Transaction,
    bytes: Vec<u8>,
}

impl Proposal {
    /// Encodes a transaction.
    pub fn new(transaction: Transaction) -> std::io::Result<Self> {
        let bytes = encode(&transaction)?;
        Ok(Self::of(transaction, bytes))
    }

    fn of(transaction: Transaction, bytes: Vec<u8>) -> Self {
        let encoded = Arc::new(Encoded { transaction, bytes });
        Self { encoded }
    }

    /// What it asks for.
    pub fn transaction(&self) -> &Transaction {
        &self.encoded.transaction
    }

    /// What the transaction takes, encoded.
    pub fn bytes(&self) -> usize {
        self.encoded.bytes.len()
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transaction().fmt(formatter)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "transaction of {} operations", self.transaction().ops.len())
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut proposal = serializer.serialize_struct("Proposal", 1)?;
        proposal.serialize_field(TRANSACTION, &Raw(&self.encoded.bytes))?;
        proposal.end()
    }
}

struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Proposal", &[TRANSACTION], Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Proposal;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a proposal")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<Proposal, A::Error> {
        let Either(proposal) = fields
            .next_element()?
            .ok_or_else(|| A::Error::missing_field(TRANSACTION))?;
        Ok(proposal)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Proposal, A::Error> {
        let mut found = None;
        while let Some(field) = fields.next_key::<String>()? {
            if field == TRANSACTION {
                let Either(proposal) = fields.next_value()?;
                found = Some(proposal);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        found.ok_or_else(|| A::Error::missing_field(TRANSACTION))
    }
}

/// Encoded, or spelt out, as in logs that earlier builds wrote.
struct Either(Proposal);

impl<'de> Deserialize<'de> for Either {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EncodedOrSpelt)
    }
}

struct EncodedOrSpelt;

impl<'de> Visitor<'de> for EncodedOrSpelt {
    type Value = Either;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a transaction")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Either, E> {
        self.visit_byte_buf(bytes.to_vec())
    }

    fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Either, E> {
        let transaction = decode(&bytes).map_err(E::custom)?;
        Ok(Either(Proposal::of(transaction, bytes)))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Either, A::Error> {
        let spelt = serde::de::value::MapAccessDeserializer::new(fields);
        let transaction = Transaction::deserialize(spelt)?;
        Proposal::new(transaction).map(Either).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::Timestamp;
    use gantry_state::{NewEvent, Op};

    fn transaction() -> Transaction {
        let event = NewEvent::new("node alpha", "joined", "joined at 10.0.0.1");
        Transaction::new(Timestamp(7), vec![Op::Record(event)])
    }

    #[test]
    fn it_travels_as_the_bytes_that_were_made_first() {
        let proposal = Proposal::new(transaction()).expect("it can be encoded");
        let sent = encode(&proposal).expect("it can be encoded");
        assert!(sent.len() < proposal.bytes() + 32, "hardly more than the transaction");
        let arrived: Proposal = decode(&sent).expect("what was encoded");
        assert_eq!(arrived.transaction(), &transaction());
        assert_eq!(encode(&arrived).expect("it can be encoded"), sent);
    }

    #[test]
    fn one_that_is_spelt_out_in_an_older_log_is_read() {
        #[derive(Serialize)]
        struct Older {
            transaction: Transaction,
        }
        let older = encode(&Older {
            transaction: transaction(),
        });
        let read: Proposal = decode(&older.expect("it can be encoded")).expect("what an older build wrote");
        assert_eq!(read.transaction(), &transaction());
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let proposal = Proposal::new(transaction()).expect("it can be encoded");
        let mut sent = encode(&proposal).expect("it can be encoded");
        let last = sent.len() - 1;
        sent.truncate(last);
        assert!(decode::<Proposal>(&sent).is_err());
    }
}
