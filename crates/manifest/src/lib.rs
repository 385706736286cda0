//! Compose files to the model, with diagnostics that point at line and column.
//!
//! **Invariant:** pure. Files are read only through [`Files`], so the same input gives the same application anywhere.
//! **Invariant:** no input panics or takes more than the documented limits allow ([`limits`]).
//! **Invariant:** the application depends on the client's machine no more: paths are absolute, contents are inline, variables
//! are replaced.
//! Deliberately not here: reading the process environment or the disk (`cli`), pinning digests and content versions
//! (`control-plane`), Kubernetes manifests.

mod compose;
mod diagnostic;
mod env_file;
pub mod limits;
mod load;
mod render;
mod suggest;
mod words;
mod yaml;

pub use compose::{ImageSource, PullPolicy};
pub use diagnostic::{Diagnostic, Severity, Span};
pub use env_file::{EnvFileError, env_file};
pub use load::{Files, Loaded, MemoryFiles, Options, Source, load};
pub use render::render;
