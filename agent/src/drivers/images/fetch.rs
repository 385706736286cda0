//! Images from other nodes, by digest: what is missing here comes from whoever has it.
//!
//! The servers say who has a manifest, those first that few others were sent to. A node that already sends as much as it can
//! refuses, and the next one is asked; whoever has got an image is told to the cluster at once and can give it from then on, so
//! that a hundred nodes that want the same image do not wait for one.
//! **Invariant:** what comes is verified before it counts, and what came of a broken transfer is kept for the next one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::v1::node_agent_client::NodeAgentClient;
use gantry_api::v1::{self, GetBlobRequest, Holder, LocateImageRequest};
use gantry_env::{Env, System};
use gantry_image::{Descriptor, ManifestInfo, ManifestKind, Platform};
use gantry_lifecycle::Failure;
use gantry_model::{Class, Digest, DurationMs, NodeId, Problem};
use gantry_rpc::{Remote, WithLimits, status};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{ChunkReader, NodeImages, failure};
use crate::drivers::blocking;
use crate::limits::{BLOB_TIMEOUT, FETCH_LEASE, FETCH_PAUSE, FETCH_ROUNDS_MAX, FETCHES_MAX};

/// Messages of a blob on their way to the disk.
const CHUNKS_WAITING: usize = 8;

/// How deep an index may list indexes.
const INDEX_DEPTH_MAX: usize = 3;

/// A node that has something.
#[derive(Debug, Clone)]
struct Source {
    node: NodeId,
    address: String,
}

impl NodeImages {
    /// Gets an image, and of an index what this machine runs.
    pub(super) async fn fetch(&self, digest: Digest, reference: &str) -> Result<(), Failure> {
        self.fetch_image(digest, INDEX_DEPTH_MAX)
            .await
            .map_err(|problem| failure(reference, problem))?;
        tracing::info!(image = reference, %digest, "image fetched");
        self.refresh();
        Ok(())
    }

    async fn fetch_image(&self, digest: Digest, depth: usize) -> Result<(), Problem> {
        // Nothing of it is collected while it arrives.
        let lease = self.store.hold(FETCH_LEASE);
        lease
            .keep(gantry_image::Node::Manifest(digest))
            .map_err(Problem::from)?;
        let info = self.fetch_manifest(digest).await?;
        if info.kind == ManifestKind::Index {
            let child = own_platform(&info).filter(|_| depth > 0).ok_or_else(|| {
                let reason = format!("lists nothing for {}", Platform::of_this_machine());
                Problem::new(Class::NotFound, format!("image index {digest}"), reason)
            })?;
            Box::pin(self.fetch_image(child, depth - 1)).await?;
        } else {
            self.fetch_blobs(digest, &[]).await?;
        }
        let store = Arc::clone(&self.store);
        let committed = blocking(move || store.commit_image(digest)).await;
        drop(lease);
        committed.map(drop).map_err(Problem::from)
    }

    /// Keeps a manifest for the cluster, with its own content; of an index, what it lists is kept by asking for each.
    pub(crate) async fn keep(&self, digest: Digest) -> Result<v1::ImageInfo, Problem> {
        let lease = self.store.hold(FETCH_LEASE);
        lease
            .keep(gantry_image::Node::Manifest(digest))
            .map_err(Problem::from)?;
        let was_here = self.is_whole(digest);
        self.fetch_manifest(digest).await?;
        self.fetch_blobs(digest, &[]).await?;
        if !was_here {
            self.check_wanted(digest).await?;
        }
        let store = Arc::clone(&self.store);
        let bytes = blocking(move || store.manifest(digest)).await.map_err(Problem::from)?.1;
        let info = self.enter(lease, bytes, Some(digest)).await?;
        Ok(info)
    }

