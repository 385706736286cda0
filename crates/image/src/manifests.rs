//! Manifests as registries deal with them: any kind, by digest, with what refers to them.
//!
//! **Invariant:** a manifest goes out with the bytes it came with.

use gantry_model::Digest;
use serde_json::{Map, Value};

use crate::batch::{Batch, NewImage};
use crate::blobs::check_digest;
use crate::document::{Descriptor, Document, INDEX_OCI, MANIFEST_OCI};
use crate::error::{ImageError, Result};
use crate::hashing::digest_of;
use crate::lease::{Lease, Node};
use crate::limits::DOCUMENT_BYTES_MAX;
use crate::store::Store;

/// What a manifest stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// Containers can be made of it.
    Image,
    /// It lists others.
    Index,
    /// Anything else that is stored in registries.
    Artifact,
}

/// A manifest or index, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// As it says itself, or as its content shows.
    pub media_type: String,
    /// What it stands for.
    pub kind: ManifestKind,
    /// What an artifact is: its own word, or the type of its configuration. None for an index that does not say.
    pub artifact_type: Option<String>,
    /// What it says something about.
    pub subject: Option<Descriptor>,
    /// Its configuration; none for an index.
    pub config: Option<Descriptor>,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// What an index lists.
    pub manifests: Vec<Descriptor>,
    /// Free text about it.
    pub annotations: Map<String, Value>,
}

impl ManifestInfo {
    /// Understands a document.
    ///
    /// # Errors
    /// When it is larger than registries must accept, or no manifest of OCI or of Docker's schema 2.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(ImageError::TooLarge {
                what: "manifest".to_string(),
                limit: DOCUMENT_BYTES_MAX,
                unit: "bytes",
            });
        }
        let (digest, size) = (digest_of(bytes), bytes.len() as u64);
        let or = |given: String, default: &str| if given.is_empty() { default.to_string() } else { given };
        Ok(match Document::parse(digest, bytes)? {
            Document::Manifest(manifest) => Self {
                digest,
                size,
                kind: match manifest.require_image(digest) {
                    Ok(()) => ManifestKind::Image,
                    Err(_) => ManifestKind::Artifact,
                },
                artifact_type: Some(manifest.artifact_type().to_string()),
                media_type: or(manifest.media_type, MANIFEST_OCI),
                subject: manifest.subject,
                config: Some(manifest.config),
                layers: manifest.layers,
                manifests: Vec::new(),
                annotations: manifest.annotations,
            },
            Document::Index(index) => Self {
                digest,
                size,
                media_type: or(index.media_type, INDEX_OCI),
                kind: ManifestKind::Index,
                artifact_type: index.artifact_type,
                subject: index.subject,
                config: None,
                layers: Vec::new(),
                manifests: index.manifests,
                annotations: index.annotations,
            },
        })
    }

    /// Every blob it needs itself, each once; manifests of an index are not among them.
    #[must_use]
    pub fn blobs(&self) -> Vec<Descriptor> {
        let mut blobs: Vec<Descriptor> = Vec::new();
        for blob in self.config.iter().chain(&self.layers) {
            if blobs.iter().all(|known| known.digest != blob.digest) {
                blobs.push(blob.clone());
            }
        }
        blobs
    }
}

impl Store {
    /// Enters a manifest of any kind whose blobs have come (of an index, those of its manifests that are here). It has no name:
    /// the lease, a root set or [`Store::tag`] keeps it.
    ///
    /// # Errors
    /// When it is no manifest, has another digest than `expected`, or when blobs of it are missing.
    pub fn put_manifest(&self, lease: &Lease, bytes: &[u8], expected: Option<Digest>) -> Result<ManifestInfo> {
        let info = ManifestInfo::parse(bytes)?;
        check_digest("manifest", expected.unwrap_or(info.digest), info.digest)?;
        lease.keep(Node::Manifest(info.digest))?;
        let mut batch = Batch::new(self);
        batch.add_bytes(bytes)?;
        batch.commit(vec![NewImage {
            any_kind: true,
            ..NewImage::named(info.digest, Vec::new())
        }])?;
        Ok(info)
    }

    /// A manifest or index and its bytes, verified.
    ///
    /// # Errors
    /// When it is not here, damaged, or no manifest.
    pub fn manifest(&self, digest: Digest) -> Result<(ManifestInfo, Vec<u8>)> {
        let bytes = self.blobs.read_document(digest)?;
        Ok((ManifestInfo::parse(&bytes)?, bytes))
    }

    /// Descriptors of the manifests here that say something about this one, as the referrers API of registries lists them.
    ///
    /// # Errors
    /// When one of them is damaged.
    pub fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        let referrers: Vec<Digest> = self.state().catalog.referrers(subject).collect();
        let described = referrers.into_iter().map(|digest| {
            let (info, _) = self.manifest(digest)?;
            let mut descriptor = Descriptor::new(info.media_type, digest, info.size);
            descriptor.artifact_type = info.artifact_type;
            descriptor.annotations = info.annotations;
            Ok(descriptor)
        });
        described.collect()
    }
}
