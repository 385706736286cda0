//! What must stay although no image names it: leases of operations in progress, and root sets of those who keep records of
//! their own (build cache, registry).
//!
//! **Invariant:** whoever writes takes a lease on a thing before looking whether it is there, and the collector holds the same
//! lock while it removes; so nothing goes between the look and the use.
//! A lease is on disk (`leases/ID.json`) until it is dropped or expires, so that what a killed operation wrote is there when it
//! is tried again. Losing that file costs a transfer, never an image, so it is not synced; root sets (`roots/NAME.json`) are.
//! One that ends with the process anyway ([`crate::Store::hold`]) is in memory alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_env::Env;
use gantry_model::{Digest, DurationMs, Timestamp};
use serde::{Deserialize, Serialize};

use crate::blobs::make_dir;
use crate::document::{invalid, json, to_json};
use crate::error::{ImageError, Result};

const LEASES: &str = "leases";
const ROOTS: &str = "roots";

/// Something of the store that can be kept, with everything it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// A manifest or an index, by digest.
    Manifest(Digest),
    /// Any content, by digest.
    Blob(Digest),
    /// An unpacked layer, by chain id, with those below it.
    Layer(Digest),
}

/// Names a lease, also after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// A lease as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// From then on it holds nothing.
    pub expires_at: Timestamp,
    /// What it keeps.
    pub nodes: BTreeSet<Node>,
}

/// Keeps what an operation relies on and writes, until it is dropped or expires.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    place: Place,
    leases: Arc<Leases>,
}

/// Where a lease is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Disk,
    Memory,
}

impl Lease {
    /// Its name, for [`crate::Store::adopt_lease`].
    #[must_use]
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// Keeps one thing more, whether it is there already or not.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep(&self, node: Node) -> Result<()> {
        self.leases.change(self, |record| record.nodes.insert(node))
    }

    /// Lets it last this long from now on.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn renew(&self, ttl: DurationMs) -> Result<()> {
        let expires_at = self.leases.env.now().after(ttl);
        self.leases.change(self, |record| {
            record.expires_at = expires_at;
            true
        })
    }

    /// Lets it stay until it expires, for an operation that another process goes on with.
    #[must_use]
    pub fn detach(self) -> LeaseId {
        let id = self.id;
        let leases = Arc::clone(&self.leases);
        let mut held = leases.lock();
        held.detached.insert(id);
        if let (Place::Memory, Some(record)) = (self.place, held.leases.get(&id)) {
            // Without its file it ends with this process, which costs whoever goes on a transfer.
            let _ = leases.write(id, record);
        }
        drop(held);
        id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.release(self.id);
    }
}

/// All leases and root sets of a store.
pub(crate) struct Leases {
    dir: PathBuf,
    env: Arc<dyn Env>,
    held: Mutex<Held>,
}

impl fmt::Debug for Leases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Leases")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

/// What is kept; while it is locked, no lease begins to keep anything.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) leases: BTreeMap<LeaseId, LeaseRecord>,
    pub(crate) roots: BTreeMap<String, BTreeSet<Node>>,
    detached: BTreeSet<LeaseId>,
}

impl Leases {
    /// Reads what an earlier process left; expired leases are dropped.
    pub(crate) fn load(dir: &Path, env: Arc<dyn Env>) -> Result<Self> {
        make_dir(&dir.join(LEASES))?;
        make_dir(&dir.join(ROOTS))?;
        let leases = Self {
            dir: dir.to_path_buf(),
            env,
            held: Mutex::default(),
        };
        let mut held = Held::default();
        for (name, path) in documents(&dir.join(LEASES))? {
            let record = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match (u64::from_str_radix(&name, 16), record) {
                (Ok(id), Some(record)) => drop(held.leases.insert(LeaseId(id), record)),
                // Cut off by a crash: it is as if it had never been taken.
                _ => fs::remove_file(&path).map_err(ImageError::io("remove", &path))?,
            }
        }
        for (name, path) in documents(&dir.join(ROOTS))? {
            let bytes = fs::read(&path).map_err(ImageError::io("read", &path))?;
            held.roots.insert(name, json(&path.display().to_string(), &bytes)?);
        }
        *leases.lock() = held;
        leases.expire();
        Ok(leases)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        // Every change is one insertion or removal, so a panicking holder leaves it whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(self: &Arc<Self>, ttl: DurationMs) -> Result<Lease> {
        let mut held = self.lock();
        let (id, record) = self.fresh(&held, ttl);
        self.write(id, &record)?;
        held.leases.insert(id, record);
        Ok(self.taken(id, Place::Disk))
    }

