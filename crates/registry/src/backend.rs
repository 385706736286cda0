//! What the protocol needs of whoever keeps the content.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;

use axum::http::Extensions;
use bytes::Bytes;
use futures::Stream;
use gantry_model::{Digest, ImageReference};

use crate::{Access, Code, Login, Refusal};

/// Content on its way.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A repository: an image name without a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Normalised: `docker.io/library/web`.
    pub name: String,
    /// As people write it: `web`.
    pub familiar: String,
    /// As the client wrote it in its path.
    pub written: String,
}

impl Repository {
    /// The repository of a path; tags cannot be in it.
    ///
    /// # Errors
    /// [`Code::NameInvalid`].
    pub fn parse(written: &str) -> Result<Self, Refusal> {
        let invalid = |why: String| Refusal::new(Code::NameInvalid, why);
        if written.contains([':', '@']) {
            return Err(invalid(format!("'{written}' is not the name of a repository")));
        }
        let reference: ImageReference = written.parse().map_err(|error| invalid(format!("{error}")))?;
        Ok(Self {
            name: reference.name(),
            familiar: reference.familiar_repository(),
            written: written.to_string(),
        })
    }
}

/// How a manifest is named within its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestTarget {
    /// By what it is called.
    Tag(String),
    /// By its content.
    Digest(Digest),
}

/// A manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Of its bytes.
    pub digest: Digest,
    /// What it is.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What became of a pushed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// Of its bytes.
    pub digest: Digest,
    /// What it says something about.
    pub subject: Option<Digest>,
}

/// A manifest that says something about another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it is.
    pub media_type: String,
    /// What it holds.
    pub artifact_type: Option<String>,
    /// Free text about it.
    pub annotations: BTreeMap<String, String>,
}

/// A part of an upload.
pub struct Piece {
    /// Where it begins; without it, where the last one ended.
    pub offset: Option<u64>,
    /// Its bytes.
    pub bytes: ByteStream,
    /// With the last piece, the digest of all content.
    pub finish: Option<Digest>,
}

/// A token for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// Its text.
    pub token: String,
    /// For how long it works.
    pub expires_in_s: u64,
}

/// Where content lies, and who may use it. All of it may be asked from any number of tasks at once.
pub trait Backend: Clone + Send + Sync + 'static {
    /// What a connection's certificate allows, if it showed one.
    fn certified(&self, extensions: &Extensions) -> Option<Access>;

    /// What a login allows; none when it is not known.
    fn login(&self, login: Login) -> impl Future<Output = Result<Option<Access>, Refusal>> + Send;

    /// A token that allows what `access` does.
    fn issue(&self, access: Access) -> impl Future<Output = Result<IssuedToken, Refusal>> + Send;

    /// Every repository, as people write it, in order.
    fn repositories(&self) -> impl Future<Output = Result<Vec<String>, Refusal>> + Send;

    /// The tags of a repository, in order; none when there is no such repository.
    fn tags(&self, repository: &Repository) -> impl Future<Output = Result<Option<Vec<String>>, Refusal>> + Send;

    /// A manifest of a repository.
    fn manifest(
        &self,
        repository: &Repository,
        target: &ManifestTarget,
    ) -> impl Future<Output = Result<Manifest, Refusal>> + Send;

    /// Stores a manifest whose content was pushed before, and points the tag at it. The bytes have the digest of the target,
    /// where it is one.
    fn put_manifest(
        &self,
        repository: &Repository,
        target: &ManifestTarget,
        bytes: Bytes,
    ) -> impl Future<Output = Result<StoredManifest, Refusal>> + Send;

    /// Takes a tag, or a manifest with all its tags, from a repository.
    fn delete_manifest(
        &self,
        repository: &Repository,
        target: &ManifestTarget,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// What says something about a manifest of a repository.
    fn referrers(
        &self,
        repository: &Repository,
        subject: Digest,
    ) -> impl Future<Output = Result<Vec<Referrer>, Refusal>> + Send;

    /// Bytes of a blob of a repository.
    fn blob_size(&self, repository: &Repository, digest: Digest) -> impl Future<Output = Result<u64, Refusal>> + Send;

    /// The bytes from `start` up to `end`, of a blob of that many bytes.
    fn read_blob(
        &self,
        digest: Digest,
        start: u64,
        end: u64,
    ) -> impl Future<Output = Result<ByteStream, Refusal>> + Send;

    /// Takes a blob from a repository.
    fn delete_blob(&self, repository: &Repository, digest: Digest) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Makes a blob of one repository part of another; false when the one does not have it.
    fn mount(
        &self,
        repository: &Repository,
        digest: Digest,
        from: &Repository,
    ) -> impl Future<Output = Result<bool, Refusal>> + Send;

    /// Begins an upload and names it.
    fn begin_upload(&self, repository: &Repository) -> impl Future<Output = Result<String, Refusal>> + Send;

    /// Bytes of an upload that have come.
    fn upload_size(&self, repository: &Repository, upload: &str) -> impl Future<Output = Result<u64, Refusal>> + Send;

    /// Takes a piece of an upload; returns how many bytes have come. What came of one that breaks off stays.
    fn write_upload(
        &self,
        repository: &Repository,
        upload: &str,
        piece: Piece,
    ) -> impl Future<Output = Result<u64, Refusal>> + Send;

    /// Drops an upload.
    fn cancel_upload(&self, repository: &Repository, upload: &str) -> impl Future<Output = Result<(), Refusal>> + Send;
}
