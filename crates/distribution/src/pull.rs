//! Pull: from a reference to an image in the store, unpacked.
//!
//! **Invariant:** the store checks every digest; a blob is visible only once it is right, and an image only once it is whole.
//! What came of a blob before something broke stays in the store, also across a restart of this process, and is not fetched again.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::try_join_all;
use gantry_image::{Descriptor, ImageError, Lease, Node, Platform, Store};
use gantry_model::{Digest, DurationMs, ImageReference};
use tokio::sync::mpsc;

use crate::blob::BlobReader;
use crate::client::{Client, asked_manifest};
use crate::endpoint::Endpoint;
use crate::error::{Asked, Cause, DistributionError, Result};
use crate::limits::{INDEX_CHILDREN_MAX, PIECES_MAX};
use crate::manifest::{Entry, FetchedManifest, ManifestKind, Parts, choose};
use crate::options::Keychain;
use crate::progress::{Phase, Progress, Track};
use crate::transport::lock;

/// Attempts at a blob whose content is wrong: what a mirror or a cut connection spoiled may be right the second time.
const WRONG_CONTENT_ATTEMPTS: u32 = 2;
/// Indexes within indexes; honest images have one or two.
const INDEX_DEPTH_MAX: usize = 4;
/// Longer than a pull takes; what came is kept for so long after a crash.
const LEASE: DurationMs = DurationMs(24 * 3_600_000);
/// What came of a pull that failed is kept for so long.
const RETRY_LEASE: DurationMs = DurationMs(3_600_000);

/// Which images of an index.
#[derive(Debug, Clone, Copy, Default)]
pub enum Platforms<'a> {
    /// The one for this machine.
    #[default]
    Own,
    /// The one for this platform.
    One(&'a Platform),
    /// Everything it lists, attestations included, so that it can be pushed whole.
    All,
}

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest<'a> {
    /// What it is called; the name it gets in the store, unless it is pinned by digest alone.
    pub reference: &'a ImageReference,
    /// Which images of an index.
    pub platforms: Platforms<'a>,
    /// Who asks.
    pub keychain: &'a Keychain,
    /// Lay the layers out as files, too.
    pub unpack: bool,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Of the image's manifest; of several images, the one for this machine if there is one.
    pub image: Digest,
    /// What the reference means at the registry: the image's manifest, or the index it was chosen from.
    pub resolved: Digest,
    /// Whether nothing had to be fetched.
    pub was_here: bool,
}

impl Client {
    /// Brings an image into the store, gives it its name there, and tells every layer's progress.
    ///
    /// # Errors
    /// When neither mirrors nor the registry have it in a usable form, or the store refuses; the next attempt goes on from what
    /// has come.
    pub async fn pull(&self, store: &Arc<Store>, request: PullRequest<'_>, progress: &dyn Progress) -> Result<Pulled> {
        let pull = Pull {
            client: self,
            store,
            request: &request,
            progress,
        };
        pull.run().await
    }
}

