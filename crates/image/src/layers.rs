//! `Store::unpack`: the layers of an image as folders for overlayfs.
//!
//! **Invariant:** a folder under `layers/` is complete and verified against its diff id: it is filled in `tmp/` and only then
//! renamed to its place. What a loss of power may have torn is known (`layer_record`) and dropped at the next start.
//! Layers do not depend on each other's files, so several are unpacked at once, each by a thread that decompresses and one that
//! writes.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use gantry_model::Digest;

use crate::blobs::{check_digest, make_layer_dir};
use crate::compress::decompress;
use crate::document::{Descriptor, Manifest};
use crate::error::{ImageError, Result};
use crate::keyed_lock::KeyedGuard;
use crate::layer_record::{Extent, LayerRecord, chain_ids, measure};
use crate::limits::Limits;
use crate::pipeline::{channel, pump};
use crate::store::{Store, lookup};
use crate::unpack::unpack_layer;

/// Layers unpacked at once, at most. More threads than processors only help while some wait for the disk.
const LAYERS_AT_ONCE_MAX: usize = 4;

/// A layer of an image: where it comes from and what it becomes.
#[derive(Debug, Clone)]
pub(crate) struct LayerPlan {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) chain: Digest,
    pub(crate) parent: Option<Digest>,
}

impl LayerPlan {
    fn record(&self, extent: Extent) -> LayerRecord {
        LayerRecord {
            parent: self.parent,
            diff_id: self.diff_id,
            extent,
            blob: Some(self.blob.clone()),
            made_here: false,
        }
    }
}

/// The layers of an image, the lowest first.
pub(crate) fn plan(layers: &[Descriptor], diff_ids: &[Digest]) -> Vec<LayerPlan> {
    let chain = chain_ids(diff_ids);
    let parents = std::iter::once(None).chain(chain.iter().copied().map(Some));
    let numbered = layers.iter().zip(diff_ids).zip(chain.iter().zip(parents));
    let layer = |((blob, diff_id), (chain, parent)): ((&Descriptor, &Digest), (&Digest, Option<Digest>))| LayerPlan {
        blob: blob.clone(),
        diff_id: *diff_id,
        chain: *chain,
        parent,
    };
    numbered.map(layer).collect()
}

/// A layer being filled in `tmp/`, removed unless it is put in its place.
pub(crate) struct Filling<'a> {
    store: &'a Store,
    tmp: PathBuf,
    layer: LayerPlan,
    _guard: KeyedGuard<'a>,
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        // Gone when it was renamed; else a leftover is cleared when the store is opened next.
        let _ = fs::remove_dir_all(&self.tmp);
    }
}

impl Filling<'_> {
    /// Unpacks the tar that `plain` gives, decompressed, and puts the layer in its place.
    pub(crate) fn fill(self, plain: impl Read) -> Result<()> {
        let what = format!("layer {}", self.layer.blob.digest);
        let (found, extent) = unpack_layer(plain, &self.tmp, &what, Limits::layer(self.layer.blob.size))?;
        check_digest(&format!("{what}, decompressed,"), self.layer.diff_id, found)?;
        let blobs = &self.store.blobs;
        blobs.place_layer(
            &self.tmp,
            self.layer.chain,
            &self.layer.record(extent),
            &self.store.boot_id,
        )
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
        let (pinned, image, chain) = self.pin_image(digest)?;
        self.touch(image);
        let is_ready = |chain: &Digest| self.blobs.has_layer(*chain) && self.blobs.layer_record(*chain).is_some();
        if !chain.iter().all(is_ready) {
            let manifest = Manifest::parse(image, &self.blobs.read_document(image)?)?;
            self.unpack_missing(plan(&manifest.layers, &self.config(image)?.diff_ids))?;
        }
        drop(pinned);
        Ok(chain.iter().rev().map(|chain| self.blobs.layer_path(*chain)).collect())
    }

    /// Chain id of the topmost layer of an image: what a build from it starts on. The image is unpacked if it is not yet.
    ///
    /// # Errors
    /// As [`Store::unpack`].
    pub fn top_layer(&self, digest: Digest) -> Result<Option<Digest>> {
        self.unpack(digest)?;
        let state = self.state();
        Ok(lookup(&state.catalog, digest)?.1.chain.last().copied())
    }

    fn pin_image(&self, digest: Digest) -> Result<(Pinned<'_>, Digest, Vec<Digest>)> {
        let mut state = self.state();
        let (image, entry) = lookup(&state.catalog, digest)?;
        let chain = entry.chain.clone();
        let digests: Vec<_> = std::iter::once(image).chain(chain.iter().copied()).collect();
        for digest in &digests {
            state.pin(*digest);
        }
        let pinned = Pinned { store: self, digests };
        Ok((pinned, image, chain))
    }

    fn unpack_missing(&self, layers: Vec<LayerPlan>) -> Result<()> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(LAYERS_AT_ONCE_MAX).min(layers.len());
        let queue = Mutex::new(VecDeque::from(layers));
        let failure = Mutex::new(None);
        let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let work = || {
            while let Some(layer) = take() {
                if let Err(error) = self.unpack_received(layer) {
                    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        failure
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    /// Unpacks a layer whose blob is here.
    pub(crate) fn unpack_received(&self, layer: LayerPlan) -> Result<()> {
        let digest = layer.blob.digest;
        if self.blobs.has_layer(layer.chain) && self.blobs.layer_record(layer.chain).is_none() {
            return self.record_old_layer(&layer);
        }
        let Some(filling) = self.begin_layer(layer)? else {
            return Ok(());
        };
        let blob = self.blobs.open_blob(digest)?;
        thread::scope(|scope| {
            let (sender, plain) = channel();
            scope.spawn(move || match decompress(blob) {
                Ok((_, plain)) => pump(plain, &sender),
                // Nobody listens once unpacking has failed.
                Err(error) => drop(sender.send(Err(error))),
            });
            filling.fill(plain)
        })
    }

    /// Layers of the first store format have no record; they were synced before they got their name.
    fn record_old_layer(&self, layer: &LayerPlan) -> Result<()> {
        let path = self.blobs.layer_path(layer.chain);
        let extent = measure(&path).map_err(ImageError::io("read", &path))?;
        self.blobs.write_record(layer.chain, &layer.record(extent))
    }

    /// Begins to fill a layer; none when it is there, made by somebody else meanwhile perhaps. Nobody waits for a second layer
    /// while filling one, so this cannot end in a deadlock.
    pub(crate) fn begin_layer(&self, layer: LayerPlan) -> Result<Option<Filling<'_>>> {
        if self.blobs.has_layer(layer.chain) {
            return Ok(None);
        }
        let guard = self.busy_layers.lock(layer.chain);
        if self.blobs.has_layer(layer.chain) {
            return Ok(None);
        }
        let filling = Filling {
            store: self,
            tmp: self.blobs.tmp_path(),
            layer,
            _guard: guard,
        };
        make_layer_dir(&filling.tmp)?;
        Ok(Some(filling))
    }
}
