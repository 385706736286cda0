//! Push: an image of the store to a registry: layers side by side, then the configuration, then the manifest, so that a registry
//! never has a manifest whose content is missing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use gantry_image::{ImageError, Platform, Store};
use gantry_model::{Digest, ImageReference};

use crate::client::{Client, asked_manifest};
use crate::endpoint::Endpoint;
use crate::error::{Asked, Cause, DistributionError, Result};
use crate::limits::{INDEX_CHILDREN_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Entry, ManifestKind, Parts};
use crate::options::Keychain;
use crate::progress::{Phase, Progress, Track};
use crate::upload::Outbound;

/// Types of layers that may not be distributed (OCI image specification, "Non-distributable layers"; Docker's foreign layers).
const NOT_DISTRIBUTED: [&str; 2] = ["nondistributable", ".foreign."];

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest<'a> {
    /// Where to: registry, repository and tag.
    pub reference: &'a ImageReference,
    /// The image or index of the store; what the reference means there without one. Of an index that is not whole, the image for
    /// this machine is sent.
    pub image: Option<Digest>,
    /// Who asks.
    pub keychain: &'a Keychain,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// What the reference means at the registry now.
    pub digest: Digest,
    /// Bytes of its manifest.
    pub size: u64,
}

impl Client {
    /// Sends an image of the store, without what the registry has already.
    ///
    /// # Errors
    /// When the image is not here or not whole, or the registry refuses.
    pub async fn push(&self, store: &Arc<Store>, request: PushRequest<'_>, progress: &dyn Progress) -> Result<Pushed> {
        let endpoint = Endpoint::origin(request.reference.registry(), &self.transport.options)?;
        let push = Push {
            client: self,
            store,
            asked: asked_manifest(&endpoint, request.reference),
            request: &request,
            progress,
            sources: mount_sources(store, request.reference).await,
        };
        let image = push.sendable(push.target()?).await?;
        let bytes = push.manifest(image).await?;
        let size = bytes.len() as u64;
        let reference = request.reference.clone();
        let target = match reference.tag() {
            Some(_) => reference.without_digest(),
            None => reference.with_digest(image),
        };
        push.send(&target, bytes).await?;
        Ok(Pushed { digest: image, size })
    }
}

struct Push<'a> {
    client: &'a Client,
    store: &'a Arc<Store>,
    asked: Asked,
    request: &'a PushRequest<'a>,
    progress: &'a dyn Progress,
    /// Repositories of the same registry by the blobs they should have.
    sources: BTreeMap<Digest, String>,
}

