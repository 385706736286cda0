//! Stages, what each starts from and takes from, and which of them a target needs.
//!
//! **Invariant:** a stage takes only from stages before it, so the graph has no cycle and the order of the file is an order of
//! building.

use std::collections::BTreeSet;

use gantry_model::ImageReference;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::diagnostic::{Diagnostic, Span};
use crate::operation::{Source, Step};
use crate::platform::Platform;

/// A stage by its place in the file, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageId(pub u32);

/// The stages of a Dockerfile, and which of them the target needs.
#[derive(Debug, Clone)]
pub struct Graph {
    /// All of them, in the order of the file; [`StageId`] counts them.
    pub stages: Vec<Stage>,
    /// What to build.
    pub target: StageId,
    /// What the target needs, itself included, each after what it needs. `ONBUILD` triggers may add to it: see
    /// [`ResolvedStage::needs`].
    pub needed: Vec<StageId>,
    /// What the result is for.
    pub platform: Platform,
    /// `SOURCE_DATE_EPOCH`, in seconds: times of files and of the image are this at most.
    pub source_date_epoch: Option<u64>,
    /// Found while planning, in the order of lines.
    pub warnings: Vec<Diagnostic>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Which one.
    pub id: StageId,
    /// Its name in lower case; `stage-1` without one.
    pub name: String,
    /// What it starts from.
    pub base: Base,
    /// What its base must be for.
    pub platform: Platform,
    /// Where `FROM` stands.
    pub span: Span,
    /// Stages that it starts or takes from.
    pub needs: BTreeSet<StageId>,
    /// Images and named contexts that it takes from, its base not among them.
    pub sources: BTreeSet<Source>,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(StageId),
    /// An image.
    Image(ImageReference),
    /// `--build-context NAME=`; it may be an image or a folder. `replaces` is the stage of that name: nothing of it is done.
    Context {
        /// The name.
        name: String,
        /// All instructions of the stage are left out.
        replaces: bool,
    },
}

/// What a stage gets from what it starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Configuration of the image, or of the earlier stage when it was done.
    pub config: Config,
    /// `ARG`s of the earlier stage.
    pub(crate) arguments: Vec<(String, Option<String>)>,
    /// The earlier stage has said `WORKDIR`.
    pub(crate) has_workdir: bool,
}

impl Inherited {
    /// From an image with this configuration; `Config::default()` for `scratch` and for folders.
    #[must_use]
    pub fn image(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }
}

/// A stage with every variable replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedStage {
    /// Which one.
    pub id: StageId,
    /// `[build 1/5] FROM docker.io/library/debian:12`; `None` when it starts from a stage or from nothing.
    pub base_title: Option<String>,
    /// In order; the base image's `ONBUILD` triggers first.
    pub steps: Vec<Step>,
    /// Configuration when it is done; the target's has the labels of the command line.
    pub config: Config,
    /// Stages that it takes from, those of triggers included; its base is not among them.
    pub needs: BTreeSet<StageId>,
    /// For stages that start from this one.
    pub inherited: Inherited,
    /// Found while replacing, in the order of lines.
    pub warnings: Vec<Diagnostic>,
}
