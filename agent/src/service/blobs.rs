//! Blobs of this node's store for others, and the cluster's registry as far as it lies here: uploads, manifests, what is kept.
//!
//! **Invariant:** bytes that leave the store are verified on their way ([`gantry_image::VerifiedReader`]).
//! Deliberately not here: who may upload what to which repository; servers ask on behalf of registry clients.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use gantry_api::v1::{
    Chunk, GetBlobRequest, ImageInfo, KeepBlobRequest, KeepImageRequest, PutManifestRequest, UploadPiece, UploadReply,
    UploadRequest, UploadStart, upload_piece,
};
use gantry_image::{Node, Selector, Store, UploadId};
use gantry_model::object::Role;
use gantry_model::{Class, Digest, DurationMs, Problem};
use gantry_rpc::Caller;
use gantry_rpc::status::to_problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Request, Streaming};

use super::images::{broken, send_bytes};
use super::{Answers, NodeService, STREAM_WAITING, is_local};
use crate::drivers::blocking;
use crate::drivers::images::ChunkReader;
use crate::limits::{BLOB_READERS_MAX, BLOB_SMALL_BYTES, BLOB_TIMEOUT, UPLOAD_KEPT};

/// What is sent at once.
#[derive(Debug, Clone)]
pub(crate) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BLOB_READERS_MAX)))
    }
}

impl Readers {
    /// Room for one more. Other nodes ask elsewhere when there is none; people, for whom servers ask, wait for it.
    async fn enter(&self, waits: bool) -> Result<OwnedSemaphorePermit, Problem> {
        let full = || Problem::new(Class::Exhausted, "node", "sends as many blobs as it can at once");
        let semaphore = Arc::clone(&self.0);
        if waits {
            let entered = tokio::time::timeout(BLOB_TIMEOUT.to_std(), semaphore.acquire_owned()).await;
            return entered.ok().and_then(Result::ok).ok_or_else(full);
        }
        semaphore.try_acquire_owned().map_err(|_| full())
    }
}

/// A blob, from an offset on.
pub(super) async fn get(service: &NodeService, request: &Request<GetBlobRequest>) -> Result<Answers<Chunk>, Problem> {
    let caller = request.extensions().get::<Caller>();
    let is_node = caller.is_some_and(|caller| caller.peer.as_ref().is_some_and(|peer| peer.role == Role::Agent));
    let waits = is_local(request) || !is_node;
    let GetBlobRequest { digest, offset, length } = request.get_ref().clone();
    let digest = parse(&digest)?;
    let store = Arc::clone(service.images.store());
    let size = store.blob_size(digest).unwrap_or(0);
    let permit = match size > BLOB_SMALL_BYTES {
        true => Some(service.readers.enter(waits).await?),
        false => None,
    };
    let reader = blocking(move || store.read_blob(digest, offset)).await?;
    Ok(send_bytes(move |sink| {
        let _permit = permit;
        let limit = if length == 0 { u64::MAX } else { length };
        io::copy(&mut reader.take(limit), sink)
            .map(drop)
            .map_err(|error| broken(&error))
    }))
}

fn parse(digest: &str) -> Result<Digest, Problem> {
    digest
        .parse()
        .map_err(|error| Problem::new(Class::Invalid, "digest", format!("{error}")))
}

fn upload_id(text: &str) -> Result<UploadId, Problem> {
    text.parse().map_err(Problem::from)
}

/// Begins an upload.
pub(super) async fn begin(service: &NodeService) -> Result<UploadReply, Problem> {
    let store = Arc::clone(service.images.store());
    let id = blocking(move || store.begin_upload()).await?;
    Ok(UploadReply {
        upload: id.to_string(),
        size: 0,
    })
}

/// How far an upload is.
pub(super) async fn status(service: &NodeService, request: &UploadRequest) -> Result<UploadReply, Problem> {
    let (store, id) = (Arc::clone(service.images.store()), upload_id(&request.upload)?);
    let size = blocking(move || store.upload_len(id)).await?;
    Ok(UploadReply {
        upload: id.to_string(),
        size,
    })
}

/// Drops an upload.
pub(super) async fn cancel(service: &NodeService, request: &UploadRequest) -> Result<(), Problem> {
    let (store, id) = (Arc::clone(service.images.store()), upload_id(&request.upload)?);
    Ok(blocking(move || store.cancel_upload(id)).await?)
}

/// Takes a piece of an upload; what came of one that breaks off stays.
pub(super) async fn write(service: &NodeService, mut input: Streaming<UploadPiece>) -> Result<UploadReply, Problem> {
    let first = input.message().await;
    let first = first.map_err(|status| to_problem(&status, "upload"))?;
    let Some(upload_piece::Piece::Start(start)) = first.and_then(|first| first.piece) else {
        return Err(Problem::new(Class::Invalid, "upload", "does not begin with a start"));
    };
    let (chunks, source) = mpsc::channel(STREAM_WAITING);
    let store = Arc::clone(service.images.store());
    // When the caller goes, this future goes with it, and only a task of its own can tell the store that this was no end.
    let receiving = tokio::spawn(receive(input, chunks));
    let taken = blocking(move || take(&store, &start, ChunkReader::new(source))).await;
    let received = receiving.await.unwrap_or(Ok(()));
    match taken {
        // What the reader says of a cut stream is less than what the stream itself says.
        Err(problem) if problem.class == Class::Unavailable => Err(received.err().unwrap_or(problem)),
        other => other,
    }
}

