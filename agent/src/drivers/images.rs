//! [`Images`] by the node's store; what it lacks comes from a node that has it.

mod fetch;
pub(crate) mod kept;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use gantry_api::v1::session_client::SessionClient;
use gantry_api::v1::{self, Document, LocateImageReply, LocateImageRequest, RecordImagesRequest};
use gantry_image::{ImageError, ImageInfo, ManifestInfo, ManifestKind, Store};
use gantry_lifecycle::Failure;
use gantry_model::object::{self, BlobRef, ManifestFacts};
use gantry_model::spec::ContainerSpec;
use gantry_model::{ByteSize, Class, Digest, ImageReference, NodeId, Problem};
use gantry_rpc::{Channels, Repeat, ServerPool, WithLimits};
use tokio::sync::{mpsc, watch};

use super::{Images, ReadyImage, blocking};
use crate::limits::LOCATE_TIMEOUT;
use kept::Kept;
use names::Names;

/// Finds the node behind an agent's address.
pub(crate) type NodeAt = dyn Fn(SocketAddr) -> Option<NodeId> + Send + Sync;

/// See the module.
#[derive(Clone)]
pub(crate) struct NodeImages {
    store: Arc<Store>,
    servers: ServerPool,
    channels: Channels,
    node_at: Arc<OnceLock<Box<NodeAt>>>,
    inventory: watch::Sender<Arc<Vec<v1::ImageInfo>>>,
    kept: Kept,
    names: Names,
    /// What manifests say never changes.
    facts: Arc<Mutex<BTreeMap<Digest, Document>>>,
}

impl NodeImages {
    /// Images of the store, and of other nodes that the servers name.
    pub(crate) fn new(store: Arc<Store>, servers: ServerPool, channels: Channels) -> Self {
        let images = Self {
            kept: Kept::open(&store),
            names: Names::open(&store),
            facts: Arc::default(),
            store,
            servers,
            channels,
            node_at: Arc::default(),
            inventory: watch::Sender::default(),
        };
        images.refresh();
        images
    }

    /// Says how nodes are found; before that, none is.
    pub(crate) fn find_nodes_by(&self, node_at: Box<NodeAt>) {
        // Set once at the start; a second one would find the same nodes.
        let _ = self.node_at.set(node_at);
    }

    /// What this node keeps for the cluster.
    pub(crate) const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The store.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What the node holds, newest first seen by whoever subscribes.
    pub(crate) fn inventory(&self) -> watch::Receiver<Arc<Vec<v1::ImageInfo>>> {
        self.inventory.subscribe()
    }

    /// Looks again at what the node holds.
    pub(crate) fn refresh(&self) {
        let listed = self.store.list();
        self.names.retain(&self.store);
        let mut kept = self.kept.all();
        for info in &listed {
            kept.remove(&info.digest);
        }
        let others = kept.into_iter().filter_map(|digest| self.describe(digest));
        let mut images: Vec<_> = listed.iter().map(|info| self.described(nameless(info))).collect();
        images.extend(others);
        self.forget_facts(&images);
        self.inventory.send_if_modified(|held| {
            let changed = **held != images;
            *held = Arc::new(images);
            changed
        });
    }

    /// Tells the cluster of images that came, and of names that mean nothing any more. Without a server it is told of the images by
    /// the inventory of the next session, and of names that came when they are settled.
    pub(crate) async fn record(&self, images: Vec<v1::ImageInfo>, untagged: Vec<String>) {
        let told: Vec<(String, Digest)> = images.iter().flat_map(names_of).collect();
        let images = images.into_iter().map(|image| self.described(image)).collect();
        let request = RecordImagesRequest { images, untagged };
        let recorded = self.servers.call(Repeat::Harmless, |channel| {
            let request = request.clone();
            async move { SessionClient::new(channel).with_limits().record_images(request).await }
        });
        match recorded.await {
            Ok(_) => self.acknowledged(told).await,
            Err(problem) => tracing::warn!(%problem, "the cluster was not told of images of this node"),
        }
    }

    async fn acknowledged(&self, told: Vec<(String, Digest)>) {
        let (names, store) = (self.names.clone(), Arc::clone(&self.store));
        blocking(move || names.record(&store, told)).await;
    }

    /// Names that the cluster has not acknowledged, and what they mean.
    fn made(&self) -> impl Iterator<Item = (String, Digest)> {
        let listed = self.store.list();
        let names: BTreeSet<ImageReference> = listed.into_iter().flat_map(|info| info.references).collect();
        names.into_iter().filter_map(|reference| {
            let name = reference.to_string();
            let digest = self.store.resolve(&reference)?;
            (!self.names.contains(&name)).then_some((name, digest))
        })
    }

