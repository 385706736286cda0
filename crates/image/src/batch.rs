//! Adding images: blobs first, then all images at once in the catalog, or nothing.
//!
//! **Invariant:** until a batch ends, nothing it relies on is removed; one that is not committed leaves no blob behind.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{ByteSize, Digest, ImageReference};

use crate::blobs::Staged;
use crate::catalog::{Entry, IndexEntry};
use crate::config::ImageConfig;
use crate::document::{Document, Index, Manifest, invalid};
use crate::error::{ImageError, Result};
use crate::hashing::digest_of;
use crate::layer_record::chain_ids;
use crate::lease::Node;
use crate::limits::INDEX_DEPTH_MAX;
use crate::store::{ImageInfo, Store};

/// An image or index to enter into the catalog.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) manifest: Digest,
    /// Indexes that led to it and are not here.
    pub(crate) aliases: BTreeSet<Digest>,
    pub(crate) references: Vec<ImageReference>,
    /// Containers need not be possible.
    pub(crate) any_kind: bool,
}

impl NewImage {
    /// An image, or an index of images.
    pub(crate) const fn named(manifest: Digest, references: Vec<ImageReference>) -> Self {
        Self {
            manifest,
            aliases: BTreeSet::new(),
            references,
            any_kind: false,
        }
    }
}

/// What is to be entered, checked.
#[derive(Debug, Default)]
struct Entries {
    images: BTreeMap<Digest, Entry>,
    indexes: BTreeMap<Digest, IndexEntry>,
}

