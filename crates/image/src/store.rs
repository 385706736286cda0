//! The image store of one node.
//!
//! ```text
//! DIR/lock                 held while a process has the store open
//! DIR/tags.json            which images there are and what they are called
//! DIR/blobs/sha256/HEX     manifests, configurations and layers, as the OCI image layout has them
//! DIR/layers/CHAIN-ID/     unpacked layers, lower layers for overlayfs
//! DIR/records/             what is known of each of them
//! DIR/leases/, DIR/roots/  what must stay although no image of the catalog needs it
//! DIR/partial/HEX          transfers to here that may be resumed
//! DIR/uploads/ID           transfers to here whose digest is not known yet
//! DIR/tmp/                 of operations in progress, cleared at open
//! ```
//!
//! **Invariant:** an image of the catalog has all its blobs. Blobs come first and the catalog last when an image is added, and
//! the other way round when it is removed, so a crash leaves unused blobs at worst, which [`Store::prune`] removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_env::{Env, System};
use gantry_model::{ByteSize, Digest, DurationMs, ImageReference, Timestamp};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, NewImage};
use crate::blobs::{Blobs, make_dir};
use crate::catalog::Catalog;
use crate::config::ImageConfig;
use crate::document::{Descriptor, Document, Platform};
use crate::error::{ImageError, Result};
use crate::keyed_lock::KeyedLock;
use crate::lease::{Lease, LeaseId, Leases, Node};
use crate::uploads::Uploads;

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Digest of its configuration, what Docker calls the image id.
    pub config_digest: Digest,
    /// What it is called, normalised; may be empty.
    pub references: Vec<ImageReference>,
    /// Sum of its layers as stored.
    pub size: ByteSize,
    /// `linux/amd64`.
    pub platform: String,
    /// When it was made, if it says so.
    pub created_at: Option<Timestamp>,
}

/// Names an image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By what it is called, or by a reference with a digest.
    Reference(ImageReference),
    /// By the digest of its manifest (or of the index it came from).
    Digest(Digest),
}

impl From<ImageReference> for Selector {
    fn from(reference: ImageReference) -> Self {
        Self::Reference(reference)
    }
}

impl From<Digest> for Selector {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reference(reference) => formatter.write_str(&reference.familiar()),
            Self::Digest(digest) => write!(formatter, "{digest}"),
        }
    }
}

/// The catalog and what must not be removed at the moment.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) catalog: Catalog,
    pins: BTreeMap<Digest, usize>,
}

impl State {
    pub(crate) fn pin(&mut self, digest: Digest) {
        *self.pins.entry(digest).or_default() += 1;
    }

    pub(crate) fn unpin(&mut self, digest: Digest) {
        if let Some(count) = self.pins.get_mut(&digest) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(&digest);
            }
        }
    }

    pub(crate) fn is_pinned(&self, digest: Digest) -> bool {
        self.pins.contains_key(&digest)
    }

    /// What operations of this process work on, whatever it is.
    pub(crate) fn pinned_nodes(&self) -> impl Iterator<Item = Node> {
        let kinds = |digest: &Digest| [Node::Manifest(*digest), Node::Blob(*digest), Node::Layer(*digest)];
        self.pins.keys().flat_map(kinds)
    }
}