    /// Whether there are names that the cluster has not acknowledged.
    pub(crate) fn has_unsettled(&self) -> bool {
        self.made().next().is_some()
    }

    /// What is to be settled about names: those that the cluster has acknowledged, and those that it has not.
    pub(crate) fn unsettled(&self) -> v1::SettleNamesRequest {
        let named = |(reference, digest): (String, Digest)| v1::NamedImage {
            reference,
            digest: digest.to_string(),
        };
        v1::SettleNamesRequest {
            known: self.names.recorded(),
            made: self.made().map(named).collect(),
        }
    }

    /// Settles names with the cluster; the answer is which of them to forget.
    pub(crate) async fn settle(&self, request: &v1::SettleNamesRequest) -> Result<Vec<String>, Problem> {
        let settled = self.servers.call(Repeat::Harmless, |channel| {
            let request = request.clone();
            async move { SessionClient::new(channel).with_limits().settle_names(request).await }
        });
        let v1::SettleNamesReply { recorded, gone } = settled.await?;
        let told = request.made.iter().filter(|named| recorded.contains(&named.reference));
        let told = told.filter_map(|named| Some((named.reference.clone(), named.digest.parse().ok()?)));
        self.acknowledged(told.collect()).await;
        // What came anew meanwhile is not meant.
        Ok(gone
            .into_iter()
            .filter(|reference| self.names.contains(reference))
            .collect())
    }

    /// A manifest of any kind as it travels; none when it is not here.
    pub(crate) fn describe(&self, digest: Digest) -> Option<v1::ImageInfo> {
        let own = self.store.info(digest).ok().filter(|info| info.digest == digest);
        let info = match own {
            Some(info) => wire_info(&info),
            None => v1::ImageInfo {
                digest: digest.to_string(),
                ..v1::ImageInfo::default()
            },
        };
        let is_whole = self.is_whole(digest);
        Some(self.described(info)).filter(|info| is_whole && info.manifest.is_some())
    }

    /// Whether the manifest and what it needs itself are here.
    fn is_whole(&self, digest: Digest) -> bool {
        let manifest = self.store.manifest(digest);
        manifest.is_ok_and(|(info, _)| {
            info.blobs()
                .iter()
                .all(|blob| self.store.blob_size(blob.digest).is_some())
        })
    }

    /// Adds what its manifest says, and whether the node keeps it for the cluster.
    fn described(&self, info: v1::ImageInfo) -> v1::ImageInfo {
        let Ok(digest) = info.digest.parse::<Digest>() else {
            return info;
        };
        v1::ImageInfo {
            manifest: self.facts(digest),
            kept: self.kept.contains(digest),
            ..info
        }
    }

    fn facts(&self, digest: Digest) -> Option<Document> {
        let known = self.all_facts().get(&digest).cloned();
        if known.is_some() {
            return known;
        }
        let (info, _) = self.store.manifest(digest).ok()?;
        let document = gantry_api::encode(gantry_api::kind::MANIFEST_FACTS, &facts_of(info));
        self.all_facts().insert(digest, document.clone());
        Some(document)
    }

    /// Of what is here no more.
    fn forget_facts(&self, images: &[v1::ImageInfo]) {
        let held: BTreeSet<Digest> = images.iter().filter_map(|image| image.digest.parse().ok()).collect();
        self.all_facts().retain(|digest, _| held.contains(digest));
    }

