//! The build executor of one node: from a Dockerfile's graph to layers and an image.
//!
//! [`Builder::build`] plans (`gantry-dockerfile`), gets base images, and works through the stages side by side. Each step has a
//! key from the content of everything that goes into it; the cache knows the layer that a key made before. Steps that are not
//! known run: commands in containers (`gantry-runtime`), the rest in the executor itself on a mounted view of the layers.
//! What a step wrote becomes a layer of the store (`gantry-image`).
//!
//! **Invariant:** only what the target needs is done, and a context's files are asked for when a step needs them and the node
//! lacks them.
//! **Invariant:** nothing of an image or a context is looked up outside the root it belongs to.
//! **Invariant:** a secret is in memory alone, and in no layer, key, record or log of this crate.
//! Synchronous: a build blocks its thread and uses threads of its own; whoever waits for it sets [`Cancel`] to end it.
//! Deliberately not here: reading Dockerfiles, the store, registries, the connection to the person.

mod add;
mod base;
mod build;
mod builder;
mod cache;
mod cancel;
mod client;
mod contents;
mod copy;
mod emulation;
mod error;
mod exchange;
mod overlay;
mod permits;
mod result;
mod run;
mod step;
mod tree;
mod work;

pub use add::download::download;
pub use builder::{Builder, BuilderConfig, PrunedCache, Usage};
pub use cache::{CacheRecord, ROOTS};
pub use cancel::Cancel;
pub use client::{Attached, BaseImages, Client, HostNetwork, Networks, WantedCache, WantedImage};
pub use contents::{Contents, Incoming};
pub use error::{BuildError, Result};
