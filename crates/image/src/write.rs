//! `Store::write_image` and `Store::write_index`: manifests made on this node.

use std::collections::BTreeMap;

use gantry_model::{Digest, ImageReference};
use serde_json::Value;

use crate::batch::{Batch, NewImage};
use crate::commit::LayerCompression;
use crate::compress::Compression;
use crate::config_document::ConfigDocument;
use crate::document::{
    CONFIG_DOCKER, CONFIG_OCI, Descriptor, INDEX_DOCKER, INDEX_OCI, Index, MANIFEST_DOCKER, MANIFEST_OCI, Manifest,
    Platform, invalid, to_json,
};
use crate::error::{ImageError, Result};
use crate::lease::{Lease, Node};
use crate::store::{ImageInfo, Store};

/// Whose media types a manifest uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ManifestFormat {
    /// OCI image specification 1.1.
    #[default]
    Oci,
    /// Docker's schema 2.
    Docker,
}

impl ManifestFormat {
    const fn manifest(self) -> &'static str {
        match self {
            Self::Oci => MANIFEST_OCI,
            Self::Docker => MANIFEST_DOCKER,
        }
    }

    const fn index(self) -> &'static str {
        match self {
            Self::Oci => INDEX_OCI,
            Self::Docker => INDEX_DOCKER,
        }
    }

    const fn config(self) -> &'static str {
        match self {
            Self::Oci => CONFIG_OCI,
            Self::Docker => CONFIG_DOCKER,
        }
    }

    /// None where the format has no word for it.
    const fn layer(self, compression: Compression) -> Option<&'static str> {
        match (self, compression) {
            (Self::Oci, compression) => Some(compression.layer_media_type()),
            (Self::Docker, Compression::Gzip) => Some("application/vnd.docker.image.rootfs.diff.tar.gzip"),
            (Self::Docker, Compression::None) => Some("application/vnd.docker.image.rootfs.diff.tar"),
            (Self::Docker, Compression::Zstd) => None,
        }
    }
}

/// An image to be written.
#[derive(Debug, Clone, Default)]
pub struct ImageDraft {
    /// Its configuration; the layers in it are set from `top`.
    pub config: ConfigDocument,
    /// Chain id of its topmost layer; none for an image without layers.
    pub top: Option<Digest>,
    /// Whose media types it uses.
    pub format: ManifestFormat,
    /// How layers made here are compressed; those of a base image stay as they came.
    pub compression: LayerCompression,
    /// Annotations of the manifest (OCI only).
    pub annotations: BTreeMap<String, String>,
    /// What it is called.
    pub references: Vec<ImageReference>,
}

/// An index to be written.
#[derive(Debug, Clone, Default)]
pub struct IndexDraft {
    /// Manifests of images of this store, in order of preference.
    pub images: Vec<Digest>,
    /// Whose media types it uses.
    pub format: ManifestFormat,
    /// Annotations (OCI only).
    pub annotations: BTreeMap<String, String>,
    /// What it is called.
    pub references: Vec<ImageReference>,
}

impl Store {
    /// Writes an image: makes the blobs of its layers where they are not there yet, then configuration and manifest, and enters
    /// it into the catalog with its names; all that is synced to disk. The same draft makes the same digest.
    ///
    /// # Errors
    /// When a layer is not here, when the format has no word for a layer's compression, or when the disk refuses.
    pub fn write_image(&self, lease: &Lease, draft: &ImageDraft) -> Result<ImageInfo> {
        check_annotations(draft.format, &draft.annotations)?;
        let chain = match draft.top {
            Some(top) => self.chain(top)?,
            None => Vec::new(),
        };
        let mut layers = Vec::with_capacity(chain.len());
        for (chain, _) in &chain {
            let blob = self.layer_blob(lease, *chain, draft.compression)?;
            layers.push(self.described(&blob, draft.format)?);
        }
        let mut config = draft.config.clone();
        config.rootfs.diff_ids = chain.iter().map(|(_, record)| record.diff_id).collect();
        check_history(&config)?;
        let config = config.to_bytes();
        let mut batch = Batch::new(self);
        let config_digest = batch.add_bytes(&config)?;
        lease.keep(Node::Blob(config_digest))?;
        let config = Descriptor::new(draft.format.config(), config_digest, config.len() as u64);
        let manifest = Manifest {
            media_type: draft.format.manifest().to_string(),
            annotations: annotations(&draft.annotations),
            ..Manifest::new(config, layers)
        };
        let digest = batch.add_bytes(&to_json(&manifest))?;
        lease.keep(Node::Manifest(digest))?;
        batch.commit(vec![NewImage::named(digest, draft.references.clone())])?;
        self.info(digest)
    }

    /// Writes an index of images of several platforms. It resolves to the one that suits the machine.
    ///
    /// # Errors
    /// When an image is not here.
    pub fn write_index(&self, lease: &Lease, draft: &IndexDraft) -> Result<Digest> {
        check_annotations(draft.format, &draft.annotations)?;
        let mut manifests = Vec::with_capacity(draft.images.len());
        for image in &draft.images {
            lease.keep(Node::Manifest(*image))?;
            let info = self.info(*image)?;
            let bytes = self.blobs.read_document(info.digest)?;
            let manifest = Manifest::parse(info.digest, &bytes)?;
            let media_type = if manifest.media_type.is_empty() {
                MANIFEST_OCI
            } else {
                &manifest.media_type
            };
            let mut descriptor = Descriptor::new(media_type, info.digest, bytes.len() as u64);
            descriptor.platform = Some(Platform::parse(&info.platform));
            manifests.push(descriptor);
        }
        let index = Index {
            media_type: draft.format.index().to_string(),
            annotations: annotations(&draft.annotations),
            ..Index::new(manifests)
        };
        let mut batch = Batch::new(self);
        let digest = batch.add_bytes(&to_json(&index))?;
        lease.keep(Node::Manifest(digest))?;
        batch.commit(vec![NewImage::named(digest, draft.references.clone())])?;
        Ok(digest)
    }

    /// The blob in the words of the format.
    fn described(&self, blob: &Descriptor, format: ManifestFormat) -> Result<Descriptor> {
        let compression = self.blobs.compression(blob.digest)?;
        let Some(media_type) = format.layer(compression) else {
            return Err(invalid(
                format!("layer {}", blob.digest),
                "is compressed by zstd, for which Docker's schema 2 has no word; write an OCI manifest",
            ));
        };
        let size = blob.size.or_else(|| self.blobs.size(blob.digest)).unwrap_or(0);
        Ok(Descriptor::new(media_type, blob.digest, size))
    }
}

fn check_annotations(format: ManifestFormat, annotations: &BTreeMap<String, String>) -> Result<()> {
    if format == ManifestFormat::Docker && !annotations.is_empty() {
        return Err(invalid(
            "annotations",
            "Docker's schema 2 has none; write an OCI manifest",
        ));
    }
    Ok(())
}

/// Docker refuses an image whose history counts other layers than it has.
fn check_history(config: &ConfigDocument) -> Result<()> {
    let steps = config.history.iter().filter(|step| !step.empty_layer).count();
    let layers = config.rootfs.diff_ids.len();
    if config.history.is_empty() || steps == layers {
        return Ok(());
    }
    Err(ImageError::Document {
        document: "configuration".to_string(),
        reason: format!("its history counts {steps} layers, it has {layers}"),
    })
}

fn annotations(given: &BTreeMap<String, String>) -> serde_json::Map<String, Value> {
    given
        .iter()
        .map(|(key, value)| (key.clone(), Value::String(value.clone())))
        .collect()
}
