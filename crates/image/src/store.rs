//! The image store of one node.
//!
//! ```text
//! DIR/lock                 held while a process has the store open
//! DIR/tags.json            which images there are and what they are called
//! DIR/blobs/sha256/HEX     manifests, configurations and layers, as the OCI image layout has them
//! DIR/layers/CHAIN-ID/     unpacked layers, lower layers for overlayfs
//! DIR/partial/HEX          transfers from other nodes that may be resumed
//! DIR/tmp/                 of operations in progress, cleared at open
//! ```
//!
//! **Invariant:** an image of the catalog has all its blobs. Blobs come first and the catalog last when an image is added, and
//! the other way round when it is removed, so a crash leaves unused blobs at worst, which [`Store::prune`] removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_model::{ByteSize, Digest, ImageReference, Timestamp};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, NewImage};
use crate::blobs::{Blobs, make_dir};
use crate::catalog::Catalog;
use crate::config::ImageConfig;
use crate::document::{Descriptor, Manifest};
use crate::error::{ImageError, Result};
use crate::keyed_lock::KeyedLock;

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

/// What [`Store::remove`] or [`Store::prune`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Names taken away.
    pub untagged: Vec<ImageReference>,
    /// Images that are gone.
    pub deleted: Vec<Digest>,
    /// Bytes of blobs that are gone; unpacked layers come on top.
    pub freed: ByteSize,
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
}

/// The image store of one node; shared by reference between threads. Every method blocks on the disk.
#[derive(Debug)]
pub struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) blobs: Blobs,
    state: Mutex<State>,
    /// Chain ids being unpacked and blobs being received.
    pub(crate) busy: KeyedLock,
    _lock: File,
}

