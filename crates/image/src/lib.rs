//! The content-addressed image store of one node: import, load and save, names, unpacked layers, layers and images made here,
//! transfer to and from other nodes and registries, verification and collection.
//!
//! Synchronous: callers have threads for blocking work. One process has a store open at a time; within it, any number of
//! threads use it at once.
//!
//! **Invariant:** content is trusted for its digest only. Every tar and document is taken for hostile: paths stay below their
//! root, sizes and counts are bounded ([`limits`]), and nothing is visible before it is complete, verified and on disk.
//! Deliberately not here: how registries are spoken to, how images are built, mounting.

mod batch;
mod blobs;
mod catalog;
mod commit;
mod compress;
mod config;
mod config_document;
mod diff;
mod document;
mod error;
mod flatten;
mod gc;
mod gzip;
mod hashing;
mod import;
mod inspect;
mod keyed_lock;
mod layer_record;
mod layers;
mod lease;
pub mod limits;
mod load;
mod manifests;
mod pipeline;
mod receive;
mod save;
mod store;
mod tarball;
mod unpack;
mod uploads;
mod usage;
mod verified;
mod verify;
mod write;

pub use commit::{CommittedLayer, LayerCompression, UpperLayer, Workspace};
pub use config::{ImageConfig, ImportOptions};
pub use config_document::{ConfigDocument, HealthcheckConfig, HistoryEntry, RootFs, RuntimeConfig};
pub use document::{Descriptor, Platform};
pub use error::{ImageError, Result};
pub use gc::{DiskUse, GcPolicy, PruneOptions, Removed, mark};
pub use inspect::{HistoryStep, ImageInspection};
pub use layer_record::chain_id;
pub use lease::{Lease, LeaseId, LeaseRecord, Node};
pub use manifests::{ManifestInfo, ManifestKind};
pub use save::Format;
pub use store::{ImageInfo, Selector, Store};
pub use tarball::TarError;
pub use uploads::UploadId;
pub use usage::{ImageUsage, StoreUsage};
pub use verified::VerifiedReader;
pub use verify::Finding;
pub use write::{ImageDraft, IndexDraft, ManifestFormat};