struct Pull<'a> {
    client: &'a Client,
    store: &'a Arc<Store>,
    request: &'a PullRequest<'a>,
    progress: &'a dyn Progress,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Pulled> {
        let reference = self.request.reference;
        let env = self.client.transport.env.as_ref();
        let track = Track::new(self.progress, env, "manifest", 0);
        track.at(Phase::Downloading, 0);
        let top = self.client.fetch_manifest(reference, self.request.keychain).await?;
        let lease = self.blocking(|store| store.lease(LEASE)).await?;
        let kept = Arc::new(Kept {
            lease,
            blobs: Mutex::default(),
        });
        let outcome = self.run_under(&kept, top, &track).await;
        if outcome.is_err() {
            self.keep_for_later(&kept).await;
        }
        outcome
    }

    async fn run_under(&self, kept: &Arc<Kept>, top: FetchedManifest, track: &Track<'_>) -> Result<Pulled> {
        let resolved = top.digest;
        let images = self.manifests(kept, &top).await?;
        track.end(Phase::Done);
        let mut was_here = true;
        let mut parts = Vec::new();
        for image in &images {
            let image_parts = Parts::parse(&image.bytes).map_err(|cause| cause.at(&self.asked()))?;
            was_here &= self.take_manifest(kept, image).await? && self.is_whole(image.digest).await?;
            parts.push(image_parts);
        }
        self.take_blobs(kept, &images, &parts).await?;
        let image = self.enter(&top, &images).await?;
        if self.request.unpack {
            self.unpack(image, &parts).await?;
        }
        for entry in parts.iter().flat_map(|parts| parts.layers.iter().flatten()) {
            self.track(entry)
                .end(if was_here { Phase::Exists } else { Phase::Done });
        }
        Ok(Pulled {
            image,
            resolved,
            was_here,
        })
    }

    /// Whoever tries again soon finds what has come. Failing to see to that costs a transfer, so it is no more news than the
    /// failure of the pull.
    async fn keep_for_later(&self, kept: &Arc<Kept>) {
        let kept = kept.clone();
        let later = self.blocking(move |store| {
            let lease = store.lease(RETRY_LEASE)?;
            for blob in lock(&kept.blobs).iter() {
                lease.keep(Node::Blob(*blob))?;
            }
            // It goes by itself.
            let _ = lease.detach();
            Ok(())
        });
        if let Err(error) = later.await {
            tracing::debug!(%error, "registry: what came of a failed pull is not kept");
        }
    }

    /// The manifests of the images that are wanted of what the reference means.
    async fn manifests(&self, kept: &Arc<Kept>, top: &FetchedManifest) -> Result<Vec<FetchedManifest>> {
        let own = Platform::of_this_machine();
        let mut images = Vec::new();
        let mut queue = vec![(top.clone(), 0)];
        while let Some((manifest, depth)) = queue.pop() {
            if manifest.kind == ManifestKind::Image {
                images.push(manifest);
                continue;
            }
            let at = |cause: Cause| cause.at(&self.asked());
            if depth == INDEX_DEPTH_MAX {
                return Err(at(Cause::malformed("indexes within indexes without end")));
            }
            let entries = Parts::parse(&manifest.bytes).map_err(at)?.manifests.unwrap_or_default();
            if entries.len() + images.len() > INDEX_CHILDREN_MAX {
                let reason = format!("an index of more than {INDEX_CHILDREN_MAX} images");
                return Err(at(Cause::malformed(reason)));
            }
            let chosen = match self.request.platforms {
                Platforms::Own => vec![choose(&own, &entries).map_err(at)?],
                Platforms::One(platform) => vec![choose(platform, &entries).map_err(at)?],
                Platforms::All => entries.iter().collect(),
            };
            if self.keeps_index() {
                self.take_manifest(kept, &manifest).await?;
            }
            for entry in chosen {
                queue.push((self.child(entry).await?, depth + 1));
            }
        }
        Ok(images)
    }

    async fn child(&self, entry: &Entry) -> Result<FetchedManifest> {
        let name = self.request.reference.clone().with_digest(entry.digest);
        let manifest = self.client.fetch_manifest(&name, self.request.keychain).await?;
        let found = manifest.bytes.len() as u64;
        if found != entry.size {
            let expected = entry.size;
            return Err(Cause::WrongSize { expected, found }.at(&self.asked()));
        }
        Ok(manifest)
    }

    /// Whether the name is to mean the index: one platform asked for by name is that image and no other.
    const fn keeps_index(&self) -> bool {
        match self.request.platforms {
            Platforms::Own | Platforms::All => true,
            Platforms::One(_) => false,
        }
    }

    /// Enters what came into the catalog, under its name; the image for this machine, or the only one.
    async fn enter(&self, top: &FetchedManifest, images: &[FetchedManifest]) -> Result<Digest> {
        let first = images.first().map(|image| image.digest);
        let target = match self.request.platforms {
            Platforms::One(_) => first.unwrap_or(top.digest),
            Platforms::Own | Platforms::All => top.digest,
        };
        let tag = self.request.reference.clone();
        self.blocking(move |store| {
            let image = store.commit_image(target)?.digest;
            if tag.tag().is_some() {
                store.tag(&tag, target)?;
            }
            Ok(image)
        })
        .await
    }

    /// Stores a manifest; whether it was there.
    async fn take_manifest(&self, kept: &Arc<Kept>, manifest: &FetchedManifest) -> Result<bool> {
        let size = manifest.bytes.len() as u64;
        let descriptor = Descriptor::new(manifest.media_type.clone(), manifest.digest, size);
        let bytes = manifest.bytes.clone();
        let kept = kept.clone();
        self.blocking(move |store| {
            kept.keep(descriptor.digest)?;
            let was_here = store.open_blob(descriptor.digest).is_ok();
            store.put_blob(&descriptor, bytes.as_ref())?;
            Ok(was_here)
        })
        .await
    }

    async fn is_whole(&self, image: Digest) -> Result<bool> {
        self.blocking(move |store| Ok(store.missing(image)?.is_empty())).await
    }

    /// Configurations first: they say what the layers become, so these can be unpacked while they arrive.
    async fn take_blobs(&self, kept: &Arc<Kept>, images: &[FetchedManifest], parts: &[Parts]) -> Result<()> {
        let mut configs: Vec<Wanted> = Vec::new();
        let mut layers: Vec<Wanted> = Vec::new();
        for (image, parts) in images.iter().zip(parts) {
            add_once(&mut configs, parts.config.iter(), kept, None);
            // Of several images only this machine's is of use as files.
            let unpacks = self.request.unpack && images.len() == 1;
            add_once(
                &mut layers,
                parts.layers.iter().flatten(),
                kept,
                unpacks.then_some(image.digest),
            );
        }
        try_join_all(configs.iter().map(|wanted| self.take_blob(wanted))).await?;
        try_join_all(layers.iter().map(|wanted| self.take_blob(wanted))).await?;
        Ok(())
    }

    /// Makes sure that the store has a blob.
    async fn take_blob(&self, wanted: &Wanted) -> Result<()> {
        let entry = &wanted.entry;
        let track = self.track(entry);
        let digest = entry.digest;
        track.at(Phase::Waiting, 0);
        let turn = self.client.coming(digest);
        let _turn = turn.lock().await;
        let kept = wanted.kept.clone();
        let is_here = self.blocking(move |store| {
            // Before looking, so that it does not go in between.
            kept.keep(digest)?;
            Ok(store.open_blob(digest).is_ok())
        });
        if is_here.await? {
            track.end(Phase::Exists);
            return Ok(());
        }
        let mut attempt = 1;
        loop {
            let error = match self.fetch(wanted, &track, attempt).await {
                Ok(()) => {
                    track.end(Phase::Done);
                    return Ok(());
                }
                Err(error) => error,
            };
            let is_wrong = matches!(error.cause, Cause::WrongDigest { .. });
            if !is_wrong || attempt == WRONG_CONTENT_ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(%error, "registry: wrong content is fetched once more");
            track.retrying(0, &error.cause);
            attempt += 1;
        }
    }

    /// One transfer of a blob, from where the last one ended.
    async fn fetch(&self, wanted: &Wanted, track: &Track<'_>, attempt: u32) -> Result<()> {
        let blob = wanted.entry.descriptor();
        let digest = blob.digest;
        let offset = match attempt {
            1 => self.blocking(move |store| Ok(store.partial_len(digest))).await?,
            _ => 0,
        };
        // More than the whole cannot be the beginning of it.
        let offset = if blob.size.is_some_and(|size| offset > size) {
            0
        } else {
            offset
        };
        let mut source = self
            .client
            .blob(self.request.reference, &blob, offset, self.request.keychain)?;
        if attempt > 1 {
            source.read_from_origin();
        }
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let (store, kept, unpack_into) = (self.store.clone(), wanted.kept.clone(), wanted.unpack_into);
        // A thread for each layer on its way, not for those that wait.
        source.wait_for_slot().await;
        let writer = tokio::task::spawn_blocking(move || {
            let pieces = PieceReader::new(receiver);
            match unpack_into {
                Some(image) => store.resume_layer(&kept.lease, image, &blob, offset, pieces),
                None => store.resume_blob(&blob, offset, pieces),
            }
        });
        let sent = feed(&mut source, sender, offset, track).await;
        let written = writer.await.expect("the store does not panic");
        let asked = source.asked().clone();
        // Why the network failed explains more than that the store got too little.
        sent?;
        written.map_err(|error| store_error(error, &asked))
    }

    async fn unpack(&self, image: Digest, parts: &[Parts]) -> Result<()> {
        for entry in parts.iter().flat_map(|parts| parts.layers.iter().flatten()) {
            self.track(entry).at(Phase::Extracting, 0);
        }
        self.blocking(move |store| store.unpack(image).map(drop)).await
    }

    fn track(&self, entry: &Entry) -> Track<'_> {
        let env = self.client.transport.env.as_ref();
        Track::new(self.progress, env, entry.digest.to_string(), entry.size)
    }

    fn asked(&self) -> Asked {
        let reference = self.request.reference;
        match Endpoint::origin(reference.registry(), &self.client.transport.options) {
            Ok(endpoint) => asked_manifest(&endpoint, reference),
            Err(error) => *error.asked,
        }
    }

    /// Something on the store, on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || act(&store)).await;
        done.expect("the store does not panic")
            .map_err(|error| store_error(error, &self.asked()))
    }
}

