//! Manifests from the person's disk: which files, with which variables.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use gantry_manifest::{Diagnostic, Files, ImageSource, Options, Severity, Source, env_file, load, render};
use gantry_model::spec::Application;
use gantry_model::{Class, Name, Problem};
use serde_json::json;

use crate::args::Global;
use crate::failure::{Failure, file_problem};
use crate::output::{self, Format, style};

/// Looked for in this order when no file is named, as Compose does.
const DEFAULT_FILES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
];

/// Read on top of the default file, as Compose does.
const OVERRIDE_FILES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
];

/// Largest manifest, a limit against reading a device or the wrong file: no hand or tool writes more.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

// Which manifest, and what it depends on.
#[derive(Debug, Clone, Default, Args)]
pub struct ManifestArgs {
    /// Manifest; later ones are laid over earlier ones, `-` is standard input [default: compose.yaml and its kin]
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Name of the project, which becomes the namespace
    #[arg(short, long, value_name = "NAME", env = "COMPOSE_PROJECT_NAME")]
    project_name: Option<String>,
    /// Folder that relative paths start from [default: the first file's]
    #[arg(long, value_name = "DIR")]
    project_directory: Option<PathBuf>,
    /// Variables for the manifest, instead of the project's .env
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Also services of this profile; `*` is all
    #[arg(long, value_name = "NAME", env = "COMPOSE_PROFILES", value_delimiter = ',')]
    profile: Vec<String>,
}

impl ManifestArgs {
    /// Whether a manifest was named.
    pub const fn names_files(&self) -> bool {
        !self.files.is_empty()
    }
}

struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> Result<Vec<u8>, io::Error> {
        std::fs::read(path)
    }
}

/// What a manifest says.
#[derive(Debug)]
pub struct Manifest {
    /// For the cluster.
    pub application: Application,
    /// Where the images of its services come from, which is decided here.
    pub images: BTreeMap<Name, ImageSource>,
}

/// Reads the manifest, says what is wrong with it, and gives the application.
///
/// # Errors
/// When a file cannot be read, or the manifest has an error; then all of them have been said.
pub fn read(global: &Global, args: &ManifestArgs) -> Result<Manifest, Failure> {
    let paths = if args.files.is_empty() {
        default_files(&args.base()?)?
    } else {
        args.files.clone()
    };
    let sources = paths.iter().map(|path| source(path)).collect::<Result<Vec<_>, _>>()?;
    let options = options(global, args, &paths)?;
    let loaded = load(&sources, &options, &Disk);
    eprint!("{}", render(&loaded.diagnostics, &loaded.sources, style::on_stderr()));
    if let Some(application) = loaded.application {
        let images = loaded.images;
        return Ok(Manifest { application, images });
    }
    tell_programs(global, &loaded.diagnostics)?;
    let errors = loaded
        .diagnostics
        .iter()
        .filter(|found| found.severity == Severity::Error)
        .count();
    let plural = if errors == 1 { "" } else { "s" };
    output::note(&format!("\n{errors} error{plural} in {}", names(&sources)));
    Err(Failure::SAID)
}

fn tell_programs(global: &Global, diagnostics: &[Diagnostic]) -> io::Result<()> {
    match global.output {
        Format::Json | Format::Yaml => {
            let json = json!({ "diagnostics": diagnostics });
            output::object(global.output, "", &json, String::new)
        }
        Format::Table | Format::Wide | Format::Name => Ok(()),
    }
}

fn names(sources: &[Source]) -> String {
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    names.join(", ")
}

impl ManifestArgs {
    fn base(&self) -> Result<PathBuf, Problem> {
        let working = std::env::current_dir().map_err(|error| file_problem("be used", Path::new("."), &error))?;
        let named = self.project_directory.as_deref();
        let first = self.files.first().filter(|path| path.as_os_str() != "-");
        let folder = named.or_else(|| first.and_then(|path| path.parent()));
        // Lexically: a project in a linked folder is named by the link, as people see it.
        Ok(folder.map_or_else(|| working.clone(), |folder| normal(&working.join(folder))))
    }
}

fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(component),
        }
    }
    plain
}

fn default_files(folder: &Path) -> Result<Vec<PathBuf>, Problem> {
    let first = |names: [&str; 4]| names.iter().map(|name| folder.join(name)).find(|path| path.exists());
    let Some(main) = first(DEFAULT_FILES) else {
        let object = folder.display().to_string();
        return Err(Problem::new(Class::NotFound, object, "has no compose.yaml")
            .remedy("name the manifest with -f FILE, or change to its folder"));
    };
    Ok(std::iter::once(main).chain(first(OVERRIDE_FILES)).collect())
}

fn source(path: &Path) -> Result<Source, Problem> {
    let (name, bytes) = if path.as_os_str() == "-" {
        ("standard input".to_string(), limited(io::stdin().lock()))
    } else {
        (path.display().to_string(), std::fs::File::open(path).and_then(limited))
    };
    let bytes = bytes.map_err(|error| file_problem("be read", path, &error))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        let reason = format!(
            "is larger than {} MiB, too large for a manifest",
            MANIFEST_BYTES_MAX >> 20
        );
        return Err(Problem::new(Class::Invalid, name, reason));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let reason = format!("is not text: byte {} is not UTF-8", error.utf8_error().valid_up_to());
        Problem::new(Class::Invalid, name.as_str(), reason)
    })?;
    Ok(Source { name, text })
}

fn limited(file: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn options(global: &Global, args: &ManifestArgs, paths: &[PathBuf]) -> Result<Options, Problem> {
    let base_dir = args.base()?;
    let process: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut environment = BTreeMap::new();
    let implied = base_dir.join(".env");
    let files = match args.env_file.as_slice() {
        [] if implied.is_file() => vec![implied],
        named => named.to_vec(),
    };
    for path in files {
        let text = std::fs::read_to_string(&path).map_err(|error| file_problem("be read", &path, &error))?;
        let variables = env_file(&text, &process)
            .map_err(|error| Problem::new(Class::Invalid, path.display().to_string(), error.to_string()))?;
        environment.extend(variables.into_iter().filter_map(|(key, value)| Some((key, value?))));
    }
    environment.extend(process);
    let project_name = args.project_name.clone().or_else(|| global.namespace.clone());
    debug_assert!(!paths.is_empty(), "either named or found");
    Ok(Options {
        project_name,
        base_dir,
        environment,
        profiles: args.profile.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_found_with_its_override() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(
            default_files(folder.path())
                .expect_err("nothing there")
                .remedy
                .contains("-f FILE")
        );
        for name in ["docker-compose.yml", "compose.override.yml"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
            paths.into_iter().filter_map(name).collect()
        };
        let found = default_files(folder.path()).expect("found");
        assert_eq!(names(found), ["docker-compose.yml", "compose.override.yml"]);
        std::fs::write(folder.path().join("compose.yaml"), "").expect("written");
        let found = default_files(folder.path()).expect("found");
        assert_eq!(names(found), ["compose.yaml", "compose.override.yml"]);
    }

    #[test]
    fn folders_are_made_absolute_without_following_links() {
        assert_eq!(normal(Path::new("/a/./b/../c")), Path::new("/a/c"));
        assert_eq!(normal(Path::new("/../a")), Path::new("/a"));
    }
}
