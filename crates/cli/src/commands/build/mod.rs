//! `gantry build`: an image from a Dockerfile and a folder, built on a node.
//!
//! The folder stays here: the node learns what is in it by digests and asks for the contents that it lacks, and for secrets and
//! agents when a step wants them.

mod args;
mod context;
mod digests;
mod dockerfile;
mod folder;
mod progress;
mod repository;
mod screen;
mod session;
mod sink;
mod ssh;
mod temporary;

use std::collections::{BTreeMap, BTreeSet};

use gantry_distribution::DockerConfig;
use gantry_dockerfile::Severity;
use gantry_model::build::{BuildOutputKind, BuildRequest, BuildResult, RegistryAuth};
use gantry_model::spec::{BuildCache, BuildSpec};
use gantry_model::{Class, ImageReference, Problem};
use serde_json::json;

use crate::args::Global;
use crate::engine::Engine;
use crate::failure::{Failure, Outcome, file_problem};
use crate::output;

pub use args::{BuildArgs, spelling};
use context::Contexts;
use dockerfile::Text;
pub use progress::Mode;
use progress::Progress;
pub use sink::Target;

/// Everything that a build needs, whoever asks for it.
#[derive(Debug)]
pub struct Job {
    /// What to build; paths are of this machine.
    pub spec: BuildSpec,
    /// Names for the result.
    pub tags: Vec<String>,
    /// The result goes to its registry.
    pub push: bool,
    /// Node to build on; this machine's own when absent.
    pub node: Option<String>,
    /// How progress is shown.
    pub progress: Mode,
    /// What becomes of the result.
    pub target: Target,
}

/// Builds as the command line says, or only checks.
pub async fn run(global: &Global, args: BuildArgs) -> Outcome {
    let (check, iidfile, quiet) = (args.is_check(), args.iidfile.clone(), args.is_quiet());
    let job = args.job()?;
    if check {
        return self::check(&job);
    }
    let result = build(global, job).await?;
    if let (Some(path), Some(result)) = (&iidfile, &result) {
        std::fs::write(path, &result.config_digest).map_err(|error| file_problem("be written", path, &error))?;
    }
    let Some(result) = result else { return Ok(()) };
    let human = || {
        if quiet {
            return format!("{}\n", result.config_digest);
        }
        let names = if result.references.is_empty() {
            String::new()
        } else {
            format!(" as {}", result.references.join(", "))
        };
        format!("built {}{names}\n", result.digest)
    };
    output::object(global.output, &result.config_digest, &json!(result), human)?;
    Ok(())
}

/// Builds one image and shows how it goes. No result where the output went to a file alone.
///
/// # Errors
/// When something here is missing or wrong, or the build fails; what the person should see of a step has been shown then.
pub async fn build(global: &Global, job: Job) -> Result<Option<BuildResult>, Failure> {
    let contexts = Contexts::open(&job.spec)?;
    let text = dockerfile::read(&job.spec, &contexts)?;
    let read = dockerfile::plan(&text, &job.spec, &contexts)?;
    let request = request(&job, &text, &read.registries, &contexts).await?;
    let walked = contexts.walk(&text)?;
    let engine = Engine::open(global, job.node.as_deref()).await?;
    let progress = Progress::new(job.progress);
    let outcome = session::run(&engine, request, walked, &job, progress).await?;
    dockerfile::finish(&text, outcome)
}

/// The checks of a Dockerfile, without a node.
fn check(job: &Job) -> Outcome {
    let contexts = Contexts::open(&job.spec)?;
    let text = dockerfile::read(&job.spec, &contexts)?;
    let found = dockerfile::check(&text, &job.spec, &contexts)?;
    if found.is_empty() {
        output::emit("no warnings\n")?;
        return Ok(());
    }
    output::emit(&dockerfile::render(&text, &found, output::style::on_stdout()))?;
    let errors = found.iter().filter(|one| one.severity == Severity::Error).count();
    let (warnings, s) = (found.len() - errors, |count: usize| if count == 1 { "" } else { "s" });
    output::emit(&format!(
        "{errors} error{}, {warnings} warning{}\n",
        s(errors),
        s(warnings)
    ))?;
    Err(Failure::SAID)
}

async fn request(
    job: &Job,
    text: &Text,
    registries: &BTreeSet<String>,
    contexts: &Contexts,
) -> Result<BuildRequest, Problem> {
    let mut spec = job.spec.clone();
    for (name, value) in &mut spec.args {
        // A name alone takes the value of the environment, or is as good as not given.
        if value.is_none() {
            *value = std::env::var(name).ok();
        }
    }
    spec.args.retain(|_, value| value.is_some());
    // The node has no use for the person's folders and files.
    for secret in &mut spec.secrets {
        secret.file = None;
    }
    spec.ssh = spec.ssh.iter().map(|given| ssh::id_of(given).to_string()).collect();
    let mut hosts = registries.clone();
    for tag in &job.tags {
        let reference: ImageReference = tag
            .parse()
            .map_err(|error: gantry_model::ImageRefError| Problem::new(Class::Invalid, "--tag", error.to_string()))?;
        hosts.insert(reference.registry().to_string());
    }
    for place in spec.cache_from.iter().chain(&spec.cache_to) {
        let place: BuildCache = place.parse().map_err(|error: gantry_model::spec::BuildCacheError| {
            Problem::new(Class::Invalid, "build cache", error.to_string())
        })?;
        let reference = place
            .reference()
            .and_then(|reference| reference.parse::<ImageReference>().ok());
        hosts.extend(reference.map(|reference| reference.registry().to_string()));
    }
    Ok(BuildRequest {
        spec,
        dockerfile: text.content.clone(),
        dockerfile_name: text.name.clone(),
        tags: job.tags.clone(),
        source_date_epoch: source_date_epoch()?,
        contexts: contexts.further_names(),
        push: job.push,
        output: job.target.kind(),
        registry_auth: registry_auth(&hosts).await,
    })
}

/// As `docker login` left it. A registry that needs more says so itself.
async fn registry_auth(hosts: &BTreeSet<String>) -> BTreeMap<String, RegistryAuth> {
    let mut known = BTreeMap::new();
    let Some(config) = DockerConfig::of_user() else {
        return known;
    };
    for host in hosts {
        if let Ok(Some(auth)) = config.credential(host).await {
            known.insert(host.clone(), auth);
        }
    }
    known
}

fn source_date_epoch() -> Result<Option<u64>, Problem> {
    let name = "SOURCE_DATE_EPOCH";
    let Some(text) = std::env::var(name).ok().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        Problem::new(Class::Invalid, name, format!("'{text}' is no time")).remedy("give the seconds since 1970-01-01")
    })
}

impl Target {
    const fn kind(&self) -> BuildOutputKind {
        match self {
            Self::Image => BuildOutputKind::Image,
            Self::Folder(_) | Self::Tar(_) => BuildOutputKind::Tar,
            Self::Oci(_) => BuildOutputKind::Oci,
            Self::Docker(_) => BuildOutputKind::Docker,
            Self::Discard => BuildOutputKind::Discard,
        }
    }
}
