//! Uploads: they lie on one node, named by `NODE.UPLOAD`, so that any server goes on with one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use gantry_api::v1::{Empty, KeepBlobRequest, UploadPiece, UploadReply, UploadRequest, UploadStart, upload_piece};
use gantry_leader::admission::Decision;
use gantry_model::object::{Node, UploadedBlob};
use gantry_model::{ByteSize, Class, Digest, DurationMs, NodeId, Problem};
use gantry_registry::{ByteStream, Code, Piece, Refusal, Repository};
use gantry_state::{Key, Object, Op, Precondition, RegistryKey, RegistryObject, State, Transaction};
use tokio::sync::Notify;

use super::contents::{Contents, holders};
use super::nodes::{agent, none_ready, problem, ready, takers};
use super::{Registry, unknown_blob};

/// A manifest must come for a blob within so long; agents keep it as long.
pub(super) const UPLOAD_KEPT: DurationMs = DurationMs::secs(24 * 3600);

/// A client that sends nothing for so long is given up; it may go on later.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Pieces of an upload between the client and the node.
const PIECES_WAITING: usize = 16;

impl Registry {
    pub(super) async fn open_upload(&self, repository: &Repository) -> Result<String, Refusal> {
        let state = self.newest().await;
        let mut last = none_ready();
        for node in takers(&state, &repository.name) {
            match agent(&self.context, node).begin_upload(Empty {}).await {
                Ok(begun) => return Ok(format!("{}.{}", node.id, begun.into_inner().upload)),
                Err(status) => last = problem(&status, node).into(),
            }
        }
        Err(last)
    }

    pub(super) async fn size_of_upload(&self, upload: &str) -> Result<u64, Refusal> {
        let (node, request) = self.locate(upload)?;
        let status = agent(&self.context, &node).upload_status(request).await;
        let reply = status.map_err(|status| refused(problem(&status, &node), upload))?;
        Ok(reply.into_inner().size)
    }

    pub(super) async fn drop_upload(&self, upload: &str) -> Result<(), Refusal> {
        let (node, request) = self.locate(upload)?;
        let cancelled = agent(&self.context, &node).cancel_upload(request).await;
        cancelled
            .map(drop)
            .map_err(|status| refused(problem(&status, &node), upload))
    }

    fn locate(&self, upload: &str) -> Result<(Node, UploadRequest), Refusal> {
        let parts = upload.split_once('.');
        let named = parts.and_then(|(node, id)| Some((node.parse::<NodeId>().ok()?, id.to_string())));
        let (node, upload) = named.ok_or_else(|| unknown(upload))?;
        let state = self.context.raft.state();
        let node = ready(&state, node)?.clone();
        Ok((node, UploadRequest { upload }))
    }

    pub(super) async fn append_upload(
        &self,
        repository: &Repository,
        upload: &str,
        piece: Piece,
    ) -> Result<u64, Refusal> {
        let (node, request) = self.locate(upload)?;
        let finish = piece.finish;
        let start = UploadStart {
            upload: request.upload,
            offset: piece.offset,
            finish: finish.map(|digest| digest.to_string()).unwrap_or_default(),
        };
        let reply = self.send(&node, start, piece.bytes).await;
        let reply = reply.map_err(|problem| refused(problem, upload))?;
        if let Some(digest) = finish {
            self.uploaded(repository, digest, ByteSize(reply.size), &[node.id])
                .await?;
        }
        Ok(reply.size)
    }

    /// Passes the client's bytes on as the node takes them. When the client breaks off, so does this: the node must not take
    /// the break for the end.
    async fn send(&self, node: &Node, start: UploadStart, bytes: ByteStream) -> Result<UploadReply, Problem> {
        let (pieces, receiver) = tokio::sync::mpsc::channel(PIECES_WAITING);
        let broken = Arc::new(Broken::default());
        let first = UploadPiece {
            piece: Some(upload_piece::Piece::Start(start)),
        };
        let feeding = feed(bytes, first, pieces, Arc::clone(&broken));
        let mut agent = agent(&self.context, node);
        let call = agent.write_upload(tokio_stream::wrappers::ReceiverStream::new(receiver));
        tokio::pin!(call, feeding);
        let mut fed = false;
        loop {
            tokio::select! {
                biased;
                () = broken.noticed.notified() => {
                    return Err(Problem::new(Class::Unavailable, "upload", broken.reason()));
                }
                reply = &mut call => {
                    return reply.map(tonic::Response::into_inner).map_err(|status| problem(&status, node));
                }
                () = &mut feeding, if !fed => fed = true,
            }
        }
    }

