//! The newest entries of the log, as they were appended: what replication and applying read next.
//!
//! Without it every entry is read from the database and decoded once for each follower and once more to be applied, which at
//! full load costs more than anything else that Raft does.
//!
//! **Invariant:** what is here is a suffix of the stored log, without a hole. It may be empty at any time: readers then ask the
//! database.
//! Deliberately not here: durability. An entry is here as soon as it is written, as in the database.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use openraft::entry::RaftEntry as _;

use crate::types::Entry;

/// Encoded bytes kept; in memory the same entries take about three times as much. Followers that keep up are a few entries
/// behind, and the largest entry is [`crate::wire::PROPOSAL_BYTES_MAX`].
const RECENT_BYTES_MAX: usize = 2 * crate::wire::PROPOSAL_BYTES_MAX;

/// Entries kept, whatever their size.
const RECENT_ENTRIES_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Recent {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// With the bytes that each takes on the disk.
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Recent {
    /// Entries were written, each of so many bytes.
    pub fn append(&self, entries: Vec<(Entry, usize)>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (entry, bytes) in entries {
            let follows = held.last().is_none_or(|last| last + 1 == entry.index());
            if !follows {
                held.clear();
            }
            held.bytes += bytes;
            held.entries.push_back((entry, bytes));
        }
        while held.bytes > RECENT_BYTES_MAX || held.entries.len() > RECENT_ENTRIES_MAX {
            held.drop_first();
        }
    }

    /// Entries up to `last` were deleted.
    pub fn purge(&self, last: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.entries.front().is_some_and(|(entry, _)| entry.index() <= last) {
            held.drop_first();
        }
    }

    /// Entries from `first` on were deleted, or are about to be.
    pub fn truncate(&self, first: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.last().is_some_and(|last| last >= first) {
            if let Some((_, bytes)) = held.entries.pop_back() {
                held.bytes -= bytes;
            }
        }
    }

    /// Entries from `first` while `wanted` says so of their index and the bytes read before them; `None` when they are not all
    /// here.
    pub fn read(&self, first: u64, wanted: impl Fn(u64, usize) -> bool) -> Option<Vec<Entry>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let start = held.entries.front()?.0.index();
        let skipped = usize::try_from(first.checked_sub(start)?).ok()?;
        let (mut read, mut total) = (Vec::new(), 0);
        for (entry, bytes) in held.entries.iter().skip(skipped) {
            total += bytes;
            if !wanted(entry.index(), total) {
                break;
            }
            read.push(entry.clone());
        }
        (!read.is_empty()).then_some(read)
    }
}

impl Held {
    fn last(&self) -> Option<u64> {
        self.entries.back().map(|(entry, _)| entry.index())
    }

    fn drop_first(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogId, TypeConfig};
    use openraft::vote::RaftLeaderId as _;

    fn entry(index: u64) -> Entry {
        let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new(1, 1);
        Entry::new_blank(LogId::new(leader.to_committed(), index))
    }

    fn indices(recent: &Recent, first: u64, end: u64) -> Option<Vec<u64>> {
        let read = recent.read(first, |index, _| index < end)?;
        Some(read.iter().map(|entry| entry.index()).collect())
    }

    #[test]
    fn a_suffix_of_the_log_is_read_and_nothing_else() {
        let recent = Recent::default();
        assert_eq!(indices(&recent, 1, 9), None);
        recent.append((5..8).map(|index| (entry(index), 10)).collect());
        assert_eq!(indices(&recent, 5, 7), Some(vec![5, 6]));
        assert_eq!(indices(&recent, 6, 99), Some(vec![6, 7]));
        assert_eq!(indices(&recent, 4, 99), None, "the first is not here");
        assert_eq!(indices(&recent, 8, 99), None, "there is none yet");
        recent.truncate(7);
        assert_eq!(indices(&recent, 5, 99), Some(vec![5, 6]));
        recent.append(vec![(entry(7), 10)]);
        assert_eq!(indices(&recent, 6, 99), Some(vec![6, 7]));
        recent.append(vec![(entry(20), 10)]);
        assert_eq!(
            indices(&recent, 7, 99),
            None,
            "no hole: what was before it is forgotten"
        );
        assert_eq!(indices(&recent, 20, 99), Some(vec![20]));
        recent.append(vec![(entry(21), 10)]);
        recent.purge(20);
        assert_eq!(indices(&recent, 20, 99), None);
        assert_eq!(indices(&recent, 21, 99), Some(vec![21]));
        recent.truncate(3);
        assert_eq!(indices(&recent, 21, 99), None);
    }

    #[test]
    fn what_it_keeps_is_bounded_by_bytes_and_by_count() {
        let recent = Recent::default();
        recent.append((0..10).map(|index| (entry(index), RECENT_BYTES_MAX / 4)).collect());
        assert_eq!(indices(&recent, 5, 99), None);
        assert_eq!(indices(&recent, 6, 99), Some(vec![6, 7, 8, 9]));
        recent.append(vec![(entry(10), 2 * RECENT_BYTES_MAX)]);
        assert_eq!(
            indices(&recent, 10, 99),
            None,
            "one that is too large is not kept either"
        );
        let many = RECENT_ENTRIES_MAX as u64 + 5;
        recent.append((0..many).map(|index| (entry(index), 1)).collect());
        assert_eq!(indices(&recent, 4, many), None);
        assert_eq!(indices(&recent, 5, 7), Some(vec![5, 6]));
    }
}
