//! What a registry may demand of this machine, and what this machine demands of a registry.

use std::time::Duration;

/// Bytes of a manifest or index. Registries must accept 4 MiB (OCI distribution specification, "Pushing Manifests"); a larger
/// one is held in memory for nothing.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Bytes of any other JSON answer: tags, referrers, tokens. A page of 1,000 tags of 128 bytes is 128 KiB.
pub const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Bytes of an error's body that are read; registries send some hundred.
pub const ERROR_BYTES_MAX: u64 = 64 << 10;
/// Downloads at once from one registry: Docker's `max-concurrent-downloads`.
pub const DOWNLOADS_MAX: usize = 3;
/// Uploads at once to one registry: Docker's `max-concurrent-uploads`.
pub const UPLOADS_MAX: usize = 5;
/// Redirects of one request; honest registries need one or two. Go's and curl's defaults are 10 and 50.
pub const REDIRECTS_MAX: usize = 10;
/// Attempts without any progress before a request is given up. With [`BACKOFF_MIN`] doubling that is about 8 s of waiting.
pub const ATTEMPTS_MAX: u32 = 6;
/// Attempts where there is no connection at all: a wrong name or a closed port is told soon.
pub const CONNECT_ATTEMPTS_MAX: u32 = 3;
/// Wait before the second attempt.
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// A registry that asks for more patience than this (`Retry-After`) is reported instead. Docker Hub's rate limit lasts hours.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Name resolution, TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// No byte for this long, in either direction, is a stall.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A registry on object storage copies a whole blob before it answers the end of an upload.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(300);
/// A credential helper may ask a person for a key.
pub const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// Blobs up to this size are sent in one request, as part of ending the upload.
pub const MONOLITHIC_BYTES_MAX: u64 = 1 << 20;
/// Bytes of one PATCH: what is sent again at most when a connection breaks and the registry forgot where it was. Large, since
/// some registries write an object per chunk.
pub const CHUNK_BYTES: u64 = 256 << 20;
/// Read from disk at once while uploading.
pub(crate) const READ_BYTES: usize = 256 << 10;
/// Pieces of a download that wait for the disk. hyper reads up to 400 KiB at once, so a download holds about 3 MiB at most.
pub(crate) const PIECES_MAX: usize = 8;
/// Pages of a listing; at 1,000 tags each that is ten million.
pub const PAGES_MAX: usize = 10_000;
/// A token's life when its service does not say (Docker token specification: 60 s).
pub(crate) const TOKEN_LIFE_DEFAULT: Duration = Duration::from_secs(60);
/// A token is replaced this much before it ends, so that it does not end on its way.
pub(crate) const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// Tokens kept; a page of them is a few hundred KiB.
pub(crate) const TOKENS_MAX: usize = 256;
/// Children of an index that are pulled or pushed; public images have about 20, attestations included.
pub const INDEX_CHILDREN_MAX: usize = 256;

const _: () = assert!(MONOLITHIC_BYTES_MAX < CHUNK_BYTES);
const _: () = assert!(CONNECT_ATTEMPTS_MAX <= ATTEMPTS_MAX);
const _: () = assert!(STALL_TIMEOUT.as_secs() < COMMIT_TIMEOUT.as_secs());
const _: () = assert!(BACKOFF_MIN.as_millis() < BACKOFF_MAX.as_millis());
