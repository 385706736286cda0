//! Snapshots as files: written under a temporary name, synced, renamed, checked as a whole when read.
//!
//! ```text
//! magic (8) | length of head (4, little endian) | head: MessagePack | state: MessagePack | SHA-256 of all before it (32)
//! ```
//! **Invariant:** a file named `*.snapshot` was complete and synced before it got that name; there is at most one after each
//! write, the newest.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_state::State;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::OpenError;
use crate::codec::decode;
use crate::dir::sync_dir;
use crate::types::{SnapshotMeta, TypeConfig};

const MAGIC: &[u8; 8] = b"GANTRYS1";
const SUM_BYTES: usize = 32;
const EXTENSION: &str = "snapshot";
const TEMPORARY: &str = "part";

/// Longest head: a membership of thousands of servers fits.
const HEAD_BYTES_MAX: u32 = 1024 * 1024;

/// Bytes read and hashed at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// A snapshot as openraft handles it.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// What a snapshot holds besides the state.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    meta: SnapshotMeta,
}

/// A complete snapshot on disk, kept readable by its open file even when a newer one replaces it.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    pub file: Arc<File>,
    pub bytes: u64,
    path: Arc<FilePath>,
}

/// A path, and for a temporary file that nobody installed its removal.
#[derive(Debug)]
struct FilePath {
    path: PathBuf,
    temporary: bool,
}

impl Drop for FilePath {
    fn drop(&mut self) {
        if self.temporary
            && self.path.exists()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "removing an unused snapshot");
        }
    }
}

/// The folder of snapshots.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
    temporary_count: AtomicU64,
}

/// What a server starts from.
#[derive(Debug, Default)]
pub struct Loaded {
    pub meta: SnapshotMeta,
    pub state: State,
}

impl Snapshots {
    /// Opens the folder, clears what a crash left half written, and reads the newest snapshot. Blocking.
    pub fn open(dir: &Path) -> Result<(Self, Loaded), OpenError> {
        let failed = |source| OpenError::Folder {
            path: dir.to_path_buf(),
            source,
        };
        let snapshots = Self {
            dir: dir.to_path_buf(),
            current: Mutex::new(None),
            temporary_count: AtomicU64::new(0),
        };
        remove_all(dir, |path| has_extension(path, TEMPORARY)).map_err(failed)?;
        let Some(newest) = newest(dir).map_err(failed)? else {
            return Ok((snapshots, Loaded::default()));
        };
        let loaded = read(&newest).map_err(|error| OpenError::damaged(&newest, error.to_string()))?;
        let file = SnapshotFile::open(newest, false).map_err(failed)?;
        *snapshots.lock() = Some((loaded.meta.clone(), file));
        Ok((snapshots, loaded))
    }

    pub fn current(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        self.lock().clone()
    }

    /// Writes a snapshot of `state` and makes it the current one. Blocking.
    pub fn write(&self, meta: &SnapshotMeta, state: &State) -> io::Result<SnapshotFile> {
        let path = self.temporary_path();
        write(&path, meta, state)?;
        self.install(meta, &SnapshotFile::open(path, true)?)
    }

    /// A new file to receive a snapshot into.
    pub fn temporary(&self) -> io::Result<SnapshotFile> {
        let path = self.temporary_path();
        File::create(&path)?;
        SnapshotFile::open(path, true)
    }

    /// Makes a complete, synced file the current snapshot and removes older ones, unless a newer one is current. Blocking.
    pub fn install(&self, meta: &SnapshotMeta, file: &SnapshotFile) -> io::Result<SnapshotFile> {
        let mut current = self.lock();
        if let Some((held, held_file)) = current.as_ref()
            && held.last_log_id >= meta.last_log_id
        {
            return Ok(held_file.clone());
        }
        let name = meta
            .last_log_id
            .map_or((0, 0), |last| (last.index, last.committed_leader_id().term));
        let path = self.dir.join(format!("{:020}-{}.{EXTENSION}", name.0, name.1));
        fs::rename(&file.path.path, &path)?;
        sync_dir(&self.dir)?;
        remove_all(&self.dir, |other| has_extension(other, EXTENSION) && other != path)?;
        let installed = SnapshotFile::open(path, false)?;
        *current = Some((meta.clone(), installed.clone()));
        Ok(installed)
    }

    fn temporary_path(&self) -> PathBuf {
        let number = self.temporary_count.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{number}.{TEMPORARY}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(SnapshotMeta, SnapshotFile)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotFile {
    fn open(path: PathBuf, temporary: bool) -> io::Result<Self> {
        let file = File::options().read(true).write(temporary).open(&path)?;
        Ok(Self {
            bytes: file.metadata()?.len(),
            file: Arc::new(file),
            path: Arc::new(FilePath { path, temporary }),
        })
    }

    /// Checks that all of it is as it was written. Blocking.
    pub fn check(&self) -> io::Result<()> {
        check(&File::open(&self.path.path)?).map(|_| ())
    }

    /// Reads and checks it. Blocking.
    pub fn load(&self) -> io::Result<Loaded> {
        read(&self.path.path)
            .map_err(|error| io::Error::new(error.kind(), format!("snapshot {}: {error}", self.path.path.display())))
    }
}

fn write(path: &Path, meta: &SnapshotMeta, state: &State) -> io::Result<()> {
    let head = crate::codec::encode(&Head { meta: meta.clone() })?;
    let length = u32::try_from(head.len()).map_err(io::Error::other)?;
    let mut writer = Hashing {
        inner: BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?),
        hasher: Sha256::new(),
    };
    writer.write_all(MAGIC)?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(&head)?;
    rmp_serde::encode::write_named(&mut writer, state).map_err(io::Error::other)?;
    let Hashing { mut inner, hasher } = writer;
    inner.write_all(&hasher.finalize())?;
    let file = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Loaded> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let content = check(&File::open(path)?)?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?).take(content);
    let (mut magic, mut length) = ([0; MAGIC.len()], [0; 4]);
    reader.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(damaged("it is not a snapshot of this version"));
    }
    reader.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > HEAD_BYTES_MAX {
        return Err(damaged("its head is too long"));
    }
    let mut head = vec![0; length as usize];
    reader.read_exact(&mut head)?;
    let head: Head = decode(&head)?;
    let state = rmp_serde::from_read(&mut reader).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Loaded { meta: head.meta, state })
}

/// Checks the sum and returns the number of bytes before it.
fn check(file: &File) -> io::Result<u64> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let bytes = file.metadata()?.len();
    let content = bytes
        .checked_sub(SUM_BYTES as u64)
        .ok_or_else(|| damaged("it is too short"))?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut hasher = Sha256::new();
    io::copy(&mut Read::by_ref(&mut reader).take(content), &mut hasher)?;
    let mut sum = [0; SUM_BYTES];
    reader.read_exact(&mut sum)?;
    if hasher.finalize().as_slice() == sum {
        Ok(content)
    } else {
        Err(damaged("its checksum does not match"))
    }
}

fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut found = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if has_extension(&path, EXTENSION) {
            found = found.max(Some(path));
        }
    }
    Ok(found)
}

fn remove_all(dir: &Path, unwanted: impl Fn(&Path) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if unwanted(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
