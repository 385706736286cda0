//! `Store::unpack`: the layers of an image as folders for overlayfs.
//!
//! **Invariant:** a folder under `layers/` is complete, verified against its diff id, and on disk for good: it is filled in
//! `tmp/`, synced, and only then renamed to its place.

use std::fs::{self, File};
use std::path::PathBuf;

use gantry_model::Digest;

use crate::blobs::{check_digest, make_layer_dir, sync_dir};
use crate::error::{ImageError, Result};
use crate::keyed_lock::KeyedGuard;
use crate::limits::Limits;
use crate::store::{Store, lookup};
use crate::unpack::unpack_layer;

/// A layer filled in `tmp/`, removed unless it is put in its place.
struct Filled<'a> {
    tmp: PathBuf,
    chain: Digest,
    _guard: KeyedGuard<'a>,
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        // Gone when it was renamed; else a leftover is cleared when the store is opened next.
        let _ = fs::remove_dir_all(&self.tmp);
    }
}

/// Keeps an image and its layers from being removed.
struct Pinned<'a> {
    store: &'a Store,
    digests: Vec<Digest>,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for digest in &self.digests {
            state.unpin(*digest);
        }
    }
}

impl Store {
    /// The image's layers as lower folders for overlayfs, topmost first; those not unpacked yet are unpacked. Empty for an
    /// image without layers. The caller names the image as in use before it asks, and until nothing is mounted from it.
    ///
    /// # Errors
    /// When the image is not here, a layer is damaged or hostile, or the disk refuses; no layer is then half there.
    pub fn unpack(&self, digest: Digest) -> Result<Vec<PathBuf>> {
        let (pinned, layers, chain) = self.pin_image(digest)?;
        let diff_ids = self.config(digest)?.diff_ids;
        let mut filled = Vec::new();
        // Chain ids lead from the lowest layer up in every image, so holding several locks cannot end in a deadlock.
        for ((layer, chain), diff_id) in layers.iter().zip(&chain).zip(&diff_ids) {
            if self.blobs.layer_path(*chain).exists() {
                continue;
            }
            let guard = self.busy.lock(*chain);
            if !self.blobs.layer_path(*chain).exists() {
                filled.push(self.fill(*layer, *chain, *diff_id, guard)?);
            }
        }
        self.put_in_place(&filled)?;
        drop(pinned);
        Ok(chain.iter().rev().map(|chain| self.blobs.layer_path(*chain)).collect())
    }

    fn pin_image(&self, digest: Digest) -> Result<(Pinned<'_>, Vec<Digest>, Vec<Digest>)> {
        let mut state = self.state();
        let (image, entry) = lookup(&state.catalog, digest)?;
        let (layers, chain) = (entry.layers.clone(), entry.chain.clone());
        let digests: Vec<_> = std::iter::once(image).chain(chain.iter().copied()).collect();
        for digest in &digests {
            state.pin(*digest);
        }
        let pinned = Pinned { store: self, digests };
        Ok((pinned, layers, chain))
    }

    fn fill<'a>(&self, layer: Digest, chain: Digest, diff_id: Digest, guard: KeyedGuard<'a>) -> Result<Filled<'a>> {
        let what = format!("layer {layer}");
        let filled = Filled {
            tmp: self.blobs.tmp_path(),
            chain,
            _guard: guard,
        };
        make_layer_dir(&filled.tmp)?;
        let blob = self.blobs.open_blob(layer)?;
        let found = unpack_layer(blob, &filled.tmp, &what, Limits::LAYER)?;
        check_digest(&format!("{what}, decompressed,"), diff_id, found)?;
        Ok(filled)
    }

    fn put_in_place(&self, filled: &[Filled<'_>]) -> Result<()> {
        if filled.is_empty() {
            return Ok(());
        }
        let layers = self.blobs.layers_dir();
        let sync = || {
            // One sync for all files of all layers, instead of one for each of them.
            rustix::fs::syncfs(File::open(&layers)?)?;
            for layer in filled {
                fs::rename(&layer.tmp, self.blobs.layer_path(layer.chain))?;
            }
            sync_dir(&layers)
        };
        sync().map_err(ImageError::io("store layers in", &layers))
    }
}