/// Wrong content is the registry's fault, the rest the store's.
fn store_error(error: ImageError, asked: &Asked) -> DistributionError {
    match error {
        ImageError::WrongDigest { expected, found, .. } => Cause::WrongDigest { expected, found },
        error => Cause::Store(Box::new(error)),
    }
    .at(asked)
}

/// What the store is not to collect while it is not in the catalog yet.
struct Kept {
    lease: Lease,
    blobs: Mutex<BTreeSet<Digest>>,
}

impl Kept {
    fn keep(&self, blob: Digest) -> Result<(), ImageError> {
        self.lease.keep(Node::Blob(blob))?;
        lock(&self.blobs).insert(blob);
        Ok(())
    }
}

/// A blob to fetch.
struct Wanted {
    entry: Entry,
    kept: Arc<Kept>,
    /// The image whose layer it is, if it is to be laid out as files.
    unpack_into: Option<Digest>,
}

/// Every blob once: images repeat empty layers, and share them.
fn add_once<'a>(
    all: &mut Vec<Wanted>,
    entries: impl Iterator<Item = &'a Entry>,
    kept: &Arc<Kept>,
    unpack_into: Option<Digest>,
) {
    for entry in entries {
        if !all.iter().any(|wanted| wanted.entry.digest == entry.digest) {
            all.push(Wanted {
                entry: entry.clone(),
                kept: kept.clone(),
                unpack_into,
            });
        }
    }
}

/// Hands pieces over to the thread that writes them. It is not told of an end that is none, so what came is kept.
async fn feed(
    source: &mut BlobReader<'_>,
    sender: mpsc::Sender<Option<Bytes>>,
    offset: u64,
    track: &Track<'_>,
) -> Result<()> {
    let mut position = offset;
    track.at(Phase::Downloading, position);
    loop {
        let next = source.next().await;
        if let Some(why) = source.take_retried() {
            track.retrying(position, &why);
        }
        let Some(piece) = next? else { break };
        position += piece.len() as u64;
        track.at(Phase::Downloading, position);
        if sender.send(Some(piece)).await.is_err() {
            // The writer has ended and says why itself.
            return Ok(());
        }
    }
    track.at(Phase::Verifying, position);
    // As above.
    let _ = sender.send(None).await;
    Ok(())
}

/// Pieces as a reader for a thread that may block.
struct PieceReader {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    is_complete: bool,
}

impl PieceReader {
    const fn new(receiver: mpsc::Receiver<Option<Bytes>>) -> Self {
        Self {
            receiver,
            piece: Bytes::new(),
            is_complete: false,
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.is_complete {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.is_complete = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the transfer was cut off",
                    ));
                }
            }
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