impl Push<'_> {
    /// The image or index that is asked for.
    fn target(&self) -> Result<Digest> {
        let reference = self.request.reference;
        let found = self.request.image.or_else(|| self.store.target(reference));
        found.ok_or_else(|| {
            let error = ImageError::NotFound {
                what: "image",
                name: reference.familiar(),
            };
            Cause::Store(Box::new(error)).at(&self.asked)
        })
    }

    /// The target itself; of an index whose images are neither all here nor at the registry, the one for this machine, since the
    /// registry would refuse the index.
    async fn sendable(&self, target: Digest) -> Result<Digest> {
        let parts = Parts::parse(&self.manifest(target).await?).map_err(|cause| cause.at(&self.asked))?;
        for child in parts.manifests.iter().flatten() {
            if !self.is_whole(child.digest).await? && !self.registry_has(child.digest).await? {
                let own = Platform::of_this_machine();
                let image = self
                    .store
                    .for_platform(target, &own)
                    .or_else(|| self.store.images_below(target).first().copied());
                tracing::info!(index = %target, missing = %child.digest, "registry: one image is pushed instead of the index");
                return Ok(image.unwrap_or(target));
            }
        }
        Ok(target)
    }

    async fn is_whole(&self, image: Digest) -> Result<bool> {
        self.blocking(move |store| Ok(store.missing(image)?.is_empty())).await
    }

    async fn registry_has(&self, image: Digest) -> Result<bool> {
        let endpoint = Endpoint::origin(self.request.reference.registry(), &self.client.transport.options)?;
        let name = self.request.reference.clone().with_digest(image);
        match self.client.head_manifest(&endpoint, &name, self.request.keychain).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.cause, Cause::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends all that a manifest names, then itself.
    async fn send(&self, target: &ImageReference, bytes: Bytes) -> Result<()> {
        let parts = Parts::parse(&bytes).map_err(|cause| cause.at(&self.asked))?;
        match parts.kind().map_err(|cause| cause.at(&self.asked))? {
            ManifestKind::Image => self.send_blobs(&parts).await?,
            ManifestKind::Index => self.send_children(&parts).await?,
        }
        let env = self.client.transport.env.as_ref();
        let track = Track::new(self.progress, env, "manifest", bytes.len() as u64);
        track.at(Phase::Uploading, 0);
        let media_type = parts.media_type("");
        self.client
            .put_manifest(target, self.request.keychain, &media_type, bytes)
            .await?;
        track.end(Phase::Done);
        Ok(())
    }

    /// All images of an index; a registry takes an index only when it has what it names.
    async fn send_children(&self, parts: &Parts) -> Result<()> {
        let children = parts.manifests.as_deref().unwrap_or_default();
        if children.len() > INDEX_CHILDREN_MAX {
            let reason = format!(
                "an index of {} images, at most {INDEX_CHILDREN_MAX} are sent",
                children.len()
            );
            return Err(Cause::malformed(reason).at(&self.asked));
        }
        for child in children {
            let target = self.request.reference.clone().with_digest(child.digest);
            if !self.is_whole(child.digest).await? {
                // Looked at before: the registry has it.
                continue;
            }
            let bytes = self.manifest(child.digest).await?;
            Box::pin(self.send(&target, bytes)).await?;
        }
        Ok(())
    }

    async fn send_blobs(&self, parts: &Parts) -> Result<()> {
        let mut layers: Vec<&Entry> = Vec::new();
        for layer in parts.layers.iter().flatten() {
            let is_ours = !NOT_DISTRIBUTED.iter().any(|kind| layer.media_type.contains(kind));
            if is_ours && !layers.iter().any(|listed| listed.digest == layer.digest) {
                layers.push(layer);
            }
        }
        try_join_all(layers.into_iter().map(|layer| self.send_blob(layer))).await?;
        if let Some(config) = &parts.config {
            self.send_blob(config).await?;
        }
        Ok(())
    }

    async fn send_blob(&self, entry: &Entry) -> Result<()> {
        let env = self.client.transport.env.as_ref();
        let track = Track::new(self.progress, env, entry.digest.to_string(), entry.size);
        let file = self.open(entry).await?;
        let blob = Outbound {
            repository: self.request.reference,
            keychain: self.request.keychain,
            digest: entry.digest,
            size: entry.size,
            file: Arc::new(file),
            mount_from: self.sources.get(&entry.digest).map(String::as_str),
        };
        let phase = match self.client.push_blob(&blob, &track).await {
            Ok(phase) => phase,
            Err(error) => return Err(self.whose_fault(entry.digest, error).await),
        };
        track.end(phase);
        Ok(())
    }

    /// A registry that refuses content may be right: then it is this store that is damaged.
    async fn whose_fault(&self, digest: Digest, refusal: DistributionError) -> DistributionError {
        let is_refused = matches!(&refusal.cause, Cause::Status { status, .. } if status.is_client_error());
        if !is_refused {
            return refusal;
        }
        let read = self.blocking(move |store| {
            let mut content = store.read_blob(digest, 0)?;
            let read = std::io::copy(&mut content, &mut std::io::sink());
            read.map(drop).map_err(|source| ImageError::Source {
                what: format!("blob {digest}"),
                source,
            })
        });
        read.await.err().unwrap_or(refusal)
    }

    /// A blob of the size that the manifest says: what is damaged here is not begun to be sent.
    async fn open(&self, entry: &Entry) -> Result<File> {
        let (digest, expected) = (entry.digest, entry.size);
        self.blocking(move |store| {
            let file = store.open_blob(digest)?;
            let metadata = file.metadata().map_err(|source| ImageError::Source {
                what: format!("blob {digest}"),
                source,
            })?;
            if metadata.len() != expected {
                return Err(ImageError::WrongSize {
                    what: format!("blob {digest}"),
                    expected,
                    found: metadata.len(),
                });
            }
            Ok(file)
        })
        .await
    }

    async fn manifest(&self, digest: Digest) -> Result<Bytes> {
        let bytes = self.blocking(move |store| read_manifest(store, digest)).await?;
        crate::verify::check(&bytes, digest).map_err(|cause| cause.at(&self.asked))?;
        Ok(bytes)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || act(&store)).await;
        done.expect("the store does not panic")
            .map_err(|error| Cause::Store(Box::new(error)).at(&self.asked))
    }
}

fn read_manifest(store: &Store, digest: Digest) -> Result<Bytes, ImageError> {
    let mut bytes = Vec::new();
    let blob = store.read_blob(digest, 0)?;
    let read = blob.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| ImageError::Source {
        what: format!("manifest {digest}"),
        source,
    })?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(ImageError::TooLarge {
            what: format!("manifest {digest}"),
            limit: MANIFEST_BYTES_MAX,
            unit: "bytes",
        });
    }
    Ok(bytes.into())
}

/// Blobs that other repositories of the registry should have, since this node has images of theirs: the names under which they
/// were pulled or pushed say so. A guess that is wrong costs one request.
async fn mount_sources(store: &Arc<Store>, target: &ImageReference) -> BTreeMap<Digest, String> {
    let (store, target) = (store.clone(), target.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let mut sources = BTreeMap::new();
        for image in store.list() {
            let other = image.references.iter().find(|reference| {
                reference.registry() == target.registry() && reference.repository() != target.repository()
            });
            let Some(other) = other else { continue };
            // An image that cannot be read is no source, and nothing worse.
            let Ok(bytes) = read_manifest(&store, image.digest) else {
                continue;
            };
            let Ok(parts) = Parts::parse(&bytes) else { continue };
            for blob in parts.blobs() {
                sources.insert(blob.digest, other.repository().to_string());
            }
        }
        sources
    });
    looked.await.unwrap_or_default()
}
