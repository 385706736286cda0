//! The way from files to an application, step by step, and what the caller supplies.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use gantry_model::Name;
use gantry_model::spec::Application;

use crate::compose::{self, Context, ImageSource, Sources};
use crate::diagnostic::{Diagnostic, Severity, Sink};
use crate::yaml::cursor::Cursor;
use crate::yaml::interpolate::interpolate;
use crate::yaml::merge::{drop_resets, merge};
use crate::yaml::parse::parse;
use crate::yaml::tree::{Budget, Node};

/// The variable that holds the project's name in a manifest, as in Compose.
const PROJECT_NAME_VARIABLE: &str = "COMPOSE_PROJECT_NAME";

/// One manifest file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name in messages.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// How files that the manifest refers to are read: env files, and the content of configs and secrets.
pub trait Files {
    /// The content of the file at an absolute path (relative only if [`Options::base_dir`] is).
    ///
    /// # Errors
    /// As reading the file does. A missing file must be [`io::ErrorKind::NotFound`]: an env file may be optional.
    fn read(&self, path: &Path) -> Result<Vec<u8>, io::Error>;
}

/// Files in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(pub BTreeMap<PathBuf, Vec<u8>>);

impl Files for MemoryFiles {
    fn read(&self, path: &Path) -> Result<Vec<u8>, io::Error> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// What an application depends on besides its files.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The namespace, stronger than the manifest's own `name`.
    pub project_name: Option<String>,
    /// The project's folder, absolute: relative paths are resolved against it, and its name is the last resort for the project's.
    pub base_dir: PathBuf,
    /// Variables for `${…}` and for names without a value in `environment`: `.env`, overridden by the process environment.
    pub environment: BTreeMap<String, String>,
    /// Active profiles; `*` is all.
    pub profiles: Vec<String>,
}

/// What came of loading.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The application, absent when there is an error among the diagnostics.
    pub application: Option<Application>,
    /// Where the images of its services come from; empty when it is absent.
    pub images: BTreeMap<Name, ImageSource>,
    /// Everything that was found, in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// The manifests that were given, and those that they include or extend: where diagnostics point.
    pub sources: Vec<Source>,
}

impl Loaded {
    /// Whether the manifest cannot be used.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|found| found.severity == Severity::Error)
    }
}

/// Reads manifests, later ones over earlier ones, as one application.
#[must_use]
pub fn load(sources: &[Source], options: &Options, files: &dyn Files) -> Loaded {
    let sink = Sink::new(sources.iter().map(|source| source.name.clone()).collect());
    let mut further = Sources::new(files, &sink);
    let read = read(sources, options, &mut further);
    let sources = [sources, &further.read].concat();
    let (application, images) = read.filter(|_| !sink.has_errors()).unzip();
    Loaded {
        application,
        images: images.unwrap_or_default(),
        diagnostics: sink.into_sorted(),
        sources,
    }
}

fn read(sources: &[Source], options: &Options, further: &mut Sources<'_>) -> Option<compose::Read> {
    let (files, sink) = (further.files, further.sink);
    let roots = parse_all(sources, &mut further.budget, sink)?;
    let namespace = compose::project_name(&roots, options, sink)?;
    let mut environment = options.environment.clone();
    environment.insert(PROJECT_NAME_VARIABLE.to_string(), namespace.to_string());
    let mut root = merge_all(roots, options, &environment, further)?;
    compose::inherit(&mut root, &options.base_dir, &environment, further)?;
    drop_resets(&mut root);
    let context = Context {
        options,
        environment: &environment,
        files,
        namespace,
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        configs: Default::default(),
        secrets: Default::default(),
        secret_sources: Default::default(),
        service_names: Default::default(),
        used: Default::default(),
    };
    Some(compose::application(&Cursor::root(&root, sink), context, sink))
}

/// All files are parsed before any is given up, so that the mistakes of all are shown.
fn parse_all(sources: &[Source], budget: &mut Budget, sink: &Sink) -> Option<Vec<Node>> {
    if sources.is_empty() {
        sink.error(&Default::default(), "no manifest is given", None);
        return None;
    }
    let numbered = (0u32..).zip(sources);
    let roots: Vec<Option<Node>> = numbered
        .map(|(number, source)| {
            let root = parse(&source.text, number, budget, sink)?;
            let at = Cursor::root(&root, sink);
            if !at.is_map() {
                at.error(format!("a manifest is a mapping, this is {}", root.kind()));
                return None;
            }
            Some(root)
        })
        .collect();
    roots.into_iter().collect()
}

fn merge_all(
    roots: Vec<Node>,
    options: &Options,
    environment: &BTreeMap<String, String>,
    further: &mut Sources<'_>,
) -> Option<Node> {
    roots
        .into_iter()
        .map(|mut root| {
            interpolate(&mut root, environment, further.sink);
            compose::include(&mut root, &options.base_dir, environment, further);
            root
        })
        .reduce(merge)
}
