//! Adding images: blobs first, then all images at once in the catalog, or nothing.
//!
//! **Invariant:** until a batch ends, nothing it relies on is removed; one that is not committed leaves no blob behind.

use std::collections::BTreeSet;

use gantry_model::{ByteSize, Digest, ImageReference};

use crate::blobs::Staged;
use crate::catalog::Entry;
use crate::config::ImageConfig;
use crate::document::{Manifest, invalid};
use crate::error::{ImageError, Result};
use crate::hashing::digest_of;
use crate::store::{ImageInfo, Store};

/// An image to enter into the catalog.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) manifest: Digest,
    /// Indexes that led to it.
    pub(crate) aliases: BTreeSet<Digest>,
    pub(crate) references: Vec<ImageReference>,
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

    /// Enters the images, if every one of them is whole.
    pub(crate) fn commit(mut self, images: Vec<NewImage>) -> Result<Vec<ImageInfo>> {
        let mut entries = Vec::new();
        for image in images {
            let entry = self.entry(&image)?;
            entries.push((image, entry));
        }
        self.store.update(|catalog| {
            for (image, entry) in &entries {
                let mut entry = entry.clone();
                if let Some(old) = catalog.images.get(&image.manifest) {
                    entry.aliases.extend(&old.aliases);
                }
                catalog.images.insert(image.manifest, entry);
                for reference in &image.references {
                    catalog.tags.insert(reference.clone().without_digest(), image.manifest);
                }
            }
            Ok(())
        })?;
        let digests: BTreeSet<_> = entries.iter().map(|(image, _)| image.manifest).collect();
        digests.into_iter().map(|digest| self.store.info(digest)).collect()
    }

    fn entry(&mut self, image: &NewImage) -> Result<Entry> {
        let digest = image.manifest;
        let store = self.store;
        self.pin(digest);
        let manifest = Manifest::parse(digest, &store.blobs.read_document(digest)?)?;
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
        if missing > 0 {
            return Err(ImageError::Incomplete { digest, missing });
        }
        let config = manifest.config.digest;
        let parsed = ImageConfig::parse(config, &store.blobs.read_document(config)?)?;
        if parsed.diff_ids.len() != manifest.layers.len() {
            let (ids, layers) = (parsed.diff_ids.len(), manifest.layers.len());
            return Err(invalid(
                format!("image {digest}"),
                format!("its configuration lists {ids} layers, its manifest {layers}"),
            ));
        }
        Ok(Entry {
            config,
            layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
            chain: chain_ids(&parsed.diff_ids),
            size: ByteSize(manifest.layers.iter().filter_map(|layer| layer.size).sum()),
            platform: parsed.platform(),
            created_at: parsed.created_at,
            aliases: image.aliases.clone(),
        })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for digest in &self.pinned {
            state.unpin(*digest);
        }
        let used = if self.fresh.is_empty() {
            BTreeSet::new()
        } else {
            state.catalog.used_blobs()
        };
        let unused = self
            .fresh
            .iter()
            .filter(|digest| !used.contains(digest) && !state.is_pinned(**digest));
        for digest in unused {
            if let Err(error) = self.store.blobs.remove(*digest) {
                tracing::warn!(%digest, %error, "blob of a failed operation stays until the next prune");
            }
        }
    }
}

/// Identifies a layer together with all below it (OCI image specification, "Layer ChainID").
fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => *diff_id,
            Some(below) => digest_of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}
