//! Layers made on this node: what a build step wrote becomes a layer of the store, and its blob once somebody asks for it.
//!
//! The folder is taken over by renaming it; its tar is only hashed then, since most layers of a build (earlier stages, steps that
//! the next build replaces) are never sent anywhere. [`Store::layer_blob`] compresses on all processors when an image needs it.
//! **Invariant:** a layer made here can be written as its blob again at any time, to the same bytes; that they have the recorded
//! diff id is checked each time.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gantry_model::{ByteSize, Digest, Timestamp};

use crate::blobs::{StageWriter, make_layer_dir};
use crate::compress::Compression;
use crate::diff::{Care, write_layer};
use crate::document::Descriptor;
use crate::error::{ImageError, Result};
use crate::gzip::GzipWriter;
use crate::hashing::HashingWriter;
use crate::layer_record::{LayerRecord, chain_id};
use crate::lease::{Lease, Node};
use crate::store::Store;

/// How much gzip tries. With zlib, on Debian's `/usr/bin`, level 6 takes 2.8 times as long for 10 % less; a person waits for this.
const GZIP_LEVEL: u32 = 1;
/// As containerd and BuildKit have it.
const ZSTD_LEVEL: i32 = 3;

/// How a layer is stored for transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LayerCompression {
    /// Read by everything.
    #[default]
    Gzip,
    /// Smaller and faster; Docker reads it since 23.
    Zstd,
    /// As it is.
    None,
}

impl LayerCompression {
    const fn as_found(self) -> Compression {
        match self {
            Self::Gzip => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
            Self::None => Compression::None,
        }
    }
}

/// A folder that overlayfs wrote to as its upper one, no longer mounted.
#[derive(Debug, Clone, Copy)]
pub struct UpperLayer<'a> {
    /// On the file system of the store ([`Store::workspace`]); it is gone afterwards.
    pub upper: &'a Path,
    /// Chain id of the layer below.
    pub parent: Option<Digest>,
    /// `SOURCE_DATE_EPOCH`: no file is younger than this afterwards.
    pub epoch: Option<Timestamp>,
}

/// A layer of the store that was made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedLayer {
    /// Identifies it together with all below it.
    pub chain: Digest,
    /// Digest of its tar.
    pub diff_id: Digest,
    /// Chain id of the layer below.
    pub parent: Option<Digest>,
    /// Bytes of its tar.
    pub size: ByteSize,
    /// Files, folders, links and whiteouts in it; 0 when the step changed nothing.
    pub entries: u64,
}

/// A folder on the file system of the store, for what will become a layer. It is made when something is put in it, and removed
/// when dropped.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
}

