//! The cluster's own registry: the protocol of `gantry_registry` over the replicated state and the stores of nodes.
//!
//! Its repositories are the names of the cluster's images: what has a tag in the cluster can be pulled, and what is pushed has
//! one. Any server answers. Metadata is in the state; content lies on nodes and streams through, held back as the slower end
//! asks for it.
//!
//! | module | does |
//! |---|---|
//! | `contents` | what a repository holds, and which nodes have it: pure, over the state |
//! | `nodes` | agents as this server reaches them |
//! | `transfer` | bytes of blobs, from one holder after another |
//! | `uploads`, `manifests` | what is pushed, and taken away |
//! | `login` | who may do what |
//! | `copies` | how many nodes keep what, decided by the leader |
//!
//! **Invariant:** a repository shows only what was pushed to it or is called so; that other repositories have the same content
//! is nobody's business.

mod contents;
pub(crate) mod copies;
mod login;
mod manifests;
mod nodes;
mod transfer;
mod uploads;

use std::sync::Arc;

use axum::http::Extensions;
use bytes::Bytes;
use gantry_model::{Digest, ImageReference};
use gantry_registry::{
    Access, Backend, ByteStream, Code, IssuedToken, Login, Manifest, ManifestTarget, Piece, Referrer, Refusal,
    Repository, StoredManifest,
};
use gantry_state::State;

use crate::context::Context;
use contents::Contents;
use manifests::ManifestCache;

pub(crate) use contents::{by_load, holders, is_known};
pub(crate) use copies::keep_copies;
pub(crate) use nodes::holder;

/// How long a server looks for the newest state before it answers from its own: pulls go on without a leader.
const NEWEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// See the module.
#[derive(Clone)]
pub(crate) struct Registry {
    context: Arc<Context>,
    cache: Arc<ManifestCache>,
}

impl Registry {
    /// Serves from the given context.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            cache: Arc::default(),
        }
    }

    /// The newest state that can be had soon.
    async fn newest(&self) -> State {
        let newest = tokio::time::timeout(NEWEST_TIMEOUT, self.context.raft.linearizable()).await;
        match newest {
            Ok(Ok(state)) => state,
            Ok(Err(_)) | Err(_) => self.context.raft.state(),
        }
    }
}

/// What a reference means that may name one of the cluster's servers as its registry.
pub(crate) fn own_name(context: &Context, text: &str) -> Option<String> {
    let reference: ImageReference = text.parse().ok()?;
    let members = context.raft.members();
    let is_server = |registry: &str| members.servers.iter().any(|server| server.address == registry);
    let meant = reference.clone().of_cluster(is_server);
    (meant != reference).then(|| meant.familiar())
}

impl Backend for Registry {
    fn certified(&self, extensions: &Extensions) -> Option<Access> {
        login::certified(extensions)
    }

    async fn login(&self, login: Login) -> Result<Option<Access>, Refusal> {
        login::login(&self.context, &login)
    }

    async fn issue(&self, access: Access) -> Result<IssuedToken, Refusal> {
        login::issue(&self.context, access)
    }

    async fn repositories(&self) -> Result<Vec<String>, Refusal> {
        Ok(contents::repositories(&self.newest().await))
    }

    async fn tags(&self, repository: &Repository) -> Result<Option<Vec<String>>, Refusal> {
        let state = self.newest().await;
        Ok(Contents::of(&state, repository).tags())
    }

    async fn manifest(&self, repository: &Repository, target: &ManifestTarget) -> Result<Manifest, Refusal> {
        let state = self.newest().await;
        self.read_manifest(&state, repository, target).await
    }

    async fn put_manifest(
        &self,
        repository: &Repository,
        target: &ManifestTarget,
        bytes: Bytes,
    ) -> Result<StoredManifest, Refusal> {
        self.store_manifest(repository, target, bytes).await
    }

    async fn delete_manifest(&self, repository: &Repository, target: &ManifestTarget) -> Result<(), Refusal> {
        self.forget_manifest(repository, target).await
    }

    async fn referrers(&self, repository: &Repository, subject: Digest) -> Result<Vec<Referrer>, Refusal> {
        let state = self.newest().await;
        Ok(Contents::of(&state, repository).referrers(subject))
    }

    async fn blob_size(&self, repository: &Repository, digest: Digest) -> Result<u64, Refusal> {
        let state = self.newest().await;
        let size = Contents::of(&state, repository).blob(digest, self.context.env.now());
        size.ok_or_else(|| unknown_blob(repository, digest))
    }

    async fn read_blob(&self, digest: Digest, start: u64, end: u64) -> Result<ByteStream, Refusal> {
        transfer::read(&self.context, digest, start, end).await
    }

    async fn delete_blob(&self, repository: &Repository, digest: Digest) -> Result<(), Refusal> {
        self.forget_blob(repository, digest).await
    }

    async fn mount(&self, repository: &Repository, digest: Digest, from: &Repository) -> Result<bool, Refusal> {
        self.mount_blob(repository, digest, from).await
    }

    async fn begin_upload(&self, repository: &Repository) -> Result<String, Refusal> {
        self.open_upload(repository).await
    }

    async fn upload_size(&self, _: &Repository, upload: &str) -> Result<u64, Refusal> {
        self.size_of_upload(upload).await
    }

    async fn write_upload(&self, repository: &Repository, upload: &str, piece: Piece) -> Result<u64, Refusal> {
        self.append_upload(repository, upload, piece).await
    }

    async fn cancel_upload(&self, _: &Repository, upload: &str) -> Result<(), Refusal> {
        self.drop_upload(upload).await
    }
}

fn unknown_blob(repository: &Repository, digest: Digest) -> Refusal {
    Refusal::new(
        Code::BlobUnknown,
        format!("{} has no blob {digest}", repository.familiar),
    )
}

fn unknown_manifest(repository: &Repository, target: &ManifestTarget) -> Refusal {
    let target = match target {
        ManifestTarget::Tag(tag) => format!(":{tag}"),
        ManifestTarget::Digest(digest) => format!("@{digest}"),
    };
    Refusal::new(
        Code::ManifestUnknown,
        format!("there is no {}{target}", repository.familiar),
    )
}
