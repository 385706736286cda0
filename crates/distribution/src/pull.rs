//! Pull: from a reference to an image in the store, unpacked.
//!
//! **Invariant:** the store checks every digest; a blob is visible only once it is right, and an image only once it is whole.
//! What came of a blob before something broke stays in the store, also across a restart of this process, and is not fetched again.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use gantry_image::{Descriptor, ImageError, Store};
use gantry_model::{Digest, ImageReference};
use tokio::sync::mpsc;

use crate::blob::BlobReader;
use crate::client::{Client, asked_manifest};
use crate::endpoint::Endpoint;
use crate::error::{Asked, Cause, DistributionError, Result};
use crate::limits::{INDEX_CHILDREN_MAX, PIECES_MAX};
use crate::manifest::{Entry, FetchedManifest, ManifestKind, Parts, Platform};
use crate::options::Keychain;
use crate::progress::{Phase, Progress, Track};

/// Attempts at a blob whose content is wrong: what a mirror or a cut connection spoiled may be right the second time.
const WRONG_CONTENT_ATTEMPTS: u32 = 2;
/// Indexes within indexes; honest images have one or two.
const INDEX_DEPTH_MAX: usize = 4;

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest<'a> {
    /// What it is called; the name it gets in the store, unless it is pinned by digest alone.
    pub reference: &'a ImageReference,
    /// Which image of an index; this machine's without one.
    pub platform: Option<&'a Platform>,
    /// Who asks.
    pub keychain: &'a Keychain,
    /// Lay the layers out as files, too.
    pub unpack: bool,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Of the image's manifest.
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
        let resolved = top.digest;
        let manifest = self.choose(top).await?;
        let parts = Parts::parse(&manifest.bytes).map_err(|cause| cause.at(&self.asked()))?;
        track.end(Phase::Done);
        let image = manifest.digest;
        let was_here = self.take_manifest(&manifest).await? && self.is_whole(image).await?;
        let blobs = unique(&parts);
        try_join_all(blobs.iter().map(|entry| self.take_blob(entry))).await?;
        let tag = reference.clone();
        self.blocking(move |store| {
            store.commit_image(image)?;
            match tag.tag() {
                Some(_) => store.tag(&tag, image),
                None => Ok(()),
            }
        })
        .await?;
        if self.request.unpack {
            self.unpack(image, &parts).await?;
        }
        for entry in parts.layers.iter().flatten() {
            self.track(entry)
                .end(if was_here { Phase::Exists } else { Phase::Done });
        }
        Ok(Pulled {
            image,
            resolved,
            was_here,
        })
    }

    /// The image's manifest that an index leads to on the platform.
    async fn choose(&self, top: FetchedManifest) -> Result<FetchedManifest> {
        let own = Platform::of_this_machine();
        let platform = self.request.platform.unwrap_or(&own);
        let mut manifest = top;
        for _ in 0..INDEX_DEPTH_MAX {
            if manifest.kind == ManifestKind::Image {
                return Ok(manifest);
            }
            let at = |cause: Cause| cause.at(&self.asked());
            let parts = Parts::parse(&manifest.bytes).map_err(at)?;
            let entries = parts.manifests.unwrap_or_default();
            if entries.len() > INDEX_CHILDREN_MAX {
                return Err(at(Cause::malformed(format!(
                    "an index of {} images, at most {INDEX_CHILDREN_MAX} are taken",
                    entries.len()
                ))));
            }
            let chosen = platform.choose(&entries).map_err(at)?;
            let child = self.request.reference.clone().with_digest(chosen.digest);
            manifest = self.client.fetch_manifest(&child, self.request.keychain).await?;
            if manifest.bytes.len() as u64 != chosen.size {
                return Err(at(Cause::WrongSize {
                    expected: chosen.size,
                    found: manifest.bytes.len() as u64,
                }));
            }
        }
        Err(Cause::malformed("indexes within indexes without end").at(&self.asked()))
    }

    /// Stores a manifest; whether it was there.
    async fn take_manifest(&self, manifest: &FetchedManifest) -> Result<bool> {
        let size = manifest.bytes.len() as u64;
        let descriptor = Descriptor::new(manifest.media_type.clone(), manifest.digest, size);
        let bytes = manifest.bytes.clone();
        self.blocking(move |store| {
            let was_here = store.open_blob(descriptor.digest).is_ok();
            store.put_blob(&descriptor, bytes.as_ref())?;
            Ok(was_here)
        })
        .await
    }

    async fn is_whole(&self, image: Digest) -> Result<bool> {
        self.blocking(move |store| Ok(store.missing(image)?.is_empty())).await
    }

    /// Makes sure that the store has a blob.
    async fn take_blob(&self, entry: &Entry) -> Result<()> {
        let track = self.track(entry);
        let digest = entry.digest;
        track.at(Phase::Waiting, 0);
        let turn = self.client.coming(digest);
        let _turn = turn.lock().await;
        if self.blocking(move |store| Ok(store.open_blob(digest).is_ok())).await? {
            track.end(Phase::Exists);
            return Ok(());
        }
        let descriptor = entry.descriptor();
        let mut attempt = 1;
        loop {
            let error = match self.fetch(&descriptor, &track, attempt).await {
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
    async fn fetch(&self, blob: &Descriptor, track: &Track<'_>, attempt: u32) -> Result<()> {
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
            .blob(self.request.reference, blob, offset, self.request.keychain)?;
        if attempt > 1 {
            source.read_from_origin();
        }
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let (store, descriptor) = (self.store.clone(), blob.clone());
        let writer =
            tokio::task::spawn_blocking(move || store.resume_blob(&descriptor, offset, PieceReader::new(receiver)));
        let sent = feed(&mut source, sender, offset, track).await;
        let written = writer.await.expect("the store does not panic");
        let asked = source.asked().clone();
        // Why the network failed explains more than that the store got too little.
        sent?;
        written.map_err(|error| store_error(error, &asked))
    }

    async fn unpack(&self, image: Digest, parts: &Parts) -> Result<()> {
        for entry in parts.layers.iter().flatten() {
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

/// Every blob once: images repeat empty layers.
fn unique(parts: &Parts) -> Vec<Entry> {
    let mut blobs: Vec<Entry> = Vec::new();
    for blob in parts.blobs() {
        if !blobs.iter().any(|listed| listed.digest == blob.digest) {
            blobs.push(blob.clone());
        }
    }
    blobs
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