    /// A lease that a crash ends.
    pub(crate) fn begin_in_memory(self: &Arc<Self>, ttl: DurationMs) -> Lease {
        let mut held = self.lock();
        let (id, record) = self.fresh(&held, ttl);
        held.leases.insert(id, record);
        self.taken(id, Place::Memory)
    }

    fn fresh(&self, held: &Held, ttl: DurationMs) -> (LeaseId, LeaseRecord) {
        let mut id = LeaseId(self.env.random_u64());
        while held.leases.contains_key(&id) {
            id = LeaseId(self.env.random_u64());
        }
        let record = LeaseRecord {
            expires_at: self.env.now().after(ttl),
            nodes: BTreeSet::new(),
        };
        (id, record)
    }

    fn taken(self: &Arc<Self>, id: LeaseId, place: Place) -> Lease {
        Lease {
            id,
            place,
            leases: Arc::clone(self),
        }
    }

    /// Takes over a lease that nobody in this process holds.
    pub(crate) fn adopt(self: &Arc<Self>, id: LeaseId) -> Option<Lease> {
        self.expire();
        let mut held = self.lock();
        held.detached.remove(&id);
        held.leases.contains_key(&id).then(|| self.taken(id, Place::Disk))
    }

    /// Drops leases whose time is over.
    pub(crate) fn expire(&self) {
        let now = self.env.now();
        let mut held = self.lock();
        let over: Vec<_> = held
            .leases
            .iter()
            .filter(|(_, record)| record.expires_at <= now)
            .collect();
        let over: Vec<_> = over.into_iter().map(|(id, _)| *id).collect();
        for id in over {
            held.leases.remove(&id);
            held.detached.remove(&id);
            self.forget(id);
        }
    }

    /// Replaces the root set of `owner`.
    pub(crate) fn set_roots(&self, owner: &str, roots: BTreeSet<Node>) -> Result<()> {
        if owner.is_empty() || !owner.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            return Err(invalid(
                format!("root set '{owner}'"),
                "its name must be of a-z and '-'",
            ));
        }
        let mut held = self.lock();
        if held.roots.get(owner) == Some(&roots) {
            return Ok(());
        }
        let path = self.dir.join(ROOTS).join(format!("{owner}.json"));
        replace(&path, &to_json(&roots), Durability::Synced)?;
        held.roots.insert(owner.to_string(), roots);
        Ok(())
    }

    fn change(&self, lease: &Lease, change: impl FnOnce(&mut LeaseRecord) -> bool) -> Result<()> {
        let mut held = self.lock();
        let Some(record) = held.leases.get_mut(&lease.id) else {
            return Err(ImageError::NotFound {
                what: "lease (it has expired)",
                name: lease.id.to_string(),
            });
        };
        if change(record) && lease.place == Place::Disk {
            self.write(lease.id, record)?;
        }
        Ok(())
    }

    fn release(&self, id: LeaseId) {
        let mut held = self.lock();
        if !held.detached.contains(&id) && held.leases.remove(&id).is_some() {
            self.forget(id);
        }
    }

    fn forget(&self, id: LeaseId) {
        // A file that stays is read at the next start and expires then.
        let _ = fs::remove_file(self.path(id));
    }

    fn write(&self, id: LeaseId, record: &LeaseRecord) -> Result<()> {
        replace(&self.path(id), &to_json(record), Durability::Hoped)
    }

    fn path(&self, id: LeaseId) -> PathBuf {
        self.dir.join(LEASES).join(format!("{id}.json"))
    }
}

/// Whether a file must be on disk when the call returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Synced,
    Hoped,
}

/// Replaces a file by renaming a complete one over it.
pub(crate) fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        fs::rename(&new, path)?;
        match (durability, path.parent()) {
            (Durability::Synced, Some(folder)) => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|error| {
        // Best effort: the next attempt overwrites it.
        let _ = fs::remove_file(&new);
        ImageError::io("write", path)(error)
    })
}

/// Names without `.json`, and paths, of the documents in a folder.
fn documents(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(ImageError::io("list", dir))? {
        let path = entry.map_err(ImageError::io("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(name) = name.strip_suffix(".json") {
            found.push((name.to_string(), path));
        }
    }
    Ok(found)
}