async fn receive(mut input: Streaming<UploadPiece>, chunks: mpsc::Sender<io::Result<Bytes>>) -> Result<(), Problem> {
    loop {
        match input.message().await {
            Ok(Some(UploadPiece {
                piece: Some(upload_piece::Piece::Data(data)),
            })) => {
                // A store that takes no more says why itself.
                if chunks.send(Ok(data)).await.is_err() {
                    return Ok(());
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(status) => {
                let problem = to_problem(&status, "upload");
                let _ = chunks.send(Err(io::Error::other(problem.to_string()))).await;
                return Err(problem);
            }
        }
    }
}

fn take(store: &Store, start: &UploadStart, source: impl Read) -> Result<UploadReply, Problem> {
    let id = upload_id(&start.upload)?;
    let finish = match start.finish.as_str() {
        "" => None,
        digest => Some(parse(digest)?),
    };
    let offset = store.upload_len(id)?;
    if start.offset.is_some_and(|wanted| wanted != offset) {
        let reason = format!("has {offset} bytes: the next piece begins there");
        return Err(Problem::new(Class::Conflict, format!("upload {id}"), reason));
    }
    let mut size = store.append_upload(id, offset, source)?;
    if let Some(digest) = finish {
        let lease = store.lease(UPLOAD_KEPT)?;
        size = store.finish_upload(&lease, id, digest)?;
        // The manifest that needs it comes later, to whichever process runs then.
        let _ = lease.detach();
    }
    Ok(UploadReply {
        upload: id.to_string(),
        size,
    })
}

/// Keeps a blob that is here as long as an upload.
pub(super) async fn keep_blob(service: &NodeService, request: &KeepBlobRequest) -> Result<UploadReply, Problem> {
    let (store, digest) = (Arc::clone(service.images.store()), parse(&request.digest)?);
    blocking(move || -> Result<UploadReply, Problem> {
        let lease = store.lease(UPLOAD_KEPT)?;
        lease.keep(Node::Blob(digest))?;
        let size = store.blob_size(digest);
        let size =
            size.ok_or_else(|| Problem::new(Class::NotFound, format!("blob {digest}"), "is not on this node"))?;
        let _ = lease.detach();
        Ok(UploadReply {
            upload: String::new(),
            size,
        })
    })
    .await
}

/// Stores a manifest.
pub(super) async fn put_manifest(service: &NodeService, request: PutManifestRequest) -> Result<ImageInfo, Problem> {
    service
        .images
        .put_manifest(request.manifest.to_vec(), &request.holders)
        .await
}

/// Keeps a manifest for the cluster.
pub(super) async fn keep_image(service: &NodeService, request: &KeepImageRequest) -> Result<ImageInfo, Problem> {
    service.images.keep(parse(&request.digest)?).await
}

/// Keeps it no longer; it goes unless a name, a container or another manifest of this node needs it.
pub(super) async fn drop_image(service: &NodeService, request: &KeepImageRequest) -> Result<(), Problem> {
    let digest = parse(&request.digest)?;
    let (shared, store) = (Arc::clone(&service.shared), Arc::clone(service.images.store()));
    let (kept, containers) = (service.images.kept().clone(), service.engine.images());
    let dropped = blocking(move || -> Result<(), Problem> {
        kept.set(&store, digest, false)?;
        let mut used: BTreeSet<Digest> = super::images::in_use(&shared, &store)?;
        used.extend(containers);
        // What else is kept stays, also where it belongs to the same index.
        used.extend(kept.all());
        let below = store.images_below(digest);
        let named = |image: &Digest| store.info(*image).is_ok_and(|info| is_named(&store, &info, digest));
        if used.contains(&digest) || below.iter().any(|image| used.contains(image) || named(image)) {
            return Ok(());
        }
        match store.remove(&Selector::Digest(digest), &used).map_err(Problem::from) {
            // Somebody began to use it, or it was gone already.
            Err(problem) if !matches!(problem.class, Class::Conflict | Class::NotFound) => Err(problem),
            Err(_) | Ok(_) => Ok(()),
        }
    });
    dropped.await?;
    service.images.refresh();
    Ok(())
}

/// Whether a name of the node means the manifest itself.
fn is_named(store: &Store, info: &gantry_image::ImageInfo, digest: Digest) -> bool {
    info.references
        .iter()
        .any(|reference| info.digest == digest || store.target(reference) == Some(digest))
}

/// Drops uploads that nobody went on with.
pub(super) async fn expire_uploads(service: &NodeService) -> Result<(), Problem> {
    let store = Arc::clone(service.images.store());
    let freed = blocking(move || store.expire_uploads(DurationMs(UPLOAD_KEPT.0))).await?;
    if freed.0 > 0 {
        tracing::info!(%freed, "abandoned uploads dropped");
    }
    Ok(())
}
