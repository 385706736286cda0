//! Where errors and warnings go: standard error, and the file that the caller named, in the form it reads.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use gantry_env::{Env, System};
use serde_json::json;

use crate::OciError;

/// The time as RFC 3339 has it.
#[must_use]
pub fn now() -> String {
    let milliseconds = i64::try_from(System.now().0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(milliseconds)
        .unwrap_or_default()
        .to_string()
}

/// Form of the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One document per line, as containerd reads them.
    Json,
}

/// What the caller asked for.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The file; none for standard error only.
    pub path: Option<PathBuf>,
    /// Its form.
    pub format: LogFormat,
}

impl Log {
    /// Tells why the command failed.
    pub fn error(&self, error: &OciError) {
        eprintln!("gantry oci: {error}");
        let Some(path) = &self.path else { return };
        let time = now();
        let line = match self.format {
            LogFormat::Json => {
                json!({"level": "error", "msg": error.to_string(), "time": time.to_string()}).to_string()
            }
            LogFormat::Text => format!("time=\"{time}\" level=error msg={:?}", error.to_string()),
        };
        let opened = File::options().create(true).append(true).open(path);
        if let Err(error) = opened.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("gantry oci: cannot write log {}: {error}", path.display());
        }
    }
}
