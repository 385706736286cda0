//! Entries, vote, committed and purged positions in RocksDB, made durable by one flusher thread.
//!
//! **Invariant:** nothing is acknowledged before an fsync that began after it was written. One fsync covers all that was written
//! while the previous one ran (group commit), and no heartbeat waits for it.
//! **Invariant:** all writes go through one write-ahead log in the order of the calls, so a crash loses a suffix of what was not
//! acknowledged and never leaves a hole.
//! Deliberately not here: snapshots; they are files of their own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use gantry_model::ServerId;
use openraft::OptionalSend;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::TypeConfigExt as _;
use rocksdb::{ColumnFamily, DB, DBRecoveryMode, DEFAULT_COLUMN_FAMILY_NAME, IteratorMode, WriteBatch};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::OpenError;
use crate::codec::{seal, unseal};
use crate::recent::Recent;
use crate::types::{Entry, LogId, TypeConfig, Vote};

const ENTRIES: &str = "entries";
const FACTS: &str = "facts";

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const SERVER: &[u8] = b"server";

/// Appends that wait for one fsync; more of them make Raft wait, which bounds memory when the disk hangs.
const FLUSH_QUEUE_MAX: usize = 16_384;

/// RocksDB's memory for entries not yet in a table file.
const MEMTABLE_BYTES: usize = 4 * 1024 * 1024;

/// RocksDB's cache of table blocks. Entries are read once, in order, by followers that lag and at start.
const BLOCK_CACHE_BYTES: usize = 2 * 1024 * 1024;

/// Write-ahead logs kept: the small column family never fills its memtable and would hold on to all of them.
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the disk had to do, for metrics and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Entries written since the start.
    pub entries: u64,
    /// Fsyncs since the start; fewer than entries under load.
    pub fsyncs: u64,
}

#[derive(Debug, Default)]
pub struct Counters {
    entries: AtomicU64,
    fsyncs: AtomicU64,
}

impl Counters {
    pub fn stats(&self) -> DiskStats {
        DiskStats {
            entries: self.entries.load(Ordering::Relaxed),
            fsyncs: self.fsyncs.load(Ordering::Relaxed),
        }
    }
}

/// The database; whoever waits for its [`Closing`] learns when its lock is released.
pub struct Database {
    db: DB,
    path: PathBuf,
    /// Dropped after `db`, being declared after it.
    _closed: oneshot::Sender<()>,
}

impl Database {
    pub fn entries(&self) -> &ColumnFamily {
        self.db.cf_handle(ENTRIES).expect("opened with this column family")
    }

    fn facts(&self) -> &ColumnFamily {
        self.db.cf_handle(FACTS).expect("opened with this column family")
    }

    pub fn db(&self) -> &DB {
        &self.db
    }

    pub fn read_vote(&self) -> io::Result<Option<Vote>> {
        self.fact(VOTE)
    }

    fn fact<T: serde::de::DeserializeOwned>(&self, name: &[u8]) -> io::Result<Option<T>> {
        let sealed = self.db.get_cf(self.facts(), name).map_err(io::Error::other)?;
        let what = || format!("'{}' in {}", String::from_utf8_lossy(name), self.path.display());
        sealed
            .map(|sealed| unseal(name, &sealed))
            .transpose()
            .map_err(|error| annotate(error, &what()))
    }

    fn put_fact<T: serde::Serialize>(&self, name: &[u8], value: &T) -> io::Result<()> {
        self.db
            .put_cf(self.facts(), name, seal(name, value)?)
            .map_err(io::Error::other)
    }

    /// An entry as stored under `key`.
    pub fn decode_entry(&self, key: &[u8], sealed: &[u8]) -> io::Result<Entry> {
        let index = index_of(key)?;
        let what = || format!("entry {index} in {}", self.path.display());
        let entry: Entry = unseal(key, sealed).map_err(|error| annotate(error, &what()))?;
        if entry.log_id.index == index {
            Ok(entry)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} has index {}", what(), entry.log_id.index),
            ))
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.db.flush_wal(true).map_err(io::Error::other)
    }
}

/// Handle to the stored log; clones share it.
#[derive(Clone)]
pub struct LogStore {
    database: Arc<Database>,
    flusher: mpsc::SyncSender<IOFlushed<TypeConfig>>,
    counters: Arc<Counters>,
    recent: Arc<Recent>,
}