impl Workspace {
    /// The folder, which exists then.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn path(&self) -> Result<&Path> {
        // Several threads may be here at once.
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(ImageError::io("create", &self.path)(error))
            }
            _ => Ok(&self.path),
        }
    }

    /// Makes a folder in it with the mode that `/` of a container has, for `upperdir`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path()?.join(name);
        make_layer_dir(&path)?;
        Ok(path)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // A leftover is cleared when the store is opened next.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Store {
    /// A folder for a build step to write to.
    #[must_use]
    pub fn workspace(&self) -> Workspace {
        Workspace {
            path: self.blobs.tmp_path(),
        }
    }

    /// Makes a layer of what a build step wrote, without copying it. The lease keeps it and all below it.
    ///
    /// # Errors
    /// When the parent is not here, when the folder holds what no layer can, or when the disk refuses.
    pub fn commit_layer(&self, lease: &Lease, layer: &UpperLayer<'_>) -> Result<CommittedLayer> {
        if let Some(parent) = layer.parent {
            lease.keep(Node::Layer(parent))?;
            self.require_layer(parent)?;
        }
        let epoch = layer
            .epoch
            .map(|epoch| i64::try_from(epoch.0 / 1000).unwrap_or(i64::MAX));
        let (hashed, extent) = write_layer(layer.upper, Care::TakeOver { epoch }, HashingWriter::new(io::sink()))?;
        let diff_id = hashed.digest();
        let chain = chain_id(layer.parent, diff_id);
        lease.keep(Node::Layer(chain))?;
        let _guard = self.busy_layers.lock(chain);
        if self.blobs.has_layer(chain) {
            fs::remove_dir_all(layer.upper).map_err(ImageError::io("remove", layer.upper))?;
        } else {
            let record = LayerRecord {
                parent: layer.parent,
                diff_id,
                extent,
                blob: None,
                made_here: true,
            };
            self.blobs.place_layer(layer.upper, chain, &record, &self.boot_id)?;
        }
        Ok(CommittedLayer {
            chain,
            diff_id,
            parent: layer.parent,
            size: ByteSize(hashed.size()),
            entries: extent.entries,
        })
    }

    /// The layers of a chain as lower folders for overlayfs, topmost first.
    ///
    /// # Errors
    /// When one of them is not unpacked here.
    pub fn chain_folders(&self, top: Digest) -> Result<Vec<PathBuf>> {
        let chain = self.chain(top)?;
        Ok(chain
            .iter()
            .rev()
            .map(|(chain, _)| self.blobs.layer_path(*chain))
            .collect())
    }

    /// The digests of the decompressed layers of a chain, the lowest first.
    ///
    /// # Errors
    /// When one of them is not unpacked here.
    pub fn chain_diff_ids(&self, top: Digest) -> Result<Vec<Digest>> {
        Ok(self.chain(top)?.into_iter().map(|(_, record)| record.diff_id).collect())
    }

    /// Whether the layer with this chain id is unpacked here, on one that is known to be here with all below it. As
    /// [`Store::has_chain`], without looking at every layer again.
    #[must_use]
    pub fn has_layer_on(&self, top: Digest, parent: Option<Digest>) -> bool {
        self.require_layer(top).is_ok_and(|record| record.parent == parent)
    }

    /// Whether the layer with this chain id is unpacked here, with all below it.
    #[must_use]
    pub fn has_chain(&self, top: Digest) -> bool {
        self.chain(top).is_ok()
    }

    /// The layer as it is stored for transfer: made when it is not there. A layer that came from elsewhere stays as it came.
    ///
    /// # Errors
    /// When the layer is not here or damaged, or when the disk refuses.
    pub fn layer_blob(&self, lease: &Lease, chain: Digest, compression: LayerCompression) -> Result<Descriptor> {
        lease.keep(Node::Layer(chain))?;
        let record = self.require_layer(chain)?;
        if let Some(blob) = self.blob_of(lease, &record, compression)? {
            return Ok(blob);
        }
        let _guard = self.busy_layers.lock(chain);
        // Somebody else may have made it while this waited.
        let mut record = self.require_layer(chain)?;
        if let Some(blob) = self.blob_of(lease, &record, compression)? {
            return Ok(blob);
        }
        let staged = self.pack(chain, &record, compression)?;
        lease.keep(Node::Blob(staged.digest))?;
        if self.blobs.size(staged.digest).is_none() {
            self.blobs.publish(&staged)?;
        }
        let blob = Descriptor::new(compression.as_found().layer_media_type(), staged.digest, staged.size);
        record.blob = Some(blob.clone());
        self.blobs.write_record(chain, &record)?;
        Ok(blob)
    }

    /// The blob that the record names, if it is here and compressed as asked.
    fn blob_of(
        &self,
        lease: &Lease,
        record: &LayerRecord,
        compression: LayerCompression,
    ) -> Result<Option<Descriptor>> {
        let Some(blob) = &record.blob else { return Ok(None) };
        lease.keep(Node::Blob(blob.digest))?;
        let is_here = self.blobs.size(blob.digest).is_some();
        if !record.made_here {
            return if is_here {
                Ok(Some(blob.clone()))
            } else {
                Err(ImageError::NotFound {
                    what: "blob",
                    name: blob.digest.to_string(),
                })
            };
        }
        let as_asked = blob.media_type == compression.as_found().layer_media_type();
        Ok((is_here && as_asked).then(|| blob.clone()))
    }

    fn pack(&self, chain: Digest, record: &LayerRecord, compression: LayerCompression) -> Result<crate::blobs::Staged> {
        let folder = self.blobs.layer_path(chain);
        let failed = |error| ImageError::io("compress", &folder)(error);
        let file = self.blobs.stage_writer()?;
        let (found, file) = match compression {
            LayerCompression::None => written(&folder, file)?,
            LayerCompression::Gzip => {
                let (found, gzip) = written(&folder, GzipWriter::new(file, GZIP_LEVEL).map_err(failed)?)?;
                (found, gzip.finish().map_err(failed)?)
            }
            LayerCompression::Zstd => {
                let (found, zstd) = written(&folder, zstd::Encoder::new(file, ZSTD_LEVEL).map_err(failed)?)?;
                (found, zstd.finish().map_err(failed)?)
            }
        };
        crate::blobs::check_digest(&format!("layer {chain} on disk"), record.diff_id, found)?;
        file.finish()
    }

    /// The layers of a chain with their records, the lowest first.
    pub(crate) fn chain(&self, top: Digest) -> Result<Vec<(Digest, LayerRecord)>> {
        let mut chain = Vec::new();
        let mut next = Some(top);
        while let Some(layer) = next {
            let record = self.require_layer(layer)?;
            next = record.parent;
            chain.push((layer, record));
            if chain.len() > crate::limits::IMAGE_LAYERS_MAX {
                return Err(ImageError::TooLarge {
                    what: format!("layer chain {top}"),
                    limit: crate::limits::IMAGE_LAYERS_MAX as u64,
                    unit: "layers",
                });
            }
        }
        chain.reverse();
        Ok(chain)
    }

    pub(crate) fn require_layer(&self, chain: Digest) -> Result<LayerRecord> {
        let record = if self.blobs.has_layer(chain) {
            self.blobs.layer_record(chain)
        } else {
            None
        };
        record.ok_or_else(|| ImageError::NotFound {
            what: "layer",
            name: chain.to_string(),
        })
    }
}

/// Writes the tar of a layer of the store and returns its digest and the sink.
fn written<W: Write>(folder: &Path, sink: W) -> Result<(Digest, W)> {
    let (hashed, _) = write_layer(folder, Care::LeaveAlone, HashingWriter::new(sink))?;
    let digest = hashed.digest();
    Ok((digest, hashed.into_sink()))
}

impl Write for StageWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