/// The image store of one node; shared by reference between threads. Every method blocks on the disk.
pub struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) blobs: Blobs,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) leases: Arc<Leases>,
    /// This life of the machine, which ends with a loss of power.
    pub(crate) boot_id: String,
    state: Mutex<State>,
    /// Blobs being received.
    pub(crate) busy: KeyedLock,
    /// Layers being unpacked, made or compressed, by chain id. Taken after `busy` where both are: a layer that is not compressed
    /// has the same digest for its blob and as the lowest of a chain.
    pub(crate) busy_layers: KeyedLock,
    pub(crate) uploads: Uploads,
    _lock: File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Store")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the folder `dir`, which is made if needed, and clears what a crash left behind.
    ///
    /// # Errors
    /// When another process has it open, when a later version wrote it, or when the disk refuses.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, Arc::new(System))
    }

    /// As [`Store::open`], with a clock of the caller's for leases and ages.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(dir: impl AsRef<Path>, env: Arc<dyn Env>) -> Result<Self> {
        let dir = dir.as_ref();
        make_dir(dir)?;
        let lock = lock(dir)?;
        // Before anything is cleared: a newer version may keep other things there.
        let catalog = Catalog::load(dir)?;
        let store = Self {
            dir: dir.to_path_buf(),
            blobs: Blobs::open(dir)?,
            leases: Arc::new(Leases::load(dir, Arc::clone(&env))?),
            env,
            boot_id: boot_id(),
            state: Mutex::new(State {
                catalog,
                pins: BTreeMap::new(),
            }),
            busy: KeyedLock::default(),
            busy_layers: KeyedLock::default(),
            uploads: Uploads::default(),
            _lock: lock,
        };
        store.drop_torn_layers()?;
        Ok(store)
    }

    /// Takes a lease: what is written under it stays until it is dropped, or so long after a crash.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn lease(&self, ttl: DurationMs) -> Result<Lease> {
        self.leases.begin(ttl)
    }

    /// As [`Store::lease`], but it ends with this process at the latest, and costs nothing on disk: for operations that nobody
    /// goes on with after a crash.
    #[must_use]
    pub fn hold(&self, ttl: DurationMs) -> Lease {
        self.leases.begin_in_memory(ttl)
    }

    /// Takes over a lease of an earlier process, or a detached one; none when it has expired.
    #[must_use]
    pub fn adopt_lease(&self, id: LeaseId) -> Option<Lease> {
        self.leases.adopt(id)
    }

    /// Replaces what `owner` (a name of a-z and `-`, such as `build`) needs for its own records, on disk before this returns.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn set_roots(&self, owner: &str, roots: BTreeSet<Node>) -> Result<()> {
        self.leases.set_roots(owner, roots)
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All images, in order of digest.
    #[must_use]
    pub fn list(&self) -> Vec<ImageInfo> {
        let digests: Vec<_> = {
            let state = self.state();
            let images = state
                .catalog
                .images
                .iter()
                .filter(|(_, entry)| entry.artifact.is_none());
            images.map(|(digest, _)| *digest).collect()
        };
        // One removed meanwhile is left out.
        digests
            .into_iter()
            .filter_map(|digest| self.info(digest).ok())
            .collect()
    }

    /// The digest of the manifest that a reference means here; of an index the one that suits this machine.
    #[must_use]
    pub fn resolve(&self, reference: &ImageReference) -> Option<Digest> {
        self.state().catalog.resolve(reference)
    }

    /// The digest that a reference means as it is: of an index, or of a manifest. It is what is pushed.
    #[must_use]
    pub fn target(&self, reference: &ImageReference) -> Option<Digest> {
        self.state().catalog.target(reference)
    }

    /// The manifest for a platform below an index, or the manifest itself if it is for that platform.
    #[must_use]
    pub fn for_platform(&self, target: Digest, platform: &Platform) -> Option<Digest> {
        self.state().catalog.image_for(target, Some(platform))
    }

    /// The manifests below an index that are here, or the manifest itself.
    #[must_use]
    pub fn images_below(&self, target: Digest) -> Vec<Digest> {
        self.state().catalog.images_below(target)
    }

    /// Understands what a user wrote: a reference, a digest, or the beginning of a digest of a manifest or configuration.
    ///
    /// # Errors
    /// When there is no such image or the beginning fits several.
    pub fn find(&self, text: &str) -> Result<Selector> {
        let not_found = || ImageError::NotFound {
            what: "image",
            name: text.to_string(),
        };
        if let Ok(reference) = text.parse::<ImageReference>()
            && self.resolve(&reference).is_some()
        {
            return Ok(Selector::Reference(reference));
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let state = self.state();
        let fits = |digest: &Digest| digest.hex().starts_with(prefix);
        let images = state.catalog.images.iter();
        let found: Vec<_> = images
            .filter(|(digest, entry)| fits(digest) || fits(&entry.config) || entry.aliases.iter().any(fits))
            .map(|(digest, _)| *digest)
            .chain(state.catalog.indexes.keys().copied().filter(fits))
            .collect();
        match found.as_slice() {
            [] => Err(not_found()),
            [digest] => Ok(Selector::Digest(*digest)),
            several => Err(ImageError::Ambiguous {
                prefix: text.to_string(),
                count: several.len(),
            }),
        }
    }

    /// What is known of an image.
    ///
    /// # Errors
    /// When it is not here.
    pub fn info(&self, digest: Digest) -> Result<ImageInfo> {
        let state = self.state();
        let (digest, entry) = lookup(&state.catalog, digest)?;
        Ok(ImageInfo {
            digest,
            config_digest: entry.config,
            references: state.catalog.references(digest),
            size: entry.size,
            platform: entry.platform.clone(),
            created_at: entry.created_at,
        })
    }

    /// What the image says about its containers.
    ///
    /// # Errors
    /// When it is not here or damaged.
    pub fn config(&self, digest: Digest) -> Result<ImageConfig> {
        let config = lookup(&self.state().catalog, digest)?.1.config;
        ImageConfig::parse(config, &self.blobs.read_document(config)?)
    }

    /// Gives an image one more name; takes it from the image that had it.
    ///
    /// # Errors
    /// When the image is not here.
    pub fn tag(&self, reference: &ImageReference, digest: Digest) -> Result<()> {
        self.update(|catalog| {
            let target = select(catalog, &Selector::Digest(digest))?;
            catalog.tags.insert(reference.clone().without_digest(), target);
            Ok(())
        })
    }

    /// What of an image has yet to come: its manifest as long as that is not here, then the blobs it names; of an index, the
    /// manifests it lists.
    ///
    /// # Errors
    /// When its manifest is no manifest.
    pub fn missing(&self, digest: Digest) -> Result<Vec<Descriptor>> {
        if self.blobs.size(digest).is_none() {
            return Ok(vec![Descriptor::of_manifest(digest)]);
        }
        let named: Vec<Descriptor> = match Document::parse(digest, &self.blobs.read_document(digest)?)? {
            Document::Manifest(manifest) => manifest.blobs().cloned().collect(),
            Document::Index(index) => index.manifests,
        };
        let mut missing: Vec<Descriptor> = Vec::new();
        for blob in named {
            let is_listed = missing.iter().any(|listed| listed.digest == blob.digest);
            if !is_listed && self.blobs.size(blob.digest).is_none() {
                missing.push(blob);
            }
        }
        Ok(missing)
    }

    /// Bytes of the blob that an interrupted transfer left here; where [`Store::resume_blob`] continues.
    #[must_use]
    pub fn partial_len(&self, digest: Digest) -> u64 {
        self.blobs.partial_len(digest)
    }

    /// Receives a whole blob. It becomes visible once its size and digest are right.
    ///
    /// # Errors
    /// When the source fails (what came is kept for [`Store::resume_blob`]), or the content is wrong.
    pub fn put_blob(&self, blob: &Descriptor, source: impl Read) -> Result<()> {
        self.resume_blob(blob, 0, source)
    }

    /// Receives a blob from byte `offset` on, which must be [`Store::partial_len`], or 0 to start anew.
    ///
    /// # Errors
    /// As [`Store::put_blob`], and when `offset` is another one.
    pub fn resume_blob(&self, blob: &Descriptor, offset: u64, source: impl Read) -> Result<()> {
        let _guard = self.busy.lock(blob.digest);
        if self.blobs.size(blob.digest).is_some() {
            return Ok(());
        }
        self.blobs.receive(blob, offset, source, |_| {})
    }

    /// A blob as it lies on disk, unverified: for readers that check its digest themselves. [`Store::read_blob`] is for those who
    /// send it on.
    ///
    /// # Errors
    /// When it is not here.
    pub fn open_blob(&self, digest: Digest) -> Result<File> {
        self.blobs.open_blob(digest)
    }

    /// Enters an image whose blobs have all come, or an index with those of its images whose blobs have. It has no name yet:
    /// [`Store::tag`].
    ///
    /// # Errors
    /// When blobs are missing or its documents contradict each other.
    pub fn commit_image(&self, digest: Digest) -> Result<ImageInfo> {
        Batch::new(self).commit(vec![NewImage::named(digest, Vec::new())])?;
        self.info(digest)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panicking holder leaves the state whole: it is replaced, never changed in place.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the catalog, on disk first; an error leaves it as it was.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Catalog) -> Result<()>) -> Result<()> {
        self.update_state(|state| {
            let mut catalog = state.catalog.clone();
            change(&mut catalog)?;
            Ok(catalog)
        })
    }

    pub(crate) fn update_state(&self, change: impl FnOnce(&State) -> Result<Catalog>) -> Result<()> {
        let mut state = self.state();
        let mut catalog = change(&state)?;
        if catalog != state.catalog {
            catalog.save(&self.dir)?;
            state.catalog = catalog;
        }
        Ok(())
    }

    /// Layers that were not on disk for good when the power went.
    fn drop_torn_layers(&self) -> Result<()> {
        for (chain, boot_id) in self.blobs.unsynced()? {
            if boot_id == self.boot_id {
                continue;
            }
            tracing::info!(%chain, "a layer was not yet on disk when the machine went down; dropped");
            if let Some(tmp) = self.set_layer_aside(chain)? {
                fs::remove_dir_all(&tmp).map_err(ImageError::io("remove", &tmp))?;
            }
        }
        Ok(())
    }

    /// Waits until every unpacked layer is on disk for good. Nothing depends on it: a layer that a loss of power comes before is
    /// unpacked again. Called when the node has nothing better to do, as [`Store::collect`] does.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn settle(&self) -> Result<()> {
        let unsynced = self.blobs.unsynced()?;
        if unsynced.is_empty() {
            return Ok(());
        }
        let layers = self.blobs.layers_dir();
        let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(&layers)?)?) };
        sync().map_err(ImageError::io("sync", &layers))?;
        for (chain, _) in unsynced {
            // One removed meanwhile has none.
            let _ = fs::remove_file(self.blobs.unsynced_path(chain));
        }
        Ok(())
    }
}

/// The image that a digest means, and its entry.
pub(crate) fn lookup(catalog: &Catalog, digest: Digest) -> Result<(Digest, &crate::catalog::Entry)> {
    let found = catalog.image_of(digest);
    let entry = found.and_then(|image| Some((image, catalog.images.get(&image)?)));
    entry.ok_or_else(|| ImageError::NotFound {
        what: "image",
        name: digest.to_string(),
    })
}

/// The image or index that a selector means.
pub(crate) fn select(catalog: &Catalog, selector: &Selector) -> Result<Digest> {
    let found = match selector {
        Selector::Digest(digest) => catalog.target_of(*digest),
        Selector::Reference(reference) => catalog.target(reference),
    };
    found.ok_or_else(|| ImageError::NotFound {
        what: "image",
        name: selector.to_string(),
    })
}

/// The kernel's name for the time since the machine was switched on; an empty one never matches a record.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| String::new(), |id| id.trim().to_string())
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(ImageError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ImageError::Locked {
            path: dir.to_path_buf(),
        }),
        Err(error) => Err(ImageError::io("lock", &path)(io::Error::from(error))),
    }
}
