//! Which images the store holds, and what they are called: `tags.json`.
//!
//! **Invariant:** the file is replaced by renaming a complete one over it, so that a crash leaves the old or the new one.
//! **Invariant:** every tag points at an image of the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use gantry_model::{ByteSize, Digest, ImageReference, Timestamp};
use serde::{Deserialize, Serialize};

use crate::document::{json, to_json};
use crate::error::{ImageError, Result};

/// The format written. Raised when an older version would misread the file.
const FORMAT: u32 = 1;
const FILE: &str = "tags.json";
const FILE_NEW: &str = "tmp/tags.json";

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Digest of the configuration.
    pub(crate) config: Digest,
    /// Digests of the layers as stored, the lowest first.
    pub(crate) layers: Vec<Digest>,
    /// Chain ids of the layers, in the same order.
    pub(crate) chain: Vec<Digest>,
    /// Sum of the layers as stored.
    pub(crate) size: ByteSize,
    /// `linux/amd64`.
    pub(crate) platform: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<Timestamp>,
    /// Digests of indexes that led to this image.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) aliases: BTreeSet<Digest>,
}

impl Entry {
    /// All blobs of the image with this manifest.
    pub(crate) fn blobs(&self, manifest: Digest) -> impl Iterator<Item = Digest> {
        [manifest, self.config].into_iter().chain(self.layers.iter().copied())
    }
}

/// The content of `tags.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Catalog {
    format: u32,
    /// By manifest digest.
    pub(crate) images: BTreeMap<Digest, Entry>,
    /// By normalised reference without a digest.
    pub(crate) tags: BTreeMap<ImageReference, Digest>,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Catalog {
    /// Reads the catalog of the store at `dir`; an empty one when there is none yet.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            result => result.map_err(ImageError::io("read", &path))?,
        };
        let document = path.display().to_string();
        let FormatOnly { format } = json(&document, &bytes)?;
        if format > FORMAT {
            return Err(ImageError::NewerFormat {
                path,
                found: format,
                known: FORMAT,
            });
        }
        json(&document, &bytes)
    }

    /// Replaces the catalog on disk.
    pub(crate) fn save(&mut self, dir: &Path) -> Result<()> {
        self.format = FORMAT;
        let (new, path) = (dir.join(FILE_NEW), dir.join(FILE));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&to_json(self))?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(ImageError::io("write", &path))
    }

    /// The image a digest means: a manifest's own, or that of an index it came from.
    pub(crate) fn image_of(&self, digest: Digest) -> Option<Digest> {
        if self.images.contains_key(&digest) {
            return Some(digest);
        }
        let mut images = self.images.iter();
        images
            .find(|(_, entry)| entry.aliases.contains(&digest))
            .map(|(image, _)| *image)
    }

    /// The image a reference means here.
    pub(crate) fn resolve(&self, reference: &ImageReference) -> Option<Digest> {
        match reference.digest() {
            Some(digest) => self.image_of(digest),
            None => self.tags.get(reference).copied(),
        }
    }

    pub(crate) fn references(&self, image: Digest) -> Vec<ImageReference> {
        let tags = self.tags.iter().filter(|(_, digest)| **digest == image);
        tags.map(|(reference, _)| reference.clone()).collect()
    }

    /// Every blob that some image needs.
    pub(crate) fn used_blobs(&self) -> BTreeSet<Digest> {
        self.images
            .iter()
            .flat_map(|(digest, entry)| entry.blobs(*digest))
            .collect()
    }

    /// Every unpacked layer that some image needs.
    pub(crate) fn used_layers(&self) -> BTreeSet<Digest> {
        self.images
            .values()
            .flat_map(|entry| entry.chain.iter().copied())
            .collect()
    }
}
