//! `Store::inspect` and `Store::history`: an image as `docker image inspect` and `docker history` show it.

use gantry_model::{ByteSize, Digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config_document::{ConfigDocument, HistoryEntry, RootFs, RuntimeConfig};
use crate::document::{Descriptor, Manifest};
use crate::error::Result;
use crate::manifests::ManifestInfo;
use crate::store::{Store, lookup};

/// An image in all its parts, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageInspection {
    /// Digest of its configuration.
    pub id: Digest,
    /// Its names as people type them.
    pub repo_tags: Vec<String>,
    /// Its repositories with the digest that each name means.
    pub repo_digests: Vec<String>,
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    pub author: String,
    /// Processor, as Go names it.
    pub architecture: String,
    /// Variant of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `linux`.
    pub os: String,
    /// Bytes of its layers as stored.
    pub size: ByteSize,
    /// What its containers run, and how, as the configuration has it.
    pub config: RuntimeConfig,
    /// Its layers by content.
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    /// How it was made.
    pub history: Vec<HistoryEntry>,
    /// Its manifest.
    pub descriptor: Descriptor,
    /// Its layers as stored, the lowest first.
    pub layers: Vec<Descriptor>,
    /// Annotations of its manifest.
    pub annotations: Map<String, Value>,
    /// Indexes that list it.
    pub indexes: Vec<Digest>,
    /// Where its unpacked layers lie, topmost first, as overlayfs takes them; empty while it is not unpacked.
    pub layer_folders: Vec<String>,
}

/// One step of an image's making, the last one first in a list, as `docker history` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HistoryStep {
    /// Digest of the image's configuration on the last step; earlier ones have no image of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Digest>,
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command.
    pub created_by: String,
    /// Bytes of its layer as stored; 0 for a step without one.
    pub size: ByteSize,
    /// Its layer as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Digest>,
    /// Names of the image, on the last step.
    pub tags: Vec<String>,
    /// Anything.
    pub comment: String,
}

impl Store {
    /// The configuration of an image in full.
    ///
    /// # Errors
    /// When it is not here or damaged.
    pub fn config_document(&self, digest: Digest) -> Result<ConfigDocument> {
        let config = lookup(&self.state().catalog, digest)?.1.config;
        ConfigDocument::parse(&config.to_string(), &self.blobs.read_document(config)?)
    }

    /// Everything about an image; of an index, about the one that suits this machine.
    ///
    /// # Errors
    /// When it is not here or damaged.
    pub fn inspect(&self, digest: Digest) -> Result<ImageInspection> {
        let info = self.info(digest)?;
        let bytes = self.blobs.read_document(info.digest)?;
        let manifest = ManifestInfo::parse(&bytes)?;
        let config = self.config_document(info.digest)?;
        let (repo_digests, indexes, chain) = {
            let state = self.state();
            let catalog = &state.catalog;
            let mut digests: Vec<_> = info
                .references
                .iter()
                .map(|name| {
                    format!(
                        "{}@{}",
                        name.familiar_repository(),
                        catalog.tags.get(name).unwrap_or(&info.digest)
                    )
                })
                .collect();
            digests.dedup();
            let indexes = catalog.indexes_with(info.digest).collect();
            (digests, indexes, lookup(catalog, info.digest)?.1.chain.clone())
        };
        let folders = chain.iter().rev().map(|chain| self.blobs.layer_path(*chain));
        let is_unpacked = chain.iter().all(|chain| self.blobs.has_layer(*chain));
        Ok(ImageInspection {
            id: info.config_digest,
            repo_tags: info
                .references
                .iter()
                .map(gantry_model::ImageReference::familiar)
                .collect(),
            repo_digests,
            created: config.created,
            author: config.author.unwrap_or_default(),
            architecture: config.architecture,
            variant: config.variant,
            os: config.os,
            size: info.size,
            config: config.config,
            root_fs: config.rootfs,
            history: config.history,
            descriptor: Descriptor::new(manifest.media_type, info.digest, manifest.size),
            layers: manifest.layers,
            annotations: manifest.annotations,
            indexes,
            layer_folders: folders
                .filter(|_| is_unpacked)
                .map(|path| path.display().to_string())
                .collect(),
        })
    }

    /// The steps of an image's making, the last one first.
    ///
    /// # Errors
    /// When it is not here or damaged.
    pub fn history(&self, digest: Digest) -> Result<Vec<HistoryStep>> {
        let info = self.info(digest)?;
        let manifest = Manifest::parse(info.digest, &self.blobs.read_document(info.digest)?)?;
        let document = self.config_document(info.digest)?;
        let mut layers = manifest.layers.iter();
        let mut steps: Vec<HistoryStep> = Vec::new();
        for entry in &document.history {
            let layer = if entry.empty_layer { None } else { layers.next() };
            steps.push(step(entry, layer));
        }
        // Builders that write no history, or too little of it.
        steps.extend(layers.map(|layer| step(&HistoryEntry::default(), Some(layer))));
        if let Some(last) = steps.last_mut() {
            last.id = Some(info.config_digest);
            last.tags = info
                .references
                .iter()
                .map(gantry_model::ImageReference::familiar)
                .collect();
        }
        steps.reverse();
        Ok(steps)
    }
}

fn step(entry: &HistoryEntry, layer: Option<&Descriptor>) -> HistoryStep {
    HistoryStep {
        id: None,
        created: entry.created.clone(),
        created_by: entry.created_by.clone(),
        size: ByteSize(layer.and_then(|layer| layer.size).unwrap_or(0)),
        layer: layer.map(|layer| layer.digest),
        tags: Vec::new(),
        comment: entry.comment.clone(),
    }
}
