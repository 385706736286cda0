//! What is known of an unpacked layer beside its files: `records/CHAIN-ID.json`, and `records/CHAIN-ID.unsynced` as long as
//! its files may not be on disk for good.
//!
//! **Invariant:** both are in their place before the folder is, so a folder without a record was not made by this version; a
//! record without a folder is a leftover that means nothing.
//! Layers are never waited for: each can be made again (from its blob, or by the build step that made it), so after a loss of
//! power those that were not synced are dropped, and nobody pays for syncing before.

use std::fs;
use std::path::{Path, PathBuf};

use gantry_model::Digest;
use serde::{Deserialize, Serialize};

use crate::blobs::Blobs;
use crate::document::{Descriptor, to_json};
use crate::error::{ImageError, Result};
use crate::hashing::digest_of;
use crate::lease::{Durability, replace};

const UNSYNCED: &str = ".unsynced";

/// How many files a layer's folder holds, to tell whether it is whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    /// Everything in it: files, folders, links, whiteouts.
    pub(crate) entries: u64,
    /// Bytes of its regular files, each counted once.
    pub(crate) bytes: u64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Chain id of the layer below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Digest>,
    /// Digest of the layer's tar, decompressed.
    pub(crate) diff_id: Digest,
    pub(crate) extent: Extent,
    /// The layer as stored for transfer; none while a layer made here has not been asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob: Option<Descriptor>,
    /// It can be written as its blob again from its folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) made_here: bool,
}

/// Identifies a layer together with all below it (OCI image specification, "Layer ChainID").
#[must_use]
pub fn chain_id(parent: Option<Digest>, diff_id: Digest) -> Digest {
    match parent {
        None => diff_id,
        Some(below) => digest_of(format!("{below} {diff_id}").as_bytes()),
    }
}

/// The chain ids of layers, the lowest first.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(chain_id(chain.last().copied(), *diff_id));
    }
    chain
}

impl Blobs {
    pub(crate) fn record_path(&self, chain: Digest) -> PathBuf {
        self.records_dir().join(format!("{}.json", chain.hex()))
    }

    /// Names the life of the machine (the kernel's boot id) in which the layer was written.
    pub(crate) fn unsynced_path(&self, chain: Digest) -> PathBuf {
        self.records_dir().join(format!("{}{UNSYNCED}", chain.hex()))
    }

    /// Layers that may not be on disk for good, and since which life of the machine.
    pub(crate) fn unsynced(&self) -> Result<Vec<(Digest, String)>> {
        let dir = self.records_dir();
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(ImageError::io("list", &dir))? {
            let path = entry.map_err(ImageError::io("list", &dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(chain) = name.and_then(|name| Digest::from_hex(name.strip_suffix(UNSYNCED)?)) {
                // One that cannot be read was torn itself, and its layer with it.
                found.push((chain, fs::read_to_string(&path).unwrap_or_default()));
            }
        }
        Ok(found)
    }

    /// Puts a complete folder in its place as the layer `chain`.
    pub(crate) fn place_layer(&self, folder: &Path, chain: Digest, record: &LayerRecord, boot_id: &str) -> Result<()> {
        replace(&self.unsynced_path(chain), boot_id.as_bytes(), Durability::Hoped)?;
        self.write_record(chain, record)?;
        let path = self.layer_path(chain);
        fs::rename(folder, &path).map_err(ImageError::io("move a layer to", &path))
    }

    /// The record of a layer; none when there is none or it is damaged.
    pub(crate) fn layer_record(&self, chain: Digest) -> Option<LayerRecord> {
        let bytes = fs::read(self.record_path(chain)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Whether the layer is unpacked and recorded.
    pub(crate) fn has_layer(&self, chain: Digest) -> bool {
        self.layer_path(chain).is_dir()
    }

    pub(crate) fn write_record(&self, chain: Digest, record: &LayerRecord) -> Result<()> {
        replace(&self.record_path(chain), &to_json(record), Durability::Hoped)
    }
}

/// Counts a layer's folder as its record does.
pub(crate) fn measure(folder: &Path) -> std::io::Result<Extent> {
    use std::os::unix::fs::MetadataExt;
    let mut extent = Extent::default();
    let mut linked = std::collections::BTreeSet::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            extent.entries += 1;
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.is_file() && (metadata.nlink() == 1 || linked.insert(metadata.ino())) {
                extent.bytes += metadata.len();
            }
        }
    }
    Ok(extent)
}
