//! The Dockerfile: where it is, what is wrong with it, and which of its lines failed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gantry_dockerfile::{Base, Diagnostic, Graph, IgnoreRules, PlanOptions, Platform, Severity, Source, Span};
use gantry_model::build::BuildResult;
use gantry_model::spec::BuildSpec;
use gantry_model::{Class, Problem};

use super::context::{Contexts, ignore_of, read_ignore};
use super::session::Ended;
use crate::failure::{Failure, file_problem};
use crate::output::style;

/// Looked for in this order.
const NAMES: [&str; 2] = ["Dockerfile", "dockerfile"];

/// A Dockerfile and the rules of its context.
pub struct Text {
    /// For messages.
    pub name: String,
    /// The text.
    pub content: String,
    /// What the context leaves out.
    pub ignore: IgnoreRules,
}

/// What planning on this side finds out.
pub struct Read {
    /// Registries of base images.
    pub registries: BTreeSet<String>,
}

/// Finds and reads the Dockerfile.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn read(spec: &BuildSpec, contexts: &Contexts) -> Result<Text, Problem> {
    let inline = spec.dockerfile_inline.clone().map(|text| ("Dockerfile (inline)", text));
    let piped = contexts.piped.clone().map(|text| ("Dockerfile (standard input)", text));
    if let Some((name, content)) = inline.or(piped) {
        return Ok(Text {
            name: name.to_string(),
            content,
            ignore: contexts.main().map(ignore_of).transpose()?.unwrap_or_default(),
        });
    }
    let path = locate(spec, contexts)?;
    let content = std::fs::read(&path).map_err(|error| file_problem("be read", &path, &error))?;
    let content = String::from_utf8(content).map_err(|_| {
        Problem::new(Class::Invalid, path.display().to_string(), "is not text")
            .remedy("name the Dockerfile with --file")
    })?;
    Ok(Text {
        name: path.display().to_string(),
        content,
        ignore: ignore_rules(&path, contexts)?,
    })
}

fn locate(spec: &BuildSpec, contexts: &Contexts) -> Result<PathBuf, Problem> {
    let Some(main) = contexts.main() else {
        return Err(Problem::new(Class::Invalid, "standard input", "holds no Dockerfile"));
    };
    if let Some(file) = &spec.dockerfile {
        // As Docker has it: from the current folder; what is not there is looked for in the context.
        let here = PathBuf::from(file);
        return Ok(if here.is_file() { here } else { main.join(file) });
    }
    let found = NAMES
        .map(|name| main.join(name))
        .into_iter()
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        Problem::new(
            Class::NotFound,
            main.join(NAMES[0]).display().to_string(),
            "does not exist",
        )
        .remedy("name the Dockerfile with --file")
    })
}

/// Beside the Dockerfile first, then the context's.
fn ignore_rules(path: &Path, contexts: &Contexts) -> Result<IgnoreRules, Problem> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let [own, _] = IgnoreRules::file_names(&name);
    if let Some(rules) = read_ignore(&path.with_file_name(own))? {
        return Ok(rules);
    }
    Ok(contexts.main().map(ignore_of).transpose()?.unwrap_or_default())
}

/// Reads and plans here first: mistakes cost no connection.
///
/// # Errors
/// When something is wrong; it has been shown then.
pub fn plan(text: &Text, spec: &BuildSpec, contexts: &Contexts) -> Result<Read, Failure> {
    let options = options(text, spec, contexts)?;
    let graph = gantry_dockerfile::parse(&text.content)
        .and_then(|dockerfile| gantry_dockerfile::plan(&dockerfile, options))
        .map_err(|errors| {
            eprint!("{}", render(text, &errors, style::on_stderr()));
            Failure::SAID
        })?;
    for name in &graph.unused_args {
        let word = style::warning("warning:", style::on_stderr());
        crate::output::note(&format!("{word} --build-arg {name}: no ARG of the Dockerfile takes it"));
    }
    Ok(Read {
        registries: registries(&graph),
    })
}