    /// It may have been removed from the cluster while it came; then it must not come back with this node.
    async fn check_wanted(&self, digest: Digest) -> Result<(), Problem> {
        let request = LocateImageRequest {
            digest: digest.to_string(),
            reference: String::new(),
        };
        match self.locate(request).await?.digest.is_empty() {
            true => Err(Problem::new(
                Class::NotFound,
                format!("manifest {digest}"),
                "was removed from the cluster while it came",
            )),
            false => Ok(()),
        }
    }

    /// Takes a manifest whose blobs are here or on the holders, and keeps it for the cluster.
    pub(crate) async fn put_manifest(&self, bytes: Vec<u8>, holders: &[Holder]) -> Result<v1::ImageInfo, Problem> {
        let info = ManifestInfo::parse(&bytes).map_err(Problem::from)?;
        let lease = self.store.hold(FETCH_LEASE);
        for blob in info.blobs() {
            lease
                .keep(gantry_image::Node::Blob(blob.digest))
                .map_err(Problem::from)?;
        }
        let sources: Vec<Source> = holders.iter().filter_map(source).collect();
        let missing = info
            .blobs()
            .into_iter()
            .filter(|blob| self.store.blob_size(blob.digest).is_none());
        self.fetch_all(missing.collect(), &sources).await?;
        self.enter(lease, bytes, None).await
    }

    /// Enters a manifest that is here with all it needs, keeps it, and tells the cluster.
    async fn enter(
        &self,
        lease: gantry_image::Lease,
        bytes: Vec<u8>,
        expected: Option<Digest>,
    ) -> Result<v1::ImageInfo, Problem> {
        let (store, kept) = (Arc::clone(&self.store), self.kept.clone());
        let entered = blocking(move || -> Result<Digest, Problem> {
            let info = store.put_manifest(&lease, &bytes, expected)?;
            kept.set(&store, info.digest, true)?;
            Ok(info.digest)
        });
        let digest = entered.await?;
        self.refresh();
        self.describe(digest).ok_or_else(|| {
            Problem::new(
                Class::Internal,
                format!("manifest {digest}"),
                "is gone, although it was just stored",
            )
        })
    }

    /// The manifest alone.
    async fn fetch_manifest(&self, digest: Digest) -> Result<ManifestInfo, Problem> {
        if self.store.blob_size(digest).is_none() {
            self.fetch_all(vec![Descriptor::of_manifest(digest)], &[]).await?;
        }
        let store = Arc::clone(&self.store);
        let read = blocking(move || store.manifest(digest)).await;
        read.map(|(info, _)| info).map_err(Problem::from)
    }

    /// What a manifest needs itself and is not here.
    async fn fetch_blobs(&self, manifest: Digest, known: &[Source]) -> Result<(), Problem> {
        let store = Arc::clone(&self.store);
        let missing = blocking(move || -> Result<Vec<Descriptor>, gantry_image::ImageError> {
            let (info, _) = store.manifest(manifest)?;
            let blobs = info.blobs().into_iter();
            Ok(blobs.filter(|blob| store.blob_size(blob.digest).is_none()).collect())
        });
        let missing = missing.await.map_err(Problem::from)?;
        if missing.is_empty() {
            return Ok(());
        }
        self.fetch_from_holders(manifest, missing, known).await
    }

    async fn fetch_all(&self, blobs: Vec<Descriptor>, known: &[Source]) -> Result<(), Problem> {
        let Some(first) = blobs.first().map(|blob| blob.digest) else {
            return Ok(());
        };
        self.fetch_from_holders(first, blobs, known).await
    }