/// A log store just opened.
pub struct OpenedLog {
    pub store: LogStore,
    pub counters: Arc<Counters>,
    pub closing: Closing,
}

/// The end of an opened log. A process that exits before it is aborted by RocksDB: its threads then work on what the exit
/// handlers of C++ have destroyed.
pub struct Closing {
    /// Ends, with an error, when the database is closed: nothing is ever sent.
    closed: oneshot::Receiver<()>,
    flusher: Option<thread::JoinHandle<()>>,
}

impl Closing {
    /// Waits until the last user of the log let go of it, the database is closed and its flusher is gone. May be cancelled and
    /// called again.
    pub async fn wait(&mut self) {
        if !self.closed.is_terminated() {
            (&mut self.closed).await.unwrap_or_default();
        }
        if let Some(flusher) = self.flusher.take() {
            spawn_blocking(|| join(flusher)).await.unwrap_or_default();
        }
    }

    /// As [`Closing::wait`], for a thread that may block.
    pub fn wait_blocking(self) {
        self.closed.blocking_recv().unwrap_or_default();
        self.flusher.into_iter().for_each(join);
    }
}

/// The thread let go of the database before that was closed, so this is a matter of microseconds.
fn join(flusher: thread::JoinHandle<()>) {
    if flusher.join().is_err() {
        tracing::error!("the thread that flushes the log panicked");
    }
}

impl LogStore {
    /// Opens and checks the whole log. Blocking.
    pub fn open(path: &Path, server: ServerId) -> Result<OpenedLog, OpenError> {
        let options = database_options();
        // Families opened by name alone would get RocksDB's defaults instead of these options.
        let families = [DEFAULT_COLUMN_FAMILY_NAME, ENTRIES, FACTS].map(|name| (name, options.clone()));
        let db = DB::open_cf_with_opts(&options, path, families).map_err(|error| open_error(path, &error))?;
        let (closed_sender, closed) = oneshot::channel();
        let database = Arc::new(Database {
            db,
            path: path.to_path_buf(),
            _closed: closed_sender,
        });
        claim(&database, server)?;
        verify(&database).map_err(|error| OpenError::damaged(path, error.to_string()))?;
        let counters = Arc::new(Counters::default());
        let (requests, flusher) =
            start_flusher(database.clone(), counters.clone()).map_err(|source| OpenError::Folder {
                path: path.to_path_buf(),
                source,
            })?;
        let store = Self {
            database,
            flusher: requests,
            counters: counters.clone(),
            recent: Arc::default(),
        };
        let closing = Closing {
            closed,
            flusher: Some(flusher),
        };
        Ok(OpenedLog {
            store,
            counters,
            closing,
        })
    }

    /// Keeps the folder locked for as long as it is held: for who writes other files of the server.
    pub fn hold(&self) -> Arc<Database> {
        self.database.clone()
    }

    /// Waits until everything written so far is on the disk.
    async fn flushed(&self) -> io::Result<()> {
        let (sender, receiver) = TypeConfig::oneshot::<io::Result<()>>();
        self.request_flush(IOFlushed::signal(sender))?;
        receiver.await.map_err(|_| flusher_gone())?
    }

    fn request_flush(&self, done: IOFlushed<TypeConfig>) -> io::Result<()> {
        self.flusher.send(done).map_err(|_| flusher_gone())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = crate::log_reader::LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let purged: Option<LogId> = self.database.fact(PURGED)?;
        let mut newest = self.database.db.iterator_cf(self.database.entries(), IteratorMode::End);
        let last = match newest.next() {
            None => purged,
            Some(item) => {
                let (key, sealed) = item.map_err(io::Error::other)?;
                Some(self.database.decode_entry(&key, &sealed)?.log_id)
            }
        };
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        crate::log_reader::LogReader::new(self.database.clone(), self.recent.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.database.put_fact(VOTE, vote)?;
        self.flushed().await
    }

    /// Not awaited on disk: losing it only means replaying less at the start, until the leader says what is committed.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        match committed {
            None => Ok(()),
            Some(committed) => self.database.put_fact(COMMITTED, &committed),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.database.fact(COMMITTED)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = WriteBatch::default();
        let mut appended = Vec::new();
        for entry in entries {
            let key = key_of(entry.index());
            let sealed = seal(&key, &entry)?;
            appended.push((entry, sealed.len()));
            batch.put_cf(self.database.entries(), key, sealed);
        }
        self.database.db.write(batch).map_err(io::Error::other)?;
        self.counters
            .entries
            .fetch_add(appended.len() as u64, Ordering::Relaxed);
        self.recent.append(appended);
        self.request_flush(callback)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let first = last.map_or(0, |last| last.index + 1);
        self.recent.truncate(first);
        self.database
            .db
            .delete_range_cf(self.database.entries(), key_of(first), key_of(u64::MAX))
            .map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.recent.purge(upto.index);
        let mut batch = WriteBatch::default();
        batch.put_cf(self.database.facts(), PURGED, seal(PURGED, &upto)?);
        batch.delete_range_cf(self.database.entries(), key_of(0), key_of(upto.index + 1));
        self.database.db.write(batch).map_err(io::Error::other)
    }
}

