//! A build from its request to its result: plan, bases, stages side by side, image.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_dockerfile::{
    Base, Config, Diagnostic, Graph, History, Inherited, Operation, PlanOptions, Platform, ResolvedStage, Source,
    Stage, StageId, parse, plan,
};
use gantry_image::{ConfigDocument, HistoryEntry, UpperLayer};
use gantry_model::build::{BuildEvent, BuildOutputKind, BuildRequest, BuildResult};
use gantry_model::{DurationMs, Problem, Timestamp};

use crate::base::config_of;
use crate::builder::Builder;
use crate::cancel::Cancel;
use crate::client::Client;
use crate::error::{BuildError, Result};
use crate::exchange::{Exports, Imported, Made};
use crate::result::{self, rfc3339};
use crate::work::{Numbers, Shared, Top, Work};

/// What a build keeps is kept for so long; longer than any build takes.
const LEASE: DurationMs = DurationMs::secs(24 * 3600);

/// A stage when it is done.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) top: Top,
    pub(crate) history: Vec<HistoryEntry>,
    /// Its steps, those of the stages it starts from included.
    pub(crate) made: Vec<Made>,
    /// Whose platform it has.
    pub(crate) base: ConfigDocument,
}

/// A step that failed, and where in the Dockerfile it stands.
struct Failure {
    error: BuildError,
    line: Option<u32>,
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self { error, line: None }
    }
}

/// A stage with its steps as they were announced.
struct Announced {
    resolved: ResolvedStage,
    steps: Vec<Option<u32>>,
}

impl Builder {
    /// Builds. Blocks until it is done, failed or cancelled; the client hears of everything meanwhile.
    ///
    /// # Errors
    /// What failed, with the line of the Dockerfile; nothing but cache is left of it then.
    pub fn build(
        &self,
        request: &BuildRequest,
        client: Arc<dyn Client>,
        cancel: &Cancel,
    ) -> std::result::Result<BuildResult, Problem> {
        let name = match request.dockerfile_name.as_str() {
            "" => "Dockerfile",
            name => name,
        };
        let built = self.try_build(request, client, cancel);
        // Also what a failed build has made is kept for the next.
        let published = self.cache.publish_roots(&self.config.store);
        built
            .and_then(|result| Ok(published.map(|()| result)?))
            .map_err(|failure| {
                let object = match failure.line {
                    Some(line) => format!("{name}:{line}"),
                    None => name.to_string(),
                };
                failure.error.into_problem(&object)
            })
    }

    fn try_build(
        &self,
        request: &BuildRequest,
        client: Arc<dyn Client>,
        cancel: &Cancel,
    ) -> std::result::Result<BuildResult, Failure> {
        check(request)?;
        let exports = Exports::of(request)?;
        let graphs = platforms(request)?
            .into_iter()
            .map(|platform| planned(request, platform))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        // The Dockerfile is the same for all platforms, and so is what is wrong with it.
        warn(&*client, graphs.first().map_or(&[], |graph| &graph.warnings));
        let lease = self.config.store.hold(LEASE);
        let imported = if request.spec.no_cache {
            Imported::default()
        } else {
            Imported::of(self, request, &*client, &lease)?
        };
        let shared = Shared {
            lease,
            imported,
            steps: Numbers::default(),
        };
        let mut built = Vec::new();
        for graph in graphs {
            let work = Work::new(self, request, Arc::clone(&client), cancel, graph, &shared);
            built.push(build_one(work)?);
        }
        Ok(result::finish(&built, &exports)?)
    }
}

/// A target that is done.
pub(crate) struct Built<'a> {
    pub(crate) work: Work<'a>,
    pub(crate) config: Config,
    /// All stages that it needed.
    pub(crate) stages: BTreeMap<StageId, Finished>,
    pub(crate) finished: Finished,
}

