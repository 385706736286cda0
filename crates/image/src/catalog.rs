//! Which images the store holds, and what they are called: `tags.json`.
//!
//! **Invariant:** the file is replaced by renaming a complete one over it, so that a crash leaves the old or the new one.
//! **Invariant:** every tag points at an image or index of the catalog, and every image of it has all its blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use gantry_model::{ByteSize, Digest, ImageReference, Timestamp};
use serde::{Deserialize, Serialize};

use crate::document::{Platform, json, to_json};
use crate::error::{ImageError, Result};
use crate::lease::Node;
use crate::limits::INDEX_DEPTH_MAX;

/// The format written. Raised when an older version would misread the file. 2: tags may point at indexes.
const FORMAT: u32 = 2;
const FILE: &str = "tags.json";
const FILE_NEW: &str = "tmp/tags.json";

/// A manifest of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Digest of the configuration.
    pub(crate) config: Digest,
    /// Digests of the layers as stored, the lowest first.
    pub(crate) layers: Vec<Digest>,
    /// Chain ids of the layers, in the same order; empty where containers cannot be made of it.
    pub(crate) chain: Vec<Digest>,
    /// Sum of the layers as stored.
    pub(crate) size: ByteSize,
    /// `linux/amd64`.
    pub(crate) platform: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<Timestamp>,
    /// Digests of indexes that led to this image and are not here themselves.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) aliases: BTreeSet<Digest>,
    /// Set where containers cannot be made of it: what it is instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact: Option<String>,
    /// The manifest it says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Digest>,
}

/// An index of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexEntry {
    /// What it lists, in its order, here or not.
    pub(crate) manifests: Vec<Digest>,
    /// The manifest it says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Digest>,
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
    /// By digest.
    #[serde(default)]
    pub(crate) indexes: BTreeMap<Digest, IndexEntry>,
    /// By normalised reference without a digest: an image or an index.
    pub(crate) tags: BTreeMap<ImageReference, Digest>,
    /// Images and indexes that stay until they are unpinned.
    #[serde(default)]
    pub(crate) pinned: BTreeSet<Digest>,
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

    /// Whether an image or index with this digest is entered.
    pub(crate) fn contains(&self, digest: Digest) -> bool {
        self.images.contains_key(&digest) || self.indexes.contains_key(&digest)
    }

    /// The image or index a digest means: its own, or the image of an index that is not here itself.
    pub(crate) fn target_of(&self, digest: Digest) -> Option<Digest> {
        if self.contains(digest) {
            return Some(digest);
        }
        let mut images = self.images.iter();
        images
            .find(|(_, entry)| entry.aliases.contains(&digest))
            .map(|(image, _)| *image)
    }

    /// The image or index a reference means here.
    pub(crate) fn target(&self, reference: &ImageReference) -> Option<Digest> {
        match reference.digest() {
            Some(digest) => self.target_of(digest),
            None => self.tags.get(reference).copied(),
        }
    }

    /// The image a digest means: a manifest's own, or of an index the one that suits this machine.
    pub(crate) fn image_of(&self, digest: Digest) -> Option<Digest> {
        self.image_for(self.target_of(digest)?, None)
    }

    /// The image a reference means here.
    pub(crate) fn resolve(&self, reference: &ImageReference) -> Option<Digest> {
        self.image_for(self.target(reference)?, None)
    }

    /// The image of a target: the only one, or that of the wanted platform. Without a wanted one it is that of this machine,
    /// and where the index has none for it, the first that is here.
    pub(crate) fn image_for(&self, target: Digest, wanted: Option<&Platform>) -> Option<Digest> {
        let images = self.images_below(target);
        let suits = |digest: &&Digest, wanted: &Platform| {
            let entry = self.images.get(digest);
            entry.is_some_and(|entry| entry.artifact.is_none() && Platform::parse(&entry.platform).suits(wanted))
        };
        match wanted {
            Some(wanted) => images.iter().find(|digest| suits(digest, wanted)).copied(),
            None => {
                let ours = Platform::of_this_machine();
                let first = || images.iter().find(|digest| self.images[*digest].artifact.is_none());
                images
                    .iter()
                    .find(|digest| suits(digest, &ours))
                    .or_else(first)
                    .copied()
            }
        }
    }

    /// The images of a target that are here, in order of preference.
    pub(crate) fn images_below(&self, target: Digest) -> Vec<Digest> {
        let mut images = Vec::new();
        self.add_images_below(target, INDEX_DEPTH_MAX, &mut images);
        images
    }

    fn add_images_below(&self, target: Digest, depth: usize, images: &mut Vec<Digest>) {
        if self.images.contains_key(&target) && !images.contains(&target) {
            images.push(target);
        }
        if let Some(index) = self.indexes.get(&target).filter(|_| depth > 0) {
            for child in &index.manifests {
                self.add_images_below(*child, depth - 1, images);
            }
        }
    }

    /// The names that lead to an image, those of an index through which it is found included.
    pub(crate) fn references(&self, image: Digest) -> Vec<ImageReference> {
        let tags = self.tags.iter();
        tags.filter(|(_, target)| **target == image || self.image_for(**target, None) == Some(image))
            .map(|(reference, _)| reference.clone())
            .collect()
    }

    /// Indexes that list this one or image.
    pub(crate) fn indexes_with(&self, digest: Digest) -> impl Iterator<Item = Digest> {
        let indexes = self.indexes.iter();
        indexes
            .filter(move |(_, index)| index.manifests.contains(&digest))
            .map(|(index, _)| *index)
    }

    /// Whether a name, a pin, or an index of the catalog keeps it.
    pub(crate) fn is_held(&self, digest: Digest) -> bool {
        self.tags.values().any(|target| *target == digest)
            || self.pinned.contains(&digest)
            || self.indexes_with(digest).next().is_some()
    }

    /// Everything entered, as nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node> {
        self.images
            .keys()
            .chain(self.indexes.keys())
            .map(|digest| Node::Manifest(*digest))
    }

    /// What an image or index needs: its blobs and layers, or its children that are here; and what speaks about it.
    pub(crate) fn needs(&self, digest: Digest) -> Vec<Node> {
        let mut needs = vec![Node::Blob(digest)];
        if let Some(entry) = self.images.get(&digest) {
            needs.extend(entry.blobs(digest).map(Node::Blob));
            needs.extend(entry.chain.iter().copied().map(Node::Layer));
        }
        if let Some(index) = self.indexes.get(&digest) {
            let here = index.manifests.iter().filter(|child| self.contains(**child));
            needs.extend(here.copied().map(Node::Manifest));
        }
        needs.extend(self.referrers(digest).map(Node::Manifest));
        needs
    }

    /// Manifests and indexes that speak about this one.
    pub(crate) fn referrers(&self, digest: Digest) -> impl Iterator<Item = Digest> {
        let images = self.images.iter().map(|(id, entry)| (*id, entry.subject));
        let indexes = self.indexes.iter().map(|(id, entry)| (*id, entry.subject));
        images
            .chain(indexes)
            .filter(move |(_, subject)| *subject == Some(digest))
            .map(|(id, _)| id)
    }
}
