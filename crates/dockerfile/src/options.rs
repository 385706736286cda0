//! What a person asks of a build, as far as it changes the graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::ignore::IgnoreRules;
use crate::platform::Platform;

/// Options of `plan`.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Name or number of the stage to build; the last one when absent.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`: on the target's image alone.
    pub labels: BTreeMap<String, String>,
    /// `--build-context` names: a stage, image or `--from` of this name means that context instead.
    pub named_contexts: BTreeSet<String>,
    /// Where the build runs.
    pub build_platform: Platform,
    /// What the result is for; the build's own platform when absent.
    pub target_platform: Option<Platform>,
    /// What the context leaves out, for the check of `COPY` sources.
    pub ignore: Option<IgnoreRules>,
    /// Check every stage, also those that the target does not need (`--check` without a target).
    pub all_stages: bool,
}

impl PlanOptions {
    /// Defaults, for a build that runs on this platform.
    #[must_use]
    pub fn new(build_platform: Platform) -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            named_contexts: BTreeSet::new(),
            build_platform,
            target_platform: None,
            ignore: None,
            all_stages: false,
        }
    }
}
