//! The content-addressed image store of one node: import, load and save, names, unpacked layers, transfer between nodes.
//!
//! Synchronous: callers have threads for blocking work. One process has a store open at a time; within it, any number of
//! threads use it at once.
//!
//! **Invariant:** content is trusted for its digest only. Every tar and document is taken for hostile: paths stay below their
//! root, sizes and counts are bounded ([`limits`]), and nothing is visible before it is complete, verified and on disk.
//! Deliberately not here: registries (pull and push), building, mounting.

mod batch;
mod blobs;
mod catalog;
mod compress;
mod config;
mod document;
mod error;
mod hashing;
mod import;
mod keyed_lock;
mod layers;
pub mod limits;
mod load;
mod save;
mod store;
mod tarball;
mod unpack;

pub use config::{ImageConfig, ImportOptions};
pub use document::Descriptor;
pub use error::{ImageError, Result};
pub use save::Format;
pub use store::{ImageInfo, Removed, Selector, Store};
pub use tarball::TarError;
