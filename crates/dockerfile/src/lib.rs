//! Dockerfiles as BuildKit reads them: text to instructions, instructions to a graph of stages, stages to operations.
//!
//! Three steps, each pure. [`parse`] reads the text; [`plan()`] finds which stages a target needs and what each starts from;
//! [`Graph::resolve`] gives one stage's operations with every variable replaced, once the configuration of what it starts from
//! is known. An operation says which inputs make its result ([`Operation::inputs`]) and, given their digests, the key under
//! which the result is kept ([`Operation::key`]).
//!
//! **Invariant:** pure: no I/O, no clock, no randomness; the same text and options give the same operations and keys anywhere.
//! **Invariant:** no input panics, and none takes more than the documented limits allow ([`limits`]).
//! **Invariant:** a key depends on what can change the result alone: a build argument that no instruction declares, the
//! spelling of a line, or a comment changes no key.
//! Deliberately not here: reading files, running anything (`build`), showing diagnostics with colours (`cli`).

pub mod ast;
mod chmod;
mod config;
mod diagnostic;
mod display;
mod duration;
mod expand;
mod git;
mod history;
mod ignore;
mod key;
pub mod limits;
mod lint;
mod operation;
mod options;
mod parse;
mod paths;
mod pattern;
pub mod plan;
mod platform;
mod signals;
mod suggest;

pub use config::{Config, HealthCheck};
pub use diagnostic::{Diagnostic, Rule, Severity, Span};
pub use expand::ExpandError;
pub use ignore::{IgnoreError, IgnoreRules};
pub use key::Key;
pub use lint::refusal;
pub use operation::{
    Add, AddSource, Chmod, Copy, GitSource, History, InlineFile, Input, MakeFolder, Mount, Network, Operation, Run,
    Script, Security, Sharing, Source, Step,
};
pub use options::PlanOptions;
pub use parse::parse;
pub use plan::{Base, Graph, Inherited, ResolvedStage, Stage, StageId, check, plan};
pub use platform::{Platform, PlatformError};
