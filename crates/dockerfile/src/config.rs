//! The part of an image's configuration that a Dockerfile can see and change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where programs are found when an image says nothing about it.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The shell of shell-form commands when an image names none.
pub const SHELL_DEFAULT: &[&str] = &["/bin/sh", "-c"];

/// Configuration of an image, as Docker and OCI keep it (`config.config` of the document; `author` stands beside it).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// `NAME`, `value`, in order.
    pub env: Vec<(String, String)>,
    /// What to run; `None` where nothing was said, which `ENTRYPOINT []` also means.
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments, or what to run.
    pub cmd: Option<Vec<String>>,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Absolute folder to start in; empty is `/`.
    pub working_dir: String,
    /// `8080/tcp`, always with the protocol.
    pub exposed_ports: BTreeSet<String>,
    /// Folders that get a volume.
    pub volumes: BTreeSet<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// As written: `SIGTERM`, `15`.
    pub stop_signal: String,
    /// How to find out whether it is well.
    pub healthcheck: Option<HealthCheck>,
    /// Shell of shell-form commands; empty is `/bin/sh -c`.
    pub shell: Vec<String>,
    /// Instructions for builds on top.
    pub on_build: Vec<String>,
    /// `MAINTAINER`.
    pub author: String,
}

/// Docker's health check, with zero for "the default".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `NONE`; or `CMD` and arguments; or `CMD-SHELL` and a line.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: Duration,
    /// Of one check.
    pub timeout: Duration,
    /// In which failures do not count.
    pub start_period: Duration,
    /// Between two checks of the start period.
    pub start_interval: Duration,
    /// Failures in a row.
    pub retries: u32,
}

impl Config {
    /// The value of a variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Sets a variable where it stood, or at the end.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        match self.env.iter_mut().find(|(key, _)| key == name) {
            Some((_, former)) => *former = value.to_string(),
            None => self.env.push((name.to_string(), value.to_string())),
        }
    }

    /// Shell and options before a shell-form command.
    #[must_use]
    pub fn shell_or_default(&self) -> Vec<String> {
        if self.shell.is_empty() {
            SHELL_DEFAULT.iter().map(ToString::to_string).collect()
        } else {
            self.shell.clone()
        }
    }
}
