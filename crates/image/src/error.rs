//! What can go wrong with images, and how a person reads it.

use std::io;
use std::path::{Path, PathBuf};

use gantry_model::{ByteSize, Class, Digest, Problem};

use crate::tarball::TarError;

/// A failed operation on the image store.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system refused.
    #[error("{act} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `write`.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// What the caller gave to read from failed.
    #[error("read {what}: {source}")]
    Source {
        /// What was being read, such as `the image archive`.
        what: String,
        /// Its reason.
        source: io::Error,
    },
    /// What the caller gave to write to failed.
    #[error("write {what}: {source}")]
    Sink {
        /// What was being written.
        what: String,
        /// Its reason.
        source: io::Error,
    },
    /// A tar is damaged or hostile.
    #[error("{what}: {source}")]
    Archive {
        /// Which tar, such as `layer sha256:…`.
        what: String,
        /// What is wrong with it.
        source: TarError,
    },
    /// A layer could not be laid out as files.
    #[error("unpack {what}: member '{member}': {source}")]
    Member {
        /// Which layer.
        what: String,
        /// The path within the layer.
        member: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The archive holds no image in a form known here.
    #[error("the archive is no image: {reason}")]
    NotAnImage {
        /// What is missing.
        reason: String,
    },
    /// A JSON document of an image does not follow its specification.
    #[error("{document}: {reason}")]
    Document {
        /// Which, such as `manifest sha256:…`.
        document: String,
        /// What is wrong.
        reason: String,
    },
    /// Content is not what its digest says.
    #[error("{what} has the digest {found}, expected {expected}")]
    WrongDigest {
        /// What was checked.
        what: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// Content is longer or shorter than announced.
    #[error("{what} has {found} bytes, expected {expected}")]
    WrongSize {
        /// What was checked.
        what: String,
        /// Announced bytes.
        expected: u64,
        /// Bytes that came, or came before it was cut off.
        found: u64,
    },
    /// A resumed transfer does not continue where the last one ended.
    #[error("blob {digest} continues at byte {expected}, not at {offset}")]
    WrongOffset {
        /// The blob.
        digest: Digest,
        /// Bytes already here.
        expected: u64,
        /// Where the caller wanted to continue.
        offset: u64,
    },
    /// A piece of an upload does not continue where the last one ended.
    #[error("upload {upload} continues at byte {expected}, not at {offset}")]
    WrongUploadOffset {
        /// The upload.
        upload: String,
        /// Bytes already here.
        expected: u64,
        /// Where the caller wanted to continue.
        offset: u64,
    },
    /// An image or blob is not in this store.
    #[error("no such {what}: {name}")]
    NotFound {
        /// `image` or `blob`.
        what: &'static str,
        /// As the user wrote it.
        name: String,
    },
    /// A prefix of a digest that fits several images.
    #[error("the image id '{prefix}' is ambiguous: {count} images start with it")]
    Ambiguous {
        /// What the user wrote.
        prefix: String,
        /// How many images fit.
        count: usize,
    },
    /// The image is used by a replica of this node.
    #[error("image {digest} is in use")]
    InUse {
        /// The image.
        digest: Digest,
    },
    /// The image is there in part.
    #[error("image {digest} is incomplete: {missing} of its blobs are not here")]
    Incomplete {
        /// The image.
        digest: Digest,
        /// How many blobs are missing.
        missing: usize,
    },
    /// Another process has the store open.
    #[error("image store {} is open in another process", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// A later version of Gantry wrote the store.
    #[error("image store {} has format {found}, this version knows up to {known}", path.display())]
    NewerFormat {
        /// The store's index.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The latest one known here.
        known: u32,
    },
    /// What a build step left cannot become a layer.
    #[error("'/{path}' cannot go into a layer: {reason}")]
    Upper {
        /// The path within the step's root.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// An image asks for more than the documented limits allow.
    #[error("{what} has more than {limit} {unit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, ImageError>;

impl ImageError {
    /// For `map_err` on file system calls.
    pub(crate) fn io(act: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { act, path, source }
    }

    /// Whether the disk is full, wherever it showed.
    fn disk_is_full(&self) -> bool {
        let (Self::Io { source, .. } | Self::Member { source, .. } | Self::Sink { source, .. }) = self else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// The kind of failure.
    #[must_use]
    pub fn class(&self) -> Class {
        if self.disk_is_full() {
            return Class::Exhausted;
        }
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Class::NotFound,
            Self::Io { .. } | Self::Sink { .. } | Self::Member { .. } => Class::Internal,
            Self::Source { source, .. } if source.kind() == io::ErrorKind::NotFound => Class::NotFound,
            Self::Source { .. }
            | Self::WrongOffset { .. }
            | Self::WrongUploadOffset { .. }
            | Self::Incomplete { .. } => Class::Unavailable,
            Self::Archive { .. }
            | Self::NotAnImage { .. }
            | Self::Document { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::Ambiguous { .. }
            | Self::Upper { .. }
            | Self::TooLarge { .. } => Class::Invalid,
            Self::NotFound { .. } => Class::NotFound,
            Self::InUse { .. } | Self::Locked { .. } | Self::NewerFormat { .. } => Class::Conflict,
        }
    }

    /// What it is about.
    fn object(&self) -> String {
        match self {
            Self::Io { path, .. } | Self::Locked { path } | Self::NewerFormat { path, .. } => {
                path.display().to_string()
            }
            Self::Source { what, .. }
            | Self::Sink { what, .. }
            | Self::Archive { what, .. }
            | Self::Member { what, .. }
            | Self::WrongDigest { what, .. }
            | Self::WrongSize { what, .. }
            | Self::TooLarge { what, .. } => what.clone(),
            Self::NotAnImage { .. } => "image archive".to_string(),
            Self::Upper { path, .. } => format!("/{path}"),
            Self::Document { document, .. } => document.clone(),
            Self::WrongOffset { digest, .. } => format!("blob {digest}"),
            Self::WrongUploadOffset { upload, .. } => format!("upload {upload}"),
            Self::NotFound { what, name } => format!("{what} {name}"),
            Self::Ambiguous { prefix, .. } => format!("image {prefix}"),
            Self::InUse { digest } | Self::Incomplete { digest, .. } => format!("image {digest}"),
        }
    }

    /// Why, without the object.
    fn reason(&self) -> String {
        match self {
            Self::Io { act, source, .. } => format!("cannot {act}: {source}"),
            Self::Source { source, .. } => format!("cannot be read: {source}"),
            Self::Sink { source, .. } => format!("cannot be written: {source}"),
            Self::Archive { source, .. } => source.to_string(),
            Self::Member { member, source, .. } => format!("cannot unpack '{member}': {source}"),
            Self::NotAnImage { reason } | Self::Document { reason, .. } => reason.clone(),
            Self::Upper { reason, .. } => format!("cannot go into a layer: {reason}"),
            Self::WrongDigest { expected, found, .. } => format!("the content has the digest {found}, not {expected}"),
            Self::WrongSize { expected, found, .. } => format!("{found} bytes came, {expected} were announced"),
            Self::WrongOffset { expected, offset, .. } | Self::WrongUploadOffset { expected, offset, .. } => {
                format!("continues at byte {expected}, not at {offset}")
            }
            Self::NotFound { .. } => "not in the image store of this node".to_string(),
            Self::Ambiguous { count, .. } => format!("{count} images start with it"),
            Self::InUse { .. } => "a replica of this node uses it".to_string(),
            Self::Incomplete { missing, .. } => format!("{missing} of its blobs are not on this node"),
            Self::Locked { .. } => "another process has this image store open".to_string(),
            Self::NewerFormat { found, known, .. } => {
                format!("written in format {found}, this version of gantry knows up to {known}")
            }
            Self::TooLarge {
                limit, unit: "bytes", ..
            } => format!("larger than {}", ByteSize(*limit)),
            Self::TooLarge { limit, unit, .. } => format!("has more than {limit} {unit}"),
        }
    }

    /// The next thing to do.
    fn remedy(&self) -> &'static str {
        if self.disk_is_full() {
            return "free some space on the node's disk, for example with gantry image prune";
        }
        match self {
            Self::Archive { source, .. } => source.remedy(),
            Self::NotAnImage { .. } => {
                "give an archive of docker save, podman save or skopeo; a root filesystem goes in with gantry image import"
            }
            Self::Source { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::WrongOffset { .. }
            | Self::WrongUploadOffset { .. } => "transfer it again",
            Self::NotFound { what: "image", .. } => {
                "`gantry image ls` shows what is here; `gantry image pull`, `load` or `import` brings it in"
            }
            Self::Ambiguous { .. } => "write more digits",
            Self::InUse { .. } => "remove the services that use it first",
            Self::Incomplete { .. } => "load it again on this node, or bring back a node that holds it",
            Self::Locked { .. } => "stop the other gantry agent, or give this one a data folder of its own",
            Self::NewerFormat { .. } => "run the version of gantry that wrote it, or a later one",
            Self::Document { .. } => "build or save the image again",
            Self::TooLarge { .. } => "split the image into smaller layers",
            Self::Io { .. } | Self::Sink { .. } | Self::Member { .. } | Self::NotFound { .. } | Self::Upper { .. } => {
                ""
            }
        }
    }

    /// For people.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem::new(self.class(), self.object(), self.reason()).remedy(self.remedy())
    }
}

impl From<ImageError> for Problem {
    fn from(error: ImageError) -> Self {
        error.problem()
    }
}