    /// Remembers content that came, for the manifest that will need it.
    async fn uploaded(
        &self,
        repository: &Repository,
        digest: Digest,
        size: ByteSize,
        nodes: &[NodeId],
    ) -> Result<(), Refusal> {
        let now = self.context.env.now();
        let committed = self.context.commit(|state| {
            let mut blob = state.uploaded_blob(digest).cloned().unwrap_or_else(|| UploadedBlob {
                digest,
                size,
                nodes: [].into(),
                repositories: [].into(),
            });
            blob.nodes.extend(nodes);
            blob.repositories
                .insert(repository.name.clone(), now.after(UPLOAD_KEPT));
            let transaction = Transaction::new(now, vec![put(RegistryObject::Blob(blob))]);
            Ok(decided(
                transaction.requiring(unchanged(state, RegistryKey::Blob(digest))),
            ))
        });
        committed.await.map(drop).map_err(Refusal::from)
    }

    pub(super) async fn mount_blob(
        &self,
        repository: &Repository,
        digest: Digest,
        from: &Repository,
    ) -> Result<bool, Refusal> {
        let state = self.newest().await;
        let Some(size) = Contents::of(&state, from).blob(digest, self.context.env.now()) else {
            return Ok(false);
        };
        for node in holders(&state, digest) {
            let request = KeepBlobRequest {
                digest: digest.to_string(),
            };
            if agent(&self.context, node).keep_blob(request).await.is_ok() {
                self.uploaded(repository, digest, ByteSize(size), &[node.id]).await?;
                return Ok(true);
            }
        }
        // Nobody has it now: the client sends it.
        Ok(false)
    }

    pub(super) async fn forget_blob(&self, repository: &Repository, digest: Digest) -> Result<(), Refusal> {
        let now = self.context.env.now();
        let state = self.newest().await;
        if Contents::of(&state, repository).needs(digest) {
            let message = format!("a manifest of {} needs the blob {digest}", repository.familiar);
            return Err(Refusal::new(Code::Denied, message));
        }
        let has = |state: &State| {
            let blob = state.uploaded_blob(digest);
            blob.is_some_and(|blob| blob.repositories.contains_key(&repository.name))
        };
        if !has(&state) {
            return Err(unknown_blob(repository, digest));
        }
        let committed = self.context.commit(|state| {
            let ops = state.uploaded_blob(digest).map(|blob| without(blob, &repository.name));
            let transaction = Transaction::new(now, ops.into_iter().collect());
            Ok(decided(
                transaction.requiring(unchanged(state, RegistryKey::Blob(digest))),
            ))
        });
        committed.await.map(drop).map_err(Refusal::from)
    }
}

/// Takes a repository from an upload's record, and the record with the last one.
pub(super) fn without(blob: &UploadedBlob, repository: &str) -> Op {
    let mut blob = blob.clone();
    blob.repositories.remove(repository);
    if blob.repositories.is_empty() {
        Op::Delete(Key::Registry(RegistryKey::Blob(blob.digest)))
    } else {
        put(RegistryObject::Blob(blob))
    }
}

pub(super) fn put(object: RegistryObject) -> Op {
    Op::Put(Box::new(Object::Registry(object)))
}

pub(super) fn unchanged(state: &State, key: RegistryKey) -> Precondition {
    crate::api::unchanged(state, Key::Registry(key))
}

pub(super) const fn decided(transaction: Transaction) -> Decision {
    Decision {
        transaction,
        changes: Vec::new(),
    }
}

/// That a client broke off, and why.
#[derive(Default)]
struct Broken {
    reason: Mutex<String>,
    noticed: Notify,
}

impl Broken {
    fn because(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.noticed.notify_one();
    }

    fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn feed(
    mut bytes: ByteStream,
    first: UploadPiece,
    pieces: tokio::sync::mpsc::Sender<UploadPiece>,
    broken: Arc<Broken>,
) {
    if pieces.send(first).await.is_err() {
        return;
    }
    loop {
        let next: Result<Option<std::io::Result<Bytes>>, _> = tokio::time::timeout(IDLE_TIMEOUT, bytes.next()).await;
        let data = match next {
            Ok(Some(Ok(data))) => data,
            Ok(None) => return,
            Ok(Some(Err(error))) => {
                broken.because(format!("the client broke off: {error}"));
                return std::future::pending().await;
            }
            Err(_) => {
                broken.because(format!("the client sent nothing for {} s", IDLE_TIMEOUT.as_secs()));
                return std::future::pending().await;
            }
        };
        let piece = UploadPiece {
            piece: Some(upload_piece::Piece::Data(data)),
        };
        // A node that takes no more says why itself.
        if pieces.send(piece).await.is_err() {
            return;
        }
    }
}

fn unknown(upload: &str) -> Refusal {
    Refusal::new(Code::BlobUploadUnknown, format!("there is no upload {upload}"))
}

/// What an agent says of an upload, in the protocol's words.
fn refused(problem: Problem, upload: &str) -> Refusal {
    match problem.class {
        Class::NotFound => unknown(upload),
        Class::Conflict => Refusal::new(Code::RangeInvalid, problem.reason),
        Class::Invalid => Refusal::new(Code::DigestInvalid, problem.reason),
        Class::Denied | Class::Exhausted | Class::Unavailable | Class::Timeout | Class::Internal => problem.into(),
    }
}
