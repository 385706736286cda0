//! The build cache: which layer a step made, by the key of what went into it.
//!
//! One small document per record (`records/KEY.json`), whose change time is when it was last used. The layers themselves are
//! the store's; what is recorded here is a root set of its collector ([`ROOTS`]).
//! **Invariant:** a record counts only while its layer is in the store, so losing either costs a step, never a wrong image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_dockerfile::Key;
use gantry_env::Env;
use gantry_image::{Node, Store};
use gantry_model::{Digest, DurationMs, Timestamp};
use serde::{Deserialize, Serialize};

use crate::add::download::Known;
use crate::contents::digest_of;
use crate::error::{BuildError, Result};

/// Name of the executor's root set in the store.
pub const ROOTS: &str = "build";

/// Records whose use was noted so recently are not written again.
const TOUCH_EVERY: DurationMs = DurationMs::secs(60);

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// Chain id of the tree afterwards.
    pub chain: Digest,
    /// Bytes of the layer's tar.
    pub size: u64,
    /// The instruction, for people.
    pub description: String,
    /// When the layer was made.
    pub created_at: Timestamp,
    /// When it was last used; from the file's time.
    #[serde(skip)]
    pub used_at: Timestamp,
}

/// What a selection of files of a tree has come to: kept so that large trees are not read at every build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DigestRecord {
    digest: Digest,
}

/// What pruning did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Descriptions of the records that are gone.
    pub removed: Vec<String>,
    /// Bytes, as far as they are known before the store collects.
    pub freed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    records: Mutex<BTreeMap<Key, CacheRecord>>,
    digests: Mutex<BTreeMap<Key, Digest>>,
}

impl Cache {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let cache = Self {
            dir: dir.to_path_buf(),
            records: Mutex::default(),
            digests: Mutex::default(),
        };
        for (key, path) in documents(&cache.folder("records"))? {
            // A torn record is one that was never written.
            if let Ok(mut record) = read::<CacheRecord>(&path) {
                record.used_at = changed_at(&path);
                cache.records().insert(key, record);
            }
        }
        for (key, path) in documents(&cache.folder("digests"))? {
            if let Ok(record) = read::<DigestRecord>(&path) {
                cache.digests().insert(key, record.digest);
            }
        }
        // Torn ones among them are told from whole ones when they are read.
        documents(&cache.folder("downloads"))?;
        Ok(cache)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<Key, CacheRecord>> {
        // Every change is one insertion or removal, so a panicking holder leaves it whole.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn digests(&self) -> MutexGuard<'_, BTreeMap<Key, Digest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer made under this key; whether the store still has it is for whoever asks to see, once a lease keeps it.
    pub(crate) fn find(&self, key: Key, env: &dyn Env) -> Option<CacheRecord> {
        let mut records = self.records();
        let record = records.get_mut(&key)?;
        let now = env.now();
        if now.since(record.used_at) > TOUCH_EVERY {
            record.used_at = now;
            touch(&self.path("records", key));
        }
        Some(record.clone())
    }

    /// The store has the layer no more.
    pub(crate) fn forget(&self, key: Key) {
        self.records().remove(&key);
        // It is looked at again at the next start, and counts as little then.
        let _ = fs::remove_file(self.path("records", key));
    }

    pub(crate) fn insert(&self, key: Key, record: CacheRecord) -> Result<()> {
        write(&self.path("records", key), &record)?;
        self.records().insert(key, record);
        Ok(())
    }

    pub(crate) fn digest(&self, key: Key) -> Option<Digest> {
        self.digests().get(&key).copied()
    }

    pub(crate) fn insert_digest(&self, key: Key, digest: Digest) -> Result<()> {
        write(&self.path("digests", key), &DigestRecord { digest })?;
        self.digests().insert(key, digest);
        Ok(())
    }

    /// What a server said about an address.
    pub(crate) fn download(&self, url: &str) -> Option<Known> {
        read(&self.path("downloads", Key(digest_of(url.as_bytes()).ok()?))).ok()
    }

    pub(crate) fn insert_download(&self, url: &str, known: &Known) -> Result<()> {
        let key = digest_of(url.as_bytes()).map_err(BuildError::io("write", url))?;
        write(&self.path("downloads", Key(key)), known)
    }

    fn path(&self, kind: &str, key: Key) -> PathBuf {
        self.folder(kind).join(format!("{}.json", key.0.hex()))
    }

    /// All records, for people.
    #[must_use]
    pub fn list(&self) -> Vec<CacheRecord> {
        self.records().values().cloned().collect()
    }

    /// Tells the store's collector what the cache holds.
    pub(crate) fn publish_roots(&self, store: &Store) -> Result<()> {
        let roots: BTreeSet<Node> = self
            .records()
            .values()
            .map(|record| Node::Layer(record.chain))
            .collect();
        Ok(store.set_roots(ROOTS, roots)?)
    }

    /// Forgets records that were not used for so long; all of them when that is nothing.
    pub(crate) fn prune(&self, unused_for: DurationMs, env: &dyn Env, dry_run: bool) -> Result<Pruned> {
        let now = env.now();
        let mut pruned = Pruned::default();
        let mut records = self.records();
        let is_old = |record: &CacheRecord| unused_for.0 == 0 || now.since(record.used_at) >= unused_for;
        let old: Vec<Key> = records
            .iter()
            .filter(|(_, record)| is_old(record))
            .map(|(key, _)| *key)
            .collect();
        for key in old {
            let Some(record) = records.get(&key) else { continue };
            pruned.freed += record.size;
            pruned.removed.push(record.description.clone());
            if !dry_run {
                remove(&self.path("records", key))?;
                records.remove(&key);
            }
        }
        if unused_for.0 == 0 && !dry_run {
            let mut digests = self.digests();
            for key in digests.keys() {
                remove(&self.path("digests", *key))?;
            }
            digests.clear();
            for (_, path) in documents(&self.folder("downloads"))? {
                remove(&path)?;
            }
        }
        Ok(pruned)
    }
}

fn documents(dir: &Path) -> Result<Vec<(Key, PathBuf)>> {
    fs::create_dir_all(dir).map_err(BuildError::io("make folder", dir))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(BuildError::io("list", dir))? {
        let path = entry.map_err(BuildError::io("list", dir))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match Digest::from_hex(stem) {
            Some(digest) if path.extension().is_some_and(|extension| extension == "json") => {
                found.push((Key(digest), path));
            }
            // Cut off by a crash.
            _ => remove(&path)?,
        }
    }
    Ok(found)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// By renaming a complete document; not synced, since losing it costs a step only.
fn write(path: &Path, record: &impl Serialize) -> Result<()> {
    let new = path.with_extension("new");
    let text = serde_json::to_vec(record).map_err(io::Error::from);
    text.and_then(|text| fs::write(&new, text))
        .and_then(|()| fs::rename(&new, path))
        .map_err(BuildError::io("write", path))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BuildError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn changed_at(path: &Path) -> Timestamp {
    use std::os::unix::fs::MetadataExt;
    let seconds = fs::metadata(path).map_or(0, |found| found.mtime());
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

fn touch(path: &Path) {
    // The time of use only steers what is removed first.
    if let Ok(file) = File::options().write(true).open(path) {
        let now = nix::sys::time::TimeSpec::UTIME_NOW;
        let _ = nix::sys::stat::futimens(&file, &now, &now);
    }
}