fn build_one(work: Work<'_>) -> std::result::Result<Built<'_>, Failure> {
    let stages = resolve(&work)?;
    let target = work.graph.target;
    let config = stages
        .get(&target)
        .map(|stage| stage.resolved.config.clone())
        .unwrap_or_default();
    let stages = execute(&work, stages)?;
    let Some(finished) = stages.get(&target).cloned() else {
        return Err(BuildError::refused("the target was not built", "").into());
    };
    Ok(Built {
        work,
        config,
        stages,
        finished,
    })
}

fn check(request: &BuildRequest) -> Result<()> {
    let is_single = matches!(request.output, BuildOutputKind::Tar | BuildOutputKind::Docker);
    if request.spec.platforms.len() > 1 && is_single {
        return Err(BuildError::refused(
            "this output has room for one platform",
            "build for one platform, or write --output type=oci",
        ));
    }
    Ok(())
}

/// What is built for; none is the node's own.
fn platforms(request: &BuildRequest) -> Result<Vec<Option<Platform>>> {
    let parsed = request.spec.platforms.iter().map(|text| {
        let parsed = text.parse::<Platform>();
        parsed.map_err(|error| BuildError::refused(error.to_string(), "write --platform linux/amd64"))
    });
    let mut platforms: Vec<Option<Platform>> = Vec::new();
    for platform in parsed {
        let platform = Some(platform?);
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(if platforms.is_empty() { vec![None] } else { platforms })
}

fn planned(request: &BuildRequest, platform: Option<Platform>) -> std::result::Result<Graph, Failure> {
    let spec = &request.spec;
    let own = gantry_image::Platform::of_this_machine();
    let mut options = PlanOptions::new(Platform::new(
        &own.os,
        &own.architecture,
        own.variant.as_deref().unwrap_or_default(),
    ));
    options.target = spec.target.clone();
    let given = spec
        .args
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
    options.build_args = given.collect();
    options.labels = spec.labels.clone();
    let contexts = spec.additional_contexts.keys().chain(&request.contexts);
    options.named_contexts = contexts.filter(|name| !name.is_empty()).cloned().collect();
    options.target_platform = platform;
    let dockerfile = parse(&request.dockerfile).map_err(first)?;
    plan(&dockerfile, options).map_err(first)
}

fn first(errors: Vec<Diagnostic>) -> Failure {
    let more = errors.len().saturating_sub(1);
    let Some(mut error) = errors.into_iter().next() else {
        return BuildError::refused("the Dockerfile cannot be built", "").into();
    };
    if more > 0 {
        error.message = format!("{} (and {more} more)", error.message);
    }
    let line = error.span.map(|span| span.line);
    Failure {
        error: BuildError::Dockerfile(error),
        line,
    }
}

fn warn(client: &dyn Client, warnings: &[Diagnostic]) {
    for warning in warnings {
        client.event(BuildEvent::Warning {
            rule: warning.rule.map(|rule| rule.name().to_string()).unwrap_or_default(),
            message: warning.message.clone(),
            line: warning.span.map_or(0, |span| span.line),
        });
    }
}

/// All stages that the target needs with every variable replaced, and announced; their base images are here then.
fn resolve(work: &Work<'_>) -> std::result::Result<BTreeMap<StageId, Announced>, Failure> {
    let mut stages = BTreeMap::new();
    for id in work.graph.needed.clone() {
        resolve_stage(work, id, &mut stages)?;
    }
    let mut warnings: Vec<Diagnostic> = work.graph.warnings.clone();
    for stage in stages.values() {
        warnings.extend(stage.resolved.warnings.iter().cloned());
        warn(&*work.client, &stage.resolved.warnings);
    }
    if let Some(refusal) = work.graph.refusal(&warnings) {
        return Err(first(vec![refusal]));
    }
    let takes_from_context =
        stages
            .values()
            .flat_map(|stage| &stage.resolved.steps)
            .any(|step| match &step.operation {
                Operation::Copy(copy) => copy.from == Source::Context && !copy.sources.is_empty(),
                Operation::Add(add) => !add.sources.is_empty(),
                Operation::Run(run) => run.mounts.iter().any(|mount| mount.from() == Some(&Source::Context)),
                Operation::MakeFolder(_) | Operation::Config => false,
            });
    if takes_from_context {
        let step = work.announce("[internal] load build context", None);
        *work.context_step.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }
    for stage in stages.values_mut() {
        announce(work, stage);
    }
    Ok(stages)
}

fn announce(work: &Work<'_>, stage: &mut Announced) {
    let steps = stage.resolved.steps.iter().map(|step| match step.operation {
        Operation::Config => None,
        Operation::Run(_) | Operation::Copy(_) | Operation::Add(_) | Operation::MakeFolder(_) => {
            Some(work.announce(&step.title, Some(step.span.line)))
        }
    });
    stage.steps = steps.collect();
}

fn resolve_stage(
    work: &Work<'_>,
    id: StageId,
    stages: &mut BTreeMap<StageId, Announced>,
) -> std::result::Result<(), Failure> {
    if stages.contains_key(&id) {
        return Ok(());
    }
    let stage = work.graph.stage(id).clone();
    let located = |error: BuildError| Failure {
        error,
        line: Some(stage.span.line),
    };
    let inherited = match &stage.base {
        // As BuildKit has it.
        Base::Scratch => Inherited::image(Config {
            working_dir: "/".to_string(),
            ..Config::default()
        }),
        Base::Stage(base) => {
            resolve_stage(work, *base, stages)?;
            stages
                .get(base)
                .map(|base| base.resolved.inherited.clone())
                .unwrap_or_default()
        }
        Base::Image(reference) => Inherited::image(base_config(work, &stage, reference).map_err(located)?),
        Base::Context { name, .. } => match work.named_image(name).map_err(located)? {
            Some(reference) => Inherited::image(base_config(work, &stage, &reference).map_err(located)?),
            None => Inherited::default(),
        },
    };
    let resolved = work.graph.resolve(id, &inherited).map_err(first)?;
    for needed in resolved.needs.clone() {
        resolve_stage(work, needed, stages)?;
    }
    stages.insert(
        id,
        Announced {
            resolved,
            steps: Vec::new(),
        },
    );
    Ok(())
}

/// Loads a base image as a step of its own.
fn base_config(work: &Work<'_>, stage: &Stage, reference: &gantry_model::ImageReference) -> Result<Config> {
    let step = work.announce(&format!("[{}] FROM {reference}", stage.name), Some(stage.span.line));
    work.started(step);
    let is_here = work.builder.config.store.resolve(reference).is_some() && !work.request.spec.pull;
    let image = work
        .image_for(reference, &stage.platform, Some(step))
        .inspect_err(|error| work.failed(step, error))?;
    work.done(step, is_here);
    Ok(config_of(&image.document))
}

/// All stages at once; each waits for what it takes.
fn execute(
    work: &Work<'_>,
    stages: BTreeMap<StageId, Announced>,
) -> std::result::Result<BTreeMap<StageId, Finished>, Failure> {
    let results: Mutex<BTreeMap<StageId, Finished>> = Mutex::default();
    let failures: Mutex<Vec<Failure>> = Mutex::default();
    std::thread::scope(|scope| {
        for (id, stage) in &stages {
            let (results, failures) = (&results, &failures);
            scope.spawn(move || match execute_stage(work, *id, stage, results) {
                Ok(top) => work.finish(*id, top),
                Err(failure) => {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    // The others are for nothing now.
                    work.cancel.set();
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Those that were cancelled because another failed say nothing.
    let reason = failures
        .into_iter()
        .min_by_key(|failure| matches!(failure.error, BuildError::Cancelled));
    if let Some(failure) = reason {
        return Err(failure);
    }
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn execute_stage(
    work: &Work<'_>,
    id: StageId,
    stage: &Announced,
    results: &Mutex<BTreeMap<StageId, Finished>>,
) -> std::result::Result<Top, Failure> {
    let found = work.graph.stage(id);
    let mut finished = start(work, found, results).map_err(|error| Failure {
        error,
        line: Some(found.span.line),
    })?;
    for (step, announced) in stage.resolved.steps.iter().zip(&stage.steps) {
        let created_at = match announced {
            None => None,
            Some(number) => {
                let outcome = work.step(*number, step, finished.top).map_err(|error| {
                    work.failed(*number, &error);
                    Failure {
                        error,
                        line: Some(step.span.line),
                    }
                })?;
                work.done(*number, outcome.cached);
                finished.top = outcome.top();
                let created_at = outcome.made.record.created_at;
                finished.made.push(outcome.made);
                Some(created_at)
            }
        };
        if !step.history.created_by.is_empty() {
            finished.history.push(entry(&step.history, created_at));
        }
    }
    let top = finished.top;
    results
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(id, finished);
    Ok(top)
}

fn entry(history: &History, created_at: Option<Timestamp>) -> HistoryEntry {
    HistoryEntry {
        created: created_at.and_then(rfc3339),
        created_by: history.created_by.clone(),
        comment: History::COMMENT.to_string(),
        empty_layer: history.empty_layer,
        ..HistoryEntry::default()
    }
}

/// What the stage starts with.
fn start(work: &Work<'_>, stage: &Stage, results: &Mutex<BTreeMap<StageId, Finished>>) -> Result<Finished> {
    let empty = || Finished {
        top: Top(None),
        history: Vec::new(),
        made: Vec::new(),
        base: result::platform_document(&work.graph.platform),
    };
    let of_image = |reference: &gantry_model::ImageReference| {
        let image = work.image_for(reference, &stage.platform, None)?;
        Ok(Finished {
            top: image.top,
            history: image.document.history.clone(),
            made: Vec::new(),
            base: image.document.clone(),
        })
    };
    match &stage.base {
        Base::Scratch => Ok(empty()),
        Base::Image(reference) => of_image(reference),
        Base::Stage(base) => {
            work.wait_for(*base)?;
            let results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.get(base).cloned().ok_or(BuildError::Cancelled)
        }
        Base::Context { name, .. } => match work.named_image(name)? {
            Some(reference) => of_image(&reference),
            None => folder_base(work, name, empty()),
        },
    }
}

/// A folder to start from becomes a layer.
fn folder_base(work: &Work<'_>, name: &str, mut finished: Finished) -> Result<Finished> {
    let store = &work.builder.config.store;
    let workspace = store.workspace();
    let folders = work.source_folders(&Source::Named(name.to_string()), "/", &workspace)?;
    let Some(upper) = folders.first() else {
        return Ok(finished);
    };
    let layer = UpperLayer {
        upper,
        parent: None,
        epoch: work.epoch(),
    };
    let committed = store.commit_layer(work.lease, &layer)?;
    finished.top = Top(Some(committed.chain));
    let history = History {
        created_by: format!("FROM {name}"),
        empty_layer: false,
    };
    let created_at = work.epoch().unwrap_or_else(|| work.builder.config.env.now());
    finished.history.push(entry(&history, Some(created_at)));
    Ok(finished)
}
