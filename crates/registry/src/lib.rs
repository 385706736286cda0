//! The OCI distribution protocol (1.1) as a server speaks it: paths, headers, ranges, pages, errors and authentication.
//!
//! | module | holds |
//! |---|---|
//! | `backend` | what the protocol needs: where manifests, blobs and uploads are, and who may do what |
//! | `path` | which operation a request asks for |
//! | `serve` | a request from beginning to end: who asks, may they, what is answered |
//! | `manifests`, `blobs`, `uploads`, `lists`, `token` | the operations |
//! | `refusal` | errors as clients know them |
//!
//! **Invariant:** nothing is read or written before the caller is known and allowed to. **Invariant:** blobs pass through as
//! streams; only manifests, which are bounded, are held in memory.
//! Deliberately not here: where content lies and how it survives (`control-plane`, `agent`), TLS and connections (`rpc`).

mod access;
mod backend;
mod blobs;
mod lists;
mod manifests;
mod path;
mod refusal;
mod serve;
mod token;
mod uploads;

pub use access::{Access, Allowed, Login, Scope};
pub use backend::{
    Backend, ByteStream, IssuedToken, Manifest, ManifestTarget, Piece, Referrer, Repository, StoredManifest,
};
pub use refusal::{Code, Refusal};
pub use serve::router;
pub use token::parse_scopes;

/// Largest manifest that is taken: what registries must accept at least (OCI distribution specification, "Pushing Manifests").
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// Entries of a list on one page, whatever the client asks for.
pub const PAGE_MAX: usize = 10_000;