    fn all_facts(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Document>> {
        // Single insertions and removals leave it whole.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ready(&self, container: &ContainerSpec) -> Result<ReadyImage, Failure> {
        let reference = &container.image;
        let digest = match &container.image_digest {
            Some(digest) => digest.parse::<Digest>().map_err(|error| Failure {
                reason: format!("image {reference}: {error}"),
                retryable: false,
            })?,
            None => self.resolve(reference)?,
        };
        let store = Arc::clone(&self.store);
        if blocking(move || store.info(digest)).await.is_err() {
            self.fetch(digest, reference).await?;
        }
        let store = Arc::clone(&self.store);
        let ready = blocking(move || -> Result<ReadyImage, ImageError> {
            Ok(ReadyImage {
                digest,
                layers: store.unpack(digest)?,
                config: store.config(digest)?,
            })
        });
        ready.await.map_err(|error| failure(reference, error.into()))
    }

    fn resolve(&self, reference: &str) -> Result<Digest, Failure> {
        let parsed: ImageReference = reference.parse().map_err(|error| Failure {
            reason: format!("{error}"),
            retryable: false,
        })?;
        self.store.resolve(&parsed).ok_or_else(|| Failure {
            reason: format!(
                "image {reference} is not on this node: get it with `gantry image pull`, `load` or `import`"
            ),
            retryable: true,
        })
    }

    async fn locate(&self, request: LocateImageRequest) -> Result<LocateImageReply, Problem> {
        let located = self.servers.call(Repeat::Harmless, |channel| {
            let request = request.clone();
            async move { SessionClient::new(channel).with_limits().locate_image(request).await }
        });
        located.await
    }

    /// The image that a reference means in the cluster, fetched from a node that has it; none when the cluster knows none, or
    /// cannot be asked or give it now.
    pub(crate) async fn of_cluster(&self, reference: &ImageReference) -> Option<Digest> {
        let request = LocateImageRequest {
            digest: String::new(),
            reference: reference.to_string(),
        };
        let located = tokio::time::timeout(LOCATE_TIMEOUT.to_std(), self.locate(request)).await;
        let located = located.ok()?.ok()?;
        let digest: Digest = located.digest.parse().ok()?;
        let is_here = self.store.info(digest).is_ok();
        if !is_here && self.fetch(digest, &reference.to_string()).await.is_err() {
            return None;
        }
        let (store, named) = (Arc::clone(&self.store), reference.clone());
        let tagged = blocking(move || store.tag(&named, digest)).await;
        tagged.ok()?;
        self.acknowledged(vec![(reference.to_string(), digest)]).await;
        self.refresh();
        Some(digest)
    }
}

fn failure(reference: &str, problem: Problem) -> Failure {
    let retryable = !matches!(problem.class, Class::Invalid);
    let remedy = if problem.remedy.is_empty() {
        String::new()
    } else {
        format!(" ({})", problem.remedy)
    };
    let object = format!("image {reference}");
    let reason = if problem.object == object {
        format!("{object}: {}{remedy}", problem.reason)
    } else {
        format!("{object}: {}: {}{remedy}", problem.object, problem.reason)
    };
    Failure { reason, retryable }
}

fn facts_of(info: ManifestInfo) -> ManifestFacts {
    let blobs = info.blobs().into_iter().map(|blob| BlobRef {
        digest: blob.digest,
        size: ByteSize(blob.size.unwrap_or(0)),
    });
    let text = |(key, value): (String, serde_json::Value)| Some((key, value.as_str()?.to_string()));
    ManifestFacts {
        size: ByteSize(info.size),
        kind: match info.kind {
            ManifestKind::Image => object::ManifestKind::Image,
            ManifestKind::Index => object::ManifestKind::Index,
            ManifestKind::Artifact => object::ManifestKind::Artifact,
        },
        blobs: blobs.collect(),
        manifests: info.manifests.iter().map(|child| child.digest).collect(),
        subject: info.subject.map(|subject| subject.digest),
        artifact_type: info.artifact_type,
        annotations: info.annotations.into_iter().filter_map(text).collect(),
        media_type: info.media_type,
    }
}

/// An image as it travels, without what its manifest says.
pub(crate) fn wire_info(info: &ImageInfo) -> v1::ImageInfo {
    v1::ImageInfo {
        digest: info.digest.to_string(),
        config_digest: info.config_digest.to_string(),
        size_bytes: info.size.0,
        platform: info.platform.clone(),
        created_at_ms: info.created_at.map_or(0, |at| at.0),
        references: info.references.iter().map(ToString::to_string).collect(),
        manifest: None,
        kept: false,
    }
}

/// An image's names, each with what it means.
fn names_of(image: &v1::ImageInfo) -> Vec<(String, Digest)> {
    let Ok(digest) = image.digest.parse::<Digest>() else {
        return Vec::new();
    };
    let names = image.references.iter();
    names.map(|reference| (reference.clone(), digest)).collect()
}

/// Names are told apart from what the node holds.
fn nameless(info: &ImageInfo) -> v1::ImageInfo {
    v1::ImageInfo {
        references: Vec::new(),
        ..wire_info(info)
    }
}

impl Images for NodeImages {
    fn ensure<'a>(&'a self, container: &'a ContainerSpec) -> BoxFuture<'a, Result<ReadyImage, Failure>> {
        self.ready(container).boxed()
    }
}

/// Chunks that arrive asynchronously, as a reader for a thread.
pub(crate) struct ChunkReader {
    source: mpsc::Receiver<Result<Bytes, io::Error>>,
    chunk: Bytes,
}

impl ChunkReader {
    pub(crate) fn new(source: mpsc::Receiver<Result<Bytes, io::Error>>) -> Self {
        Self {
            source,
            chunk: Bytes::new(),
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.chunk.has_remaining() {
            match self.source.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let length = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
