//! The replicated log: openraft over RocksDB, hosting [`gantry_state::State`].
//!
//! **Invariant:** what [`Replicated::propose`] acknowledged is on the disks of a majority and survives the loss of any minority.
//! **Invariant:** a transaction is appended at most once; when it cannot be known whether it was, the caller is told so
//! ([`ProposeError::Unknown`]) and nothing tries again behind its back.
//! **Invariant:** [`Replicated::linearizable`] returns a state that holds everything acknowledged before it was called, or an error.
//! **Invariant:** a term has one leader, so `Precondition::Term` refuses every write of a leader deposed meanwhile.
//!
//! Files of a server, below [`Options::dir`]: `FORMAT` (version of the layout), `log/` (RocksDB: entries, vote, committed, purged)
//! and `snapshots/` (the newest state as one file with its own checksum).
//! Deliberately not here: gRPC and TLS (a [`Transport`] is given), what is written (`control-plane`), what it means (`state`).

mod change;
mod codec;
mod dir;
mod error;
mod feed;
mod leader;
mod leadership;
mod log_reader;
mod log_store;
mod machine;
mod members;
mod network;
mod options;
mod proposal;
mod propose;
mod read;
mod recent;
mod replicated;
mod rounds;
mod runtime;
mod serve;
mod snapshot;
#[cfg(test)]
mod suite;
mod transport;
mod types;
mod wire;

pub use error::{ChangeError, HandleError, OpenError, ProposeError, ReadError};
pub use feed::{ChangeFeed, FEED_UPDATES_MAX, FeedError, Update};
pub use leadership::{Leader, Leadership};
pub use log_store::DiskStats;
pub use members::{Member, Members, Voting};
pub use options::Options;
pub use propose::Proposed;
pub use replicated::Replicated;
pub use transport::{Method, Peer, Transport, TransportError};
pub use wire::{PROPOSAL_BYTES_MAX, SNAPSHOT_FRAME_BYTES, WIRE_VERSION};
