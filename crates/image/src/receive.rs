//! `Store::resume_layer`: a layer is unpacked while it arrives, so that a pull is one pass over its bytes.
//!
//! The caller's thread writes and hashes what comes; one thread decompresses it, another one writes the files.
//! **Invariant:** a layer that arrived damaged is told as such, whatever the damage made of its tar, and nothing of it stays; one
//! that broke off stays as a partial blob, as with [`Store::resume_blob`].

use std::io::Read;
use std::thread;

use gantry_model::Digest;

use crate::compress::decompress;
use crate::config::ImageConfig;
use crate::document::{Descriptor, Manifest};
use crate::error::{ImageError, Result};
use crate::layers::{LayerPlan, plan};
use crate::lease::{Lease, Node};
use crate::pipeline::{channel, pump};
use crate::store::Store;

impl Store {
    /// Receives the layer `blob` of an image whose manifest and configuration are here, from byte `offset` on (which must be
    /// [`Store::partial_len`], or 0 to start anew), and unpacks it meanwhile. [`Store::commit_image`] enters the image once all
    /// its layers have come; the lease keeps this one until then. Several layers may arrive at once.
    ///
    /// # Errors
    /// As [`Store::resume_blob`], and when the layer cannot be unpacked; the blob is then here nevertheless.
    pub fn resume_layer(
        &self,
        lease: &Lease,
        image: Digest,
        blob: &Descriptor,
        offset: u64,
        source: impl Read,
    ) -> Result<()> {
        lease.keep(Node::Blob(blob.digest))?;
        let layer = self.layer_of(image, blob.digest)?;
        lease.keep(Node::Layer(layer.chain))?;
        let _guard = self.busy.lock(blob.digest);
        if self.blobs.size(blob.digest).is_some() {
            return self.unpack_received(layer);
        }
        let Some(filling) = self.begin_layer(layer)? else {
            return self.blobs.receive(blob, offset, source, |_| {});
        };
        let (received, unpacked) = thread::scope(|scope| {
            let (arriving, compressed) = channel();
            let (decompressed, plain) = channel();
            scope.spawn(move || match decompress(compressed) {
                Ok((_, reader)) => pump(reader, &decompressed),
                // Nobody listens once unpacking has failed.
                Err(error) => drop(decompressed.send(Err(error))),
            });
            let unpacking = scope.spawn(move || filling.fill(plain));
            let mut listens = true;
            let received = self.blobs.receive(blob, offset, source, |bytes| {
                // The rest is received all the same: only its digest says whether the layer or the transfer is at fault.
                listens = listens && arriving.send(Ok(bytes.to_vec())).is_ok();
            });
            drop(arriving);
            (received, unpacking.join())
        });
        received?;
        unpacked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The layer with this blob; where an image has it several times, the lowest, and the others are unpacked with the image.
    fn layer_of(&self, image: Digest, blob: Digest) -> Result<LayerPlan> {
        let manifest = Manifest::parse(image, &self.blobs.read_document(image)?)?;
        manifest.require_image(image)?;
        let config = manifest.config.digest;
        let config = ImageConfig::parse(config, &self.blobs.read_document(config)?)?;
        let mut layers = plan(&manifest.layers, &config.diff_ids).into_iter();
        layers
            .find(|layer| layer.blob.digest == blob)
            .ok_or_else(|| ImageError::NotFound {
                what: "layer of the image",
                name: blob.to_string(),
            })
    }
}
