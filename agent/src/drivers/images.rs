//! [`Images`] by the node's store; what it lacks comes from a node that has it.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use gantry_api::v1::node_agent_client::NodeAgentClient;
use gantry_api::v1::session_client::SessionClient;
use gantry_api::v1::{self, GetBlobRequest, LocateImageReply, LocateImageRequest, RecordImagesRequest};
use gantry_image::{Descriptor, ImageError, ImageInfo, Store};
use gantry_lifecycle::Failure;
use gantry_model::spec::ContainerSpec;
use gantry_model::{Class, Digest, ImageReference, NodeId, Problem};
use gantry_rpc::{Channels, Remote, Repeat, ServerPool, WithLimits, status};
use tokio::sync::{mpsc, watch};
use tonic::Streaming;

use super::{Images, ReadyImage, blocking};
use crate::limits::{BLOB_TIMEOUT, LOCATE_TIMEOUT};

/// Messages of a blob on their way to the disk.
const CHUNKS_WAITING: usize = 8;

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
}

impl NodeImages {
    /// Images of the store, and of other nodes that the servers name.
    pub(crate) fn new(store: Arc<Store>, servers: ServerPool, channels: Channels) -> Self {
        let images = Self {
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
        let images: Vec<_> = self.store.list().iter().map(wire_info).collect();
        self.inventory.send_if_modified(|held| {
            let changed = **held != images;
            *held = Arc::new(images);
            changed
        });
    }

    /// Tells the cluster of images that came, and of names that mean nothing any more. Without a server it is told by the
    /// inventory of the next session, names left out.
    pub(crate) async fn record(&self, images: Vec<v1::ImageInfo>, untagged: Vec<String>) {
        let request = RecordImagesRequest { images, untagged };
        let recorded = self.servers.call(Repeat::Harmless, |channel| {
            let request = request.clone();
            async move { SessionClient::new(channel).with_limits().record_images(request).await }
        });
        if let Err(problem) = recorded.await {
            tracing::warn!(%problem, "the cluster was not told of images of this node");
        }
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

    /// Gets the image from the first node that can give all of it.
    async fn fetch(&self, digest: Digest, reference: &str) -> Result<(), Failure> {
        let request = LocateImageRequest {
            digest: digest.to_string(),
            reference: String::new(),
        };
        let located = self
            .locate(request)
            .await
            .map_err(|problem| failure(reference, problem))?;
        self.fetch_from_any(digest, reference, located.addresses).await
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
        let text = reference.to_string();
        let is_here = self.store.info(digest).is_ok();
        if !is_here && self.fetch_from_any(digest, &text, located.addresses).await.is_err() {
            return None;
        }
        let (store, named) = (Arc::clone(&self.store), reference.clone());
        blocking(move || store.tag(&named, digest)).await.ok()?;
        self.refresh();
        Some(digest)
    }

    async fn fetch_from_any(&self, digest: Digest, reference: &str, addresses: Vec<String>) -> Result<(), Failure> {
        let mut last = Problem::new(
            Class::NotFound,
            format!("image {reference}"),
            "no node that is up has it",
        )
        .remedy("bring it in again with `gantry image pull`, `load` or `import`");
        for address in addresses {
            match self.fetch_from(digest, &address).await {
                Ok(()) => {
                    tracing::info!(image = reference, %digest, from = address, "image fetched");
                    self.refresh();
                    return Ok(());
                }
                Err(problem) => {
                    tracing::warn!(%problem, image = reference, "cannot fetch an image from a node");
                    last = problem;
                }
            }
        }
        Err(failure(reference, last))
    }

    async fn fetch_from(&self, digest: Digest, address: &str) -> Result<(), Problem> {
        let object = format!("node at {address}");
        let node = address.parse().ok().and_then(|address| self.node_at.get()?(address));
        let node =
            node.ok_or_else(|| Problem::new(Class::Unavailable, object, "is not among this node's peers yet"))?;
        loop {
            let store = Arc::clone(&self.store);
            let missing = blocking(move || store.missing(digest)).await.map_err(Problem::from)?;
            let Some(blob) = missing.into_iter().next() else { break };
            self.fetch_blob(blob, address, node).await?;
        }
        let store = Arc::clone(&self.store);
        blocking(move || store.commit_image(digest))
            .await
            .map(drop)
            .map_err(Problem::from)
    }

    /// Resumes where an earlier transfer broke off. What comes is verified before it counts.
    async fn fetch_blob(&self, blob: Descriptor, address: &str, node: NodeId) -> Result<(), Problem> {
        let remote = Remote::Agent(node);
        let whom = remote.object(address);
        let (store, digest) = (Arc::clone(&self.store), blob.digest);
        let offset = blocking(move || store.partial_len(digest)).await;
        let request = GetBlobRequest {
            digest: digest.to_string(),
            offset,
        };
        let mut client = NodeAgentClient::new(self.channels.channel(address, remote)).with_limits();
        let opened = tokio::time::timeout(BLOB_TIMEOUT.to_std(), client.get_blob(request)).await;
        let opened = opened.map_err(|_| Problem::new(Class::Timeout, whom.clone(), "does not answer"))?;
        let mut stream = opened
            .map_err(|status| status::to_problem(&status, &whom))?
            .into_inner();
        let (chunks, source) = mpsc::channel::<Result<Bytes, io::Error>>(CHUNKS_WAITING);
        let store = Arc::clone(&self.store);
        let written = blocking(move || store.resume_blob(&blob, offset, ChunkReader::new(source)));
        let receive = async move {
            let received = receive(&mut stream, &chunks, &whom).await;
            if let Err(problem) = &received {
                // What came is kept; the reader has to know that it is not all.
                let _ = chunks.send(Err(io::Error::other(problem.to_string()))).await;
            }
            received
        };
        let (received, written) = tokio::join!(receive, written);
        received?;
        written.map_err(Problem::from)
    }
}

/// Passes on chunks until the end of the blob.
async fn receive(
    stream: &mut Streaming<v1::Chunk>,
    chunks: &mpsc::Sender<Result<Bytes, io::Error>>,
    whom: &str,
) -> Result<(), Problem> {
    let silent = || Problem::new(Class::Timeout, whom, "stopped sending");
    loop {
        let next = tokio::time::timeout(BLOB_TIMEOUT.to_std(), stream.message())
            .await
            .map_err(|_| silent())?;
        let Some(chunk) = next.map_err(|status| status::to_problem(&status, whom))? else {
            return Ok(());
        };
        // A store that takes no more says why itself.
        if chunks.send(Ok(chunk.data)).await.is_err() {
            return Ok(());
        }
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

/// An image as it travels.
pub(crate) fn wire_info(info: &ImageInfo) -> v1::ImageInfo {
    v1::ImageInfo {
        digest: info.digest.to_string(),
        config_digest: info.config_digest.to_string(),
        size_bytes: info.size.0,
        platform: info.platform.clone(),
        created_at_ms: info.created_at.map_or(0, |at| at.0),
        references: info.references.iter().map(ToString::to_string).collect(),
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