    /// Gets blobs from the known nodes, or from those that the servers name for `wanted`; the next one is asked for what one did
    /// not give. When all send as much as they can, it waits for one that has room, or that has got it meanwhile.
    async fn fetch_from_holders(
        &self,
        wanted: Digest,
        mut blobs: Vec<Descriptor>,
        known: &[Source],
    ) -> Result<(), Problem> {
        let mut last = Problem::new(
            Class::NotFound,
            format!("content {wanted}"),
            "no node that is up has it",
        )
        .remedy("bring the image in again with `gantry image pull`, `load` or `import`");
        for round in 0..FETCH_ROUNDS_MAX {
            let sources = match known.is_empty() {
                true => self.sources(wanted).await?,
                false => known.to_vec(),
            };
            for source in sources {
                match self.fetch_from(&mut blobs, &source).await {
                    Ok(()) if blobs.is_empty() => return Ok(()),
                    Ok(()) => {}
                    Err(problem) => {
                        tracing::debug!(%problem, %wanted, from = source.address, "a node did not give what it has");
                        last = problem;
                    }
                }
            }
            if last.class != Class::Exhausted || round + 1 == FETCH_ROUNDS_MAX {
                break;
            }
            let pause = FETCH_PAUSE.0 + System.random_below(FETCH_PAUSE.0);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Err(last)
    }

    async fn sources(&self, digest: Digest) -> Result<Vec<Source>, Problem> {
        let request = LocateImageRequest {
            digest: digest.to_string(),
            reference: String::new(),
        };
        let located = self.locate(request).await?;
        let mut sources: Vec<Source> = located.holders.iter().filter_map(source).collect();
        if sources.is_empty() {
            // A server of an earlier version says addresses alone.
            let known = located.addresses.into_iter().filter_map(|address| {
                let node = self.node_at.get()?(address.parse().ok()?)?;
                Some(Source { node, address })
            });
            sources.extend(known);
        }
        Ok(sources)
    }

    /// Some blobs side by side; those that came are taken off the list. The first refusal is the answer.
    async fn fetch_from(&self, blobs: &mut Vec<Descriptor>, source: &Source) -> Result<(), Problem> {
        let mut outcome = Ok(());
        let mut left = Vec::new();
        for several in std::mem::take(blobs).chunks(FETCHES_MAX) {
            if outcome.is_err() {
                left.extend_from_slice(several);
                continue;
            }
            let fetches = several.iter().map(|blob| self.fetch_blob(blob.clone(), source));
            for (blob, fetched) in several.iter().zip(futures::future::join_all(fetches).await) {
                if let Err(problem) = fetched {
                    left.push(blob.clone());
                    outcome = Err(problem);
                }
            }
        }
        *blobs = left;
        outcome
    }

    /// Resumes where an earlier transfer broke off. What comes is verified before it counts.
    async fn fetch_blob(&self, blob: Descriptor, from: &Source) -> Result<(), Problem> {
        let remote = Remote::Agent(from.node);
        let whom = remote.object(&from.address);
        let (store, digest) = (Arc::clone(&self.store), blob.digest);
        let offset = blocking(move || store.partial_len(digest)).await;
        let request = GetBlobRequest {
            digest: digest.to_string(),
            offset,
            length: 0,
        };
        let mut client = NodeAgentClient::new(self.channels.channel(&from.address, remote)).with_limits();
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

fn source(holder: &Holder) -> Option<Source> {
    let node = holder.node.parse().ok()?;
    Some(Source {
        node,
        address: holder.address.clone(),
    })
}

/// The entry of an index that this machine runs.
fn own_platform(index: &ManifestInfo) -> Option<Digest> {
    let ours = Platform::of_this_machine();
    let suits = |descriptor: &&Descriptor| match &descriptor.platform {
        Some(platform) => platform.suits(&ours),
        None => index.manifests.len() == 1,
    };
    index.manifests.iter().find(suits).map(|descriptor| descriptor.digest)
}

/// Passes on chunks until the end of the blob.
async fn receive(
    stream: &mut Streaming<v1::Chunk>,
    chunks: &mpsc::Sender<Result<Bytes, io::Error>>,
    whom: &str,
) -> Result<(), Problem> {
    let silent = || Problem::new(Class::Timeout, whom, "stopped sending");
    loop {
        let next = tokio::time::timeout(DurationMs::to_std(BLOB_TIMEOUT), stream.message())
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
