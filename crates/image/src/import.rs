//! `Store::import_rootfs`: a root filesystem becomes an image of one layer.

use std::io::Read;

use gantry_model::ImageReference;

use crate::batch::{Batch, NewImage};
use crate::blobs::Staged;
use crate::compress::decompress;
use crate::config::ImportOptions;
use crate::document::{CONFIG_OCI, Descriptor, Manifest, to_json};
use crate::error::{ImageError, Result};
use crate::hashing::{HashingReader, digest_of};
use crate::limits::Limits;
use crate::store::{ImageInfo, Store};
use crate::tarball::{TarError, TarReader};

use gantry_model::Digest;

const WHAT: &str = "the root filesystem";

impl Store {
    /// Makes an image named `reference` of the tar of a root filesystem, plain or compressed by gzip or zstd. The tar is kept
    /// as it came, so that the same input makes the same image.
    ///
    /// # Errors
    /// When the tar cannot be read to its end mark, is too large, or the options are wrong.
    pub fn import_rootfs(
        &self,
        mut source: impl Read,
        reference: &ImageReference,
        options: &ImportOptions,
    ) -> Result<ImageInfo> {
        // Wrong options are told before a long transfer, not after it.
        options.to_config(digest_of(b""))?;
        let staged = self.blobs.stage(|buffer| read_source(&mut source, buffer, WHAT))?;
        let diff_id = scan(&staged)?;
        let config = options.to_config(diff_id)?;
        let mut batch = Batch::new(self);
        batch.add(&staged)?;
        let config_digest = batch.add_bytes(&config)?;
        let manifest = to_json(&Manifest::new(
            Descriptor::new(CONFIG_OCI, config_digest, config.len() as u64),
            vec![Descriptor::new(
                staged.compression.layer_media_type(),
                staged.digest,
                staged.size,
            )],
        ));
        let digest = batch.add_bytes(&manifest)?;
        batch.commit(vec![NewImage::named(digest, vec![reference.clone()])])?;
        self.info(digest)
    }
}

/// Reads the tar from its first to its last byte and returns the digest of what it decompresses to.
fn scan(staged: &Staged) -> Result<Digest> {
    let archive = |source| ImageError::Archive {
        what: WHAT.to_string(),
        source,
    };
    let (_, plain) = decompress(staged.open()?).map_err(|error| archive(TarError::Read(error)))?;
    let mut hashing = HashingReader::new(plain);
    let mut tar = TarReader::new(&mut hashing, Limits::LAYER);
    while tar.next_member().map_err(archive)?.is_some() {}
    if !tar.is_complete() {
        return Err(archive(TarError::Truncated { bytes: tar.position() }));
    }
    tar.drain().map_err(archive)?;
    Ok(hashing.digest())
}

/// Reads from what a caller gave.
pub(crate) fn read_source(source: &mut impl Read, buffer: &mut [u8], what: &str) -> Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => {
                return result.map_err(|source| ImageError::Source {
                    what: what.to_string(),
                    source,
                });
            }
        }
    }
}
