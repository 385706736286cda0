//! What the cluster stores: one type per table of the replicated state.

mod cluster;
mod data;
mod image;
mod node;
mod registry;
mod replica;
mod rollout;
mod service;
mod token;

pub use cluster::{ClusterConfig, ClusterRecord, RootCertificate};
pub use data::DataRecord;
pub use image::{BlobRef, ImageRecord, LocalImage, ManifestFacts, ManifestKind, TagRecord};
pub use node::{Availability, LABEL_OVERCOMMIT, LABEL_RESERVED, LABEL_TAINT, Node, NodeFacts, NodeStatus, check_label};
pub use registry::{RegistryAction, RegistryToken, RepositoryManifest, RepositoryPattern, UploadedBlob};
pub use replica::{Replica, Slot};
pub use rollout::{Rollout, RolloutKind, RolloutState};
pub use service::{HISTORY_REVISIONS, JobEnd, JobStatus, RevisionRecord, Service, ServiceNetwork};
pub use token::{Role, TokenRecord};
