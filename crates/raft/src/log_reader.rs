//! Reads the log for replication and for applying.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::{OptionalSend, RaftLogReader};
use rocksdb::{Direction, IteratorMode};

use crate::log_store::{Database, index_of, key_of};
use crate::recent::Recent;
use crate::types::{Entry, TypeConfig, Vote};
use crate::wire::APPEND_BYTES_MAX;

/// A reader of its own for every task that needs one.
#[derive(Clone)]
pub struct LogReader {
    database: Arc<Database>,
    recent: Arc<Recent>,
}

impl LogReader {
    pub fn new(database: Arc<Database>, recent: Arc<Recent>) -> Self {
        Self { database, recent }
    }

    /// Entries from `first` while `wanted` says so of their index and the bytes read before them.
    fn read(&self, first: u64, wanted: impl Fn(u64, usize) -> bool) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.recent.read(first, &wanted) {
            return Ok(entries);
        }
        let key = key_of(first);
        let mode = IteratorMode::From(&key, Direction::Forward);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for item in self.database.db().iterator_cf(self.database.entries(), mode) {
            let (key, sealed) = item.map_err(io::Error::other)?;
            bytes += sealed.len();
            if !wanted(index_of(&key)?, bytes) {
                break;
            }
            entries.push(self.database.decode_entry(&key, &sealed)?);
        }
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        self.read(first, |index, _| range.contains(&index))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, |index, bytes| {
            index < end && (bytes <= APPEND_BYTES_MAX || index == start)
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.database.read_vote()
    }
}