impl Store {
    /// Opens the store in the folder `dir`, which is made if needed, and clears what a crash left behind.
    ///
    /// # Errors
    /// When another process has it open, when a later version wrote it, or when the disk refuses.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        make_dir(dir)?;
        let lock = lock(dir)?;
        // Before anything is cleared: a newer version may keep other things there.
        let catalog = Catalog::load(dir)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            blobs: Blobs::open(dir)?,
            state: Mutex::new(State {
                catalog,
                pins: BTreeMap::new(),
            }),
            busy: KeyedLock::default(),
            _lock: lock,
        })
    }

    /// All images, in order of digest.
    #[must_use]
    pub fn list(&self) -> Vec<ImageInfo> {
        let digests: Vec<_> = self.state().catalog.images.keys().copied().collect();
        // One removed meanwhile is left out.
        digests
            .into_iter()
            .filter_map(|digest| self.info(digest).ok())
            .collect()
    }

    /// The digest of the manifest that a reference means here.
    #[must_use]
    pub fn resolve(&self, reference: &ImageReference) -> Option<Digest> {
        self.state().catalog.resolve(reference)
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
            let image = lookup(catalog, digest)?.0;
            catalog.tags.insert(reference.clone().without_digest(), image);
            Ok(())
        })
    }

    /// Takes a name away from an image, or all of them when it is selected by digest; an image without a name goes, with its
    /// blobs and layers that no other image needs. `in_use` are the images of this node's replicas: they stay.
    ///
    /// # Errors
    /// When there is no such image, or one selected by digest is in use.
    pub fn remove(&self, selector: &Selector, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut candidates = BTreeSet::new();
        self.update_state(|state| {
            let digest = select(&state.catalog, selector)?;
            let is_used = in_use.contains(&digest) || state.is_pinned(digest);
            let by_digest = match selector {
                Selector::Digest(_) => true,
                Selector::Reference(reference) => reference.digest().is_some(),
            };
            if by_digest && is_used {
                return Err(ImageError::InUse { digest });
            }
            let mut catalog = state.catalog.clone();
            removed.untagged = match selector {
                Selector::Reference(reference) if !by_digest => vec![reference.clone()],
                Selector::Reference(_) | Selector::Digest(_) => catalog.references(digest),
            };
            for reference in &removed.untagged {
                catalog.tags.remove(reference);
            }
            if catalog.references(digest).is_empty() && !is_used {
                candidates = blobs_and_layers(&catalog, digest);
                catalog.images.remove(&digest);
                removed.deleted.push(digest);
            }
            Ok(catalog)
        })?;
        removed.freed = self.drop_unused(&candidates)?;
        Ok(removed)
    }

    /// Removes images without a name that are not in use, blobs and layers of no image, and interrupted transfers.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn prune(&self, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let mut removed = Removed::default();
        self.update_state(|state| {
            let mut catalog = state.catalog.clone();
            let nameless = |digest: &Digest| {
                !in_use.contains(digest) && !state.is_pinned(*digest) && catalog.references(*digest).is_empty()
            };
            removed.deleted = catalog.images.keys().copied().filter(nameless).collect();
            for digest in &removed.deleted {
                catalog.images.remove(digest);
            }
            Ok(catalog)
        })?;
        let candidates = self.blobs.list_blobs()?.into_iter().chain(self.blobs.list_layers()?);
        let freed = self.drop_unused(&candidates.collect())?;
        removed.freed = freed + ByteSize(self.blobs.remove_partials()?);
        Ok(removed)
    }

    /// What of an image has yet to come: its manifest as long as that is not here, then the blobs it names.
    ///
    /// # Errors
    /// When its manifest is no manifest.
    pub fn missing(&self, digest: Digest) -> Result<Vec<Descriptor>> {
        if self.blobs.size(digest).is_none() {
            return Ok(vec![Descriptor::of_manifest(digest)]);
        }
        let manifest = Manifest::parse(digest, &self.blobs.read_document(digest)?)?;
        let mut missing: Vec<Descriptor> = Vec::new();
        for blob in manifest.blobs() {
            let is_listed = missing.iter().any(|listed| listed.digest == blob.digest);
            if !is_listed && self.blobs.size(blob.digest).is_none() {
                missing.push(blob.clone());
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
        self.blobs.receive(blob, offset, source)
    }

    /// A blob to be sent to another node.
    ///
    /// # Errors
    /// When it is not here.
    pub fn open_blob(&self, digest: Digest) -> Result<File> {
        self.blobs.open_blob(digest)
    }

    /// Enters an image whose blobs have all come. It has no name yet: [`Store::tag`].
    ///
    /// # Errors
    /// When blobs are missing or its documents contradict each other.
    pub fn commit_image(&self, digest: Digest) -> Result<ImageInfo> {
        Batch::new(self).commit(vec![NewImage {
            manifest: digest,
            aliases: BTreeSet::new(),
            references: Vec::new(),
        }])?;
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

    fn update_state(&self, change: impl FnOnce(&State) -> Result<Catalog>) -> Result<()> {
        let mut state = self.state();
        let mut catalog = change(&state)?;
        if catalog != state.catalog {
            catalog.save(&self.dir)?;
            state.catalog = catalog;
        }
        Ok(())
    }

    /// Removes those of the blobs and layers that no image needs and no operation works on.
    fn drop_unused(&self, candidates: &BTreeSet<Digest>) -> Result<ByteSize> {
        let state = self.state();
        let (blobs, layers) = (state.catalog.used_blobs(), state.catalog.used_layers());
        let mut freed = 0;
        let mut doomed = Vec::new();
        for digest in candidates.iter().filter(|digest| !state.is_pinned(**digest)) {
            if !blobs.contains(digest) {
                freed += self.blobs.remove(*digest)?;
            }
            let layer = self.blobs.layer_path(*digest);
            if !layers.contains(digest) && layer.exists() {
                let tmp = self.blobs.tmp_path();
                fs::rename(&layer, &tmp).map_err(ImageError::io("remove", &layer))?;
                doomed.push(tmp);
            }
        }
        // Large layers take a while; nobody needs to wait for that.
        drop(state);
        for tmp in doomed {
            fs::remove_dir_all(&tmp).map_err(ImageError::io("remove", &tmp))?;
        }
        Ok(ByteSize(freed))
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

/// The image that a selector means.
pub(crate) fn select(catalog: &Catalog, selector: &Selector) -> Result<Digest> {
    let found = match selector {
        Selector::Digest(digest) => catalog.image_of(*digest),
        Selector::Reference(reference) => catalog.resolve(reference),
    };
    found.ok_or_else(|| ImageError::NotFound {
        what: "image",
        name: selector.to_string(),
    })
}

fn blobs_and_layers(catalog: &Catalog, digest: Digest) -> BTreeSet<Digest> {
    let entry = catalog.images.get(&digest);
    entry
        .into_iter()
        .flat_map(|entry| entry.blobs(digest).chain(entry.chain.iter().copied()))
        .collect()
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