/// All that the checks find.
///
/// # Errors
/// When an option is wrong.
pub fn check(text: &Text, spec: &BuildSpec, contexts: &Contexts) -> Result<Vec<Diagnostic>, Problem> {
    let options = options(text, spec, contexts)?;
    Ok(match gantry_dockerfile::parse(&text.content) {
        Ok(dockerfile) => gantry_dockerfile::check(&dockerfile, options),
        Err(errors) => errors,
    })
}

fn options(text: &Text, spec: &BuildSpec, contexts: &Contexts) -> Result<PlanOptions, Problem> {
    // What this machine is stands for the node here; the node plans for itself.
    let mut options = PlanOptions::new(Platform::new("linux", std::env::consts::ARCH, ""));
    options.target.clone_from(&spec.target);
    let value = |name: &String, value: &Option<String>| value.clone().or_else(|| std::env::var(name).ok());
    let args = spec
        .args
        .iter()
        .filter_map(|(name, given)| Some((name.clone(), value(name, given)?)));
    options.build_args = args.collect();
    options.named_contexts = spec
        .additional_contexts
        .keys()
        .cloned()
        .chain(contexts.further_names())
        .collect();
    options.ignore = Some(text.ignore.clone());
    if let Some(platform) = spec.platforms.first() {
        let platform: Result<Platform, _> = platform.parse();
        let wrong =
            |error: gantry_dockerfile::PlatformError| Problem::new(Class::Invalid, "--platform", error.to_string());
        options.target_platform = Some(platform.map_err(wrong)?);
    }
    Ok(options)
}

fn registries(graph: &Graph) -> BTreeSet<String> {
    let mut registries = BTreeSet::new();
    for stage in graph.needed.iter().map(|id| graph.stage(*id)) {
        if let Base::Image(image) = &stage.base {
            registries.insert(image.registry().to_string());
        }
        for source in &stage.sources {
            if let Source::Image(image) = source {
                registries.insert(image.registry().to_string());
            }
        }
    }
    registries
}

/// What came of the build; a failed step is shown with its line.
///
/// # Errors
/// When it failed.
pub fn finish(text: &Text, ended: Ended) -> Result<Option<BuildResult>, Failure> {
    let failed = match ended {
        Ended::Built(result) => return Ok(result),
        Ended::Refused(problem) => return Err(problem.into()),
        Ended::Failed(failed) => failed,
    };
    let message = format!("{}: {}", failed.title, failed.reason);
    let span = failed.line.map(|line| whole_line(&text.content, line));
    let error = Diagnostic::error(span, message);
    eprint!("{}", render(text, &[error], style::on_stderr()));
    Err(Failure::SAID)
}

fn whole_line(text: &str, number: u32) -> Span {
    let line = text.lines().nth(number.saturating_sub(1) as usize).unwrap_or_default();
    let width = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    Span {
        line: number,
        column: 1 + width(line) - width(line.trim_start()),
        end_line: number,
        end_column: 1 + width(line.trim_end()),
    }
}

/// Diagnostics with the lines they are about.
pub fn render(text: &Text, found: &[Diagnostic], colored: bool) -> String {
    let source = gantry_manifest::Source {
        name: text.name.clone(),
        text: text.content.clone(),
    };
    let converted: Vec<gantry_manifest::Diagnostic> = found.iter().map(|one| converted(&source.name, one)).collect();
    gantry_manifest::render(&converted, &[source], colored)
}

fn converted(name: &str, diagnostic: &Diagnostic) -> gantry_manifest::Diagnostic {
    gantry_manifest::Diagnostic {
        severity: match diagnostic.severity {
            Severity::Error => gantry_manifest::Severity::Error,
            Severity::Warning => gantry_manifest::Severity::Warning,
        },
        source: name.to_string(),
        span: diagnostic.span.map(|span| gantry_manifest::Span {
            line: span.line,
            column: span.column,
            end_line: span.end_line,
            end_column: span.end_column,
        }),
        path: diagnostic.rule.map(|rule| rule.name().to_string()).unwrap_or_default(),
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone(),
    }
}
