//! The file with which a machine's operator says how registries are reached, as Docker's `daemon.json` does.
//!
//! ```json
//! { "registries": { "docker.io": { "mirrors": ["https://mirror.example:5000"] }, "old:5000": { "insecure": true } },
//!   "ca_files": ["/etc/ssl/company.pem"], "max_concurrent_downloads": 3, "max_concurrent_uploads": 5 }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gantry_model::{Class, Problem};
use serde::Deserialize;

use crate::options::{Options, registry_key};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    registries: BTreeMap<String, Registry>,
    ca_files: Vec<PathBuf>,
    max_concurrent_downloads: Option<usize>,
    max_concurrent_uploads: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Registry {
    mirrors: Vec<String>,
    insecure: bool,
    plain_http: bool,
}

impl Options {
    /// The defaults with what a file says; the defaults alone when there is none.
    ///
    /// # Errors
    /// When the file cannot be read, or says something unknown.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            result => result.map_err(|error| problem(path, format!("cannot be read: {error}")))?,
        };
        let settings = serde_json::from_slice(&bytes).map_err(|error| problem(path, error.to_string()))?;
        Ok(Self::default().with(settings))
    }

    fn with(mut self, settings: Settings) -> Self {
        for (name, registry) in settings.registries {
            let name = registry_key(&name);
            if registry.insecure {
                self.insecure.insert(name.clone());
            }
            if registry.plain_http {
                self.plain_http.insert(name.clone());
            }
            if !registry.mirrors.is_empty() {
                self.mirrors.insert(name, registry.mirrors);
            }
        }
        self.ca_files.extend(settings.ca_files);
        self.downloads_max = settings.max_concurrent_downloads.unwrap_or(self.downloads_max).max(1);
        self.uploads_max = settings.max_concurrent_uploads.unwrap_or(self.uploads_max).max(1);
        self
    }
}

fn problem(path: &Path, reason: String) -> Problem {
    Problem::new(Class::Invalid, path.display().to_string(), reason)
        .remedy("correct it: registries.NAME.{mirrors, insecure, plain_http}, ca_files, max_concurrent_downloads, max_concurrent_uploads")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options, Problem> {
        let dir = tempfile::TempDir::new().expect("a temporary folder");
        let path = dir.path().join("registries.json");
        fs::write(&path, text).expect("a file in it");
        Options::read(&path)
    }

    #[test]
    fn what_is_said_is_taken_and_the_rest_stays() {
        let options = read(
            r#"{"registries": {"index.docker.io": {"mirrors": ["m"]}, "old:5000": {"insecure": true}},
                "max_concurrent_downloads": 0}"#,
        )
        .expect("a good file");
        assert_eq!(options.mirrors["docker.io"], ["m"]);
        assert!(options.insecure.contains("old:5000") && options.plain_http.is_empty());
        assert_eq!((options.downloads_max, options.uploads_max), (1, 5));
    }

    #[test]
    fn a_typing_error_is_told() {
        let text = read(r#"{"registries": {"a": {"mirror": "m"}}}"#)
            .expect_err("unknown")
            .to_string();
        assert!(text.contains("registries.json") && text.contains("`mirror`"), "{text}");
        assert!(Options::read(Path::new("/nowhere/registries.json")).is_ok());
    }
}