/// Big endian, so that the order of keys is the order of entries.
pub fn key_of(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes = key
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a key is not an index"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn annotate(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn flusher_gone() -> io::Error {
    io::Error::other("the flusher thread is gone")
}

fn database_options() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    // A record torn by a crash at the end was never acknowledged; damage before that must not be taken for it.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    options.set_keep_log_file_num(4);
    // A small plain cache: the default is 32 MB per column family, shared with nobody.
    let mut tables = rocksdb::BlockBasedOptions::default();
    tables.set_block_cache(&rocksdb::Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    options.set_block_based_table_factory(&tables);
    options
}

fn open_error(path: &Path, error: &rocksdb::Error) -> OpenError {
    let text = error.to_string();
    if text.contains("While lock file") || text.contains("lock hold by current process") {
        return OpenError::Locked {
            path: path.to_path_buf(),
        };
    }
    OpenError::damaged(path, text)
}

/// Writes this server's id into a new log, or checks that it is its own.
fn claim(database: &Database, server: ServerId) -> Result<(), OpenError> {
    let failed = |error: io::Error| OpenError::damaged(&database.path, error.to_string());
    match database.fact::<ServerId>(SERVER).map_err(failed)? {
        Some(found) if found != server => Err(OpenError::OtherServer {
            path: database.path.clone(),
            found,
            wanted: server,
        }),
        Some(_) => Ok(()),
        None => database
            .put_fact(SERVER, &server)
            .and_then(|()| database.flush())
            .map_err(failed),
    }
}

/// Reads every entry: damage is better found now, with its name, than when a follower needs it.
fn verify(database: &Database) -> io::Result<()> {
    let purged: Option<LogId> = database.fact(PURGED)?;
    let mut expected = purged.map(|purged| purged.index + 1);
    for item in database.db.iterator_cf(database.entries(), IteratorMode::Start) {
        let (key, sealed) = item.map_err(io::Error::other)?;
        let index = database.decode_entry(&key, &sealed)?.log_id.index;
        if expected.is_some_and(|expected| expected != index) {
            let message = format!("entries {}..{index} are missing", expected.unwrap_or_default());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        expected = Some(index + 1);
    }
    Ok(())
}

type Flusher = (mpsc::SyncSender<IOFlushed<TypeConfig>>, thread::JoinHandle<()>);

fn start_flusher(database: Arc<Database>, counters: Arc<Counters>) -> io::Result<Flusher> {
    let (sender, receiver) = mpsc::sync_channel(FLUSH_QUEUE_MAX);
    let flusher = thread::Builder::new()
        .name("raft-flusher".to_string())
        .spawn(move || flush_until_closed(&database, &counters, &receiver))?;
    Ok((sender, flusher))
}

fn flush_until_closed(database: &Database, counters: &Counters, waiting: &mpsc::Receiver<IOFlushed<TypeConfig>>) {
    while let Ok(first) = waiting.recv() {
        let mut covered = vec![first];
        covered.extend(waiting.try_iter());
        let failure = database.flush().err().map(|error| error.to_string());
        counters.fsyncs.fetch_add(1, Ordering::Relaxed);
        for done in covered {
            done.io_completed(failure.clone().map_or(Ok(()), |failure| Err(io::Error::other(failure))));
        }
    }
}