/// Blobs on their way into the store.
pub(crate) struct Batch<'a> {
    store: &'a Store,
    pinned: Vec<Digest>,
    /// Those that were not here before.
    fresh: Vec<Digest>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self {
            store,
            pinned: Vec::new(),
            fresh: Vec::new(),
        }
    }

    /// Keeps the blob until the batch ends; true when it is here.
    pub(crate) fn pin(&mut self, digest: Digest) -> bool {
        self.store.state().pin(digest);
        self.pinned.push(digest);
        self.store.blobs.size(digest).is_some()
    }

    pub(crate) fn add(&mut self, staged: &Staged) -> Result<()> {
        if !self.pin(staged.digest) {
            self.fresh.push(staged.digest);
            self.store.blobs.publish(staged)?;
        }
        Ok(())
    }

    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) -> Result<Digest> {
        let digest = digest_of(bytes);
        if !self.pin(digest) {
            self.fresh.push(digest);
            self.store.blobs.publish_bytes(bytes)?;
        }
        Ok(digest)
    }

    /// Enters the images, if every one of them is whole; of an index those that are.
    pub(crate) fn commit(mut self, images: Vec<NewImage>) -> Result<Vec<ImageInfo>> {
        let mut entries = Entries::default();
        for image in &images {
            self.enter(image.manifest, image, INDEX_DEPTH_MAX, &mut entries)?;
        }
        self.store.update(|catalog| {
            for (digest, entry) in &entries.images {
                let mut entry = entry.clone();
                if let Some(old) = catalog.images.get(digest) {
                    entry.aliases.extend(&old.aliases);
                }
                catalog.images.insert(*digest, entry);
            }
            catalog.indexes.extend(entries.indexes.clone());
            for image in &images {
                for reference in &image.references {
                    catalog.tags.insert(reference.clone().without_digest(), image.manifest);
                }
            }
            Ok(())
        })?;
        let entered: BTreeSet<_> = {
            let state = self.store.state();
            let images = images.iter().filter_map(|image| state.catalog.image_of(image.manifest));
            images.collect()
        };
        entered.into_iter().map(|digest| self.store.info(digest)).collect()
    }

    fn enter(&mut self, digest: Digest, image: &NewImage, depth: usize, entries: &mut Entries) -> Result<()> {
        self.pin(digest);
        match Document::parse(digest, &self.store.blobs.read_document(digest)?)? {
            Document::Manifest(manifest) => {
                let mut entry = self.entry(digest, &manifest, image.any_kind)?;
                if digest == image.manifest {
                    entry.aliases.extend(&image.aliases);
                }
                entries.images.insert(digest, entry);
                Ok(())
            }
            Document::Index(_) if depth == 0 => {
                Err(invalid(format!("index {digest}"), "indexes within indexes without end"))
            }
            Document::Index(index) => self.enter_index(digest, &index, image, depth, entries),
        }
    }

    fn enter_index(
        &mut self,
        digest: Digest,
        index: &Index,
        image: &NewImage,
        depth: usize,
        entries: &mut Entries,
    ) -> Result<()> {
        let child = NewImage {
            manifest: digest,
            aliases: BTreeSet::new(),
            references: Vec::new(),
            any_kind: true,
        };
        let mut missing = None;
        for descriptor in &index.manifests {
            if self.store.blobs.size(descriptor.digest).is_none() {
                continue;
            }
            match self.enter(descriptor.digest, &child, depth - 1, entries) {
                Ok(()) => {}
                // Indexes are kept with what of them is here.
                Err(error @ ImageError::Incomplete { .. }) => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        let here = |digest: &Digest| entries.images.contains_key(digest) || entries.indexes.contains_key(digest);
        let mut listed = index.manifests.iter().map(|descriptor| descriptor.digest);
        if !image.any_kind && !listed.any(|digest| here(&digest)) {
            let count = index.manifests.len();
            return Err(missing.unwrap_or(ImageError::Incomplete { digest, missing: count }));
        }
        let manifests = index.preferred_order();
        let subject = index.subject.as_ref().map(|subject| subject.digest);
        entries.indexes.insert(digest, IndexEntry { manifests, subject });
        Ok(())
    }

    fn entry(&mut self, digest: Digest, manifest: &Manifest, any_kind: bool) -> Result<Entry> {
        let store = self.store;
        let mut missing = 0;
        for blob in manifest.blobs() {
            self.pin(blob.digest);
            match store.blobs.size(blob.digest) {
                None => missing += 1,
                found if found != blob.size => {
                    return Err(ImageError::WrongSize {
                        what: format!("blob {}", blob.digest),
                        expected: blob.size.unwrap_or(0),
                        found: found.unwrap_or(0),
                    });
                }
                Some(_) => {}
            }
        }
        let runnable = manifest.require_image(digest);
        if !any_kind {
            manifest.require_image(digest)?;
        }
        if missing > 0 {
            return Err(ImageError::Incomplete { digest, missing });
        }
        let base = Entry {
            config: manifest.config.digest,
            layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
            chain: Vec::new(),
            size: ByteSize(manifest.layers.iter().filter_map(|layer| layer.size).sum()),
            platform: String::new(),
            created_at: None,
            aliases: BTreeSet::new(),
            artifact: None,
            subject: manifest.subject.as_ref().map(|subject| subject.digest),
        };
        match runnable.and_then(|()| self.image_entry(digest, manifest, base.clone())) {
            Err(_) if any_kind => Ok(Entry {
                artifact: Some(manifest.artifact_type().to_string()),
                ..base
            }),
            result => result,
        }
    }

    fn image_entry(&self, digest: Digest, manifest: &Manifest, base: Entry) -> Result<Entry> {
        let parsed = ImageConfig::parse(base.config, &self.store.blobs.read_document(base.config)?)?;
        if parsed.diff_ids.len() != manifest.layers.len() {
            let (ids, layers) = (parsed.diff_ids.len(), manifest.layers.len());
            return Err(invalid(
                format!("image {digest}"),
                format!("its configuration lists {ids} layers, its manifest {layers}"),
            ));
        }
        Ok(Entry {
            chain: chain_ids(&parsed.diff_ids),
            platform: parsed.platform(),
            created_at: parsed.created_at,
            ..base
        })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.store.state();
            for digest in &self.pinned {
                state.unpin(*digest);
            }
        }
        let fresh = self.fresh.iter().copied().map(Node::Blob).collect();
        if let Err(error) = self.store.drop_unused(&fresh) {
            tracing::warn!(%error, "blobs of a failed operation stay until the next prune");
        }
    }
}
