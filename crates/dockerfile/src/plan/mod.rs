//! Stages, what each starts from and takes from, and which of them a target needs.
//!
//! **Invariant:** a stage takes only from stages before it, so the graph has no cycle and the order of the file is an order of
//! building.

mod arguments;
mod base;
mod copying;
mod mounts;
mod ports;
mod resolve;
mod settings;
mod sources;
mod title;

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::ImageReference;
use serde::{Deserialize, Serialize};

use crate::ast::Dockerfile;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, Span};
use crate::lint::Lints;
use crate::operation::{Source, Step};
use crate::options::PlanOptions;
use crate::platform::Platform;
use crate::suggest::{did_you_mean, nearest};
use arguments::Globals;

/// A stage by its place in the file, from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// `--build-arg`s that nothing declares.
    pub unused_args: BTreeSet<String>,
    /// Found while reading and planning, in the order of lines.
    pub warnings: Vec<Diagnostic>,
    shared: Arc<Shared>,
}

/// What resolving needs of the file and the options.
#[derive(Debug)]
struct Shared {
    dockerfile: Dockerfile,
    options: PlanOptions,
    globals: Globals,
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
    /// The configuration was not looked up.
    pub(crate) is_unknown: bool,
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

    /// From an image that was not looked up: for checks without a network. Variables that the image may define are not
    /// reported as undefined.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            is_unknown: true,
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

/// Finds what a target needs.
///
/// # Errors
/// Everything about stages that cannot be, in the order of lines.
pub fn plan(dockerfile: &Dockerfile, options: PlanOptions) -> Result<Graph, Vec<Diagnostic>> {
    let mut lints = Lints::new(dockerfile.directives.check.clone());
    let globals = Globals::read(dockerfile, &options, &options.build_args).map_err(|error| vec![error])?;
    base::check_defaults(dockerfile, &options, &mut lints);
    let shared = Shared {
        dockerfile: dockerfile.clone(),
        options,
        globals,
    };
    let mut stages = Vec::new();
    let mut errors = Vec::new();
    for index in 0..dockerfile.stages.len() {
        match shared.stage(index, &stages, &mut lints) {
            Ok(stage) => stages.push(stage),
            Err(found) => {
                errors.extend(found);
                stages.push(shared.broken_stage(index));
            }
        }
    }
    let target = shared
        .target(&stages)
        .map_err(|error| errors.push(error))
        .unwrap_or_default();
    let source_date_epoch = shared
        .source_date_epoch()
        .map_err(|error| errors.push(error))
        .unwrap_or_default();
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut warnings = lints.into_sorted();
    warnings.extend(dockerfile.warnings.iter().cloned());
    warnings.sort_by_key(|warning| warning.span);
    Ok(Graph {
        target,
        needed: needed(&stages, target),
        platform: shared.platform().clone(),
        source_date_epoch,
        unused_args: shared.unused_args(),
        warnings,
        stages,
        shared: Arc::new(shared),
    })
}

/// Everything that the checks find without looking at any image; errors end it.
#[must_use]
pub fn check(dockerfile: &Dockerfile, options: PlanOptions) -> Vec<Diagnostic> {
    let all = options.target.is_none();
    let graph = match plan(dockerfile, options) {
        Ok(graph) => graph,
        Err(errors) => return errors,
    };
    let mut resolved: Vec<Option<Inherited>> = vec![None; graph.stages.len()];
    let mut found = graph.warnings.clone();
    for stage in &graph.stages {
        if !all && !graph.needed.contains(&stage.id) {
            continue;
        }
        let inherited = match &stage.base {
            Base::Scratch => Inherited::default(),
            Base::Stage(base) => resolved
                .get(base.0 as usize)
                .cloned()
                .flatten()
                .unwrap_or_else(Inherited::unknown),
            Base::Image(_) | Base::Context { .. } => Inherited::unknown(),
        };
        match graph.resolve(stage.id, &inherited) {
            Ok(stage) => {
                found.extend(stage.warnings);
                resolved[stage.id.0 as usize] = Some(stage.inherited);
            }
            Err(errors) => found.extend(errors),
        }
    }
    found.sort_by_key(|diagnostic| diagnostic.span);
    found.dedup();
    found
}

/// In the order of the file, which is an order of building.
fn needed(stages: &[Stage], target: StageId) -> Vec<StageId> {
    let mut wanted = BTreeSet::from([target]);
    for stage in stages.iter().rev() {
        if wanted.contains(&stage.id) {
            wanted.extend(&stage.needs);
        }
    }
    wanted.into_iter().collect()
}

impl Graph {
    /// A stage by its id; ids come from this graph.
    ///
    /// # Panics
    /// When the id is another graph's.
    #[must_use]
    pub fn stage(&self, id: StageId) -> &Stage {
        &self.stages[id.0 as usize]
    }

    /// The stage that was likely meant by the name of an image that does not exist.
    #[must_use]
    pub fn similar_stage(&self, image: &ImageReference) -> Option<&str> {
        let names = self.stages.iter().map(|stage| stage.name.as_str());
        nearest(&image.familiar_repository(), names)
    }

    /// The error of a file that asks for no build with warnings, if it has some: see [`refusal`](crate::refusal).
    #[must_use]
    pub fn refusal(&self, warnings: &[Diagnostic]) -> Option<Diagnostic> {
        crate::lint::refusal(&self.shared.dockerfile.directives.check, warnings)
    }
}

impl Shared {
    fn platform(&self) -> &Platform {
        self.options
            .target_platform
            .as_ref()
            .unwrap_or(&self.options.build_platform)
    }

    fn target(&self, stages: &[Stage]) -> Result<StageId, Diagnostic> {
        let last = stages.len().saturating_sub(1);
        let Some(wanted) = self.options.target.as_deref().filter(|target| !target.is_empty()) else {
            return Ok(stage_id(last));
        };
        let name = wanted.to_lowercase();
        let named = stages.iter().rposition(|stage| stage.name == name);
        let numbered = || wanted.parse().ok().filter(|index: &usize| *index < stages.len());
        named.or_else(numbered).map(stage_id).ok_or_else(|| {
            let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
            let help = did_you_mean(wanted, names.iter().copied());
            let help = help.unwrap_or_else(|| format!("the stages are {}", names.join(", ")));
            Diagnostic::error(None, format!("no stage is named '{wanted}'")).help(help)
        })
    }

    fn source_date_epoch(&self) -> Result<Option<u64>, Diagnostic> {
        let name = "SOURCE_DATE_EPOCH";
        let given = self.options.build_args.get(name).map(String::as_str);
        let Some(text) = given
            .or_else(|| self.globals.values.get(name))
            .filter(|text| !text.is_empty())
        else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            let help = "give the seconds since 1970-01-01, as `git log -1 --format=%ct` prints them".to_string();
            Diagnostic::error(None, format!("SOURCE_DATE_EPOCH={text} is no time")).help(help)
        })
    }

    fn unused_args(&self) -> BTreeSet<String> {
        arguments::unused(&self.dockerfile, &self.options, &self.globals.values)
    }
}

/// The limit on stages keeps it within 32 bits.
fn stage_id(index: usize) -> StageId {
    StageId(u32::try_from(index).unwrap_or(u32::MAX))
}
