//! Arguments before the first `FROM`: what the platform gives, what the file declares, what the person sets.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{Dockerfile, Kind};
use crate::diagnostic::Diagnostic;
use crate::expand::{Lexer, Variables, expand};
use crate::options::PlanOptions;

/// Arguments that need no declaration to reach `RUN`. They are in no key and, unless declared, in no history.
const PROXIES: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Arguments that the builder itself looks at.
const BUILDER: &[&str] = &[
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "BUILDKIT_SYNTAX",
    "SOURCE_DATE_EPOCH",
];

/// Values by name, in the order of their first mention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Values(Vec<(String, String)>);

impl Values {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, former)) => *former = value.to_string(),
            None => self.0.push((name.to_string(), value.to_string())),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

impl Variables for Values {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

/// Arguments that `FROM` sees, and that `ARG NAME` in a stage takes over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globals {
    pub values: Values,
    /// Names that the file declares, with a value or without.
    pub declared: BTreeSet<String>,
}

impl Globals {
    /// With these build arguments; none at all shows what the file means on its own.
    pub fn read(
        dockerfile: &Dockerfile,
        options: &PlanOptions,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, Diagnostic> {
        let mut globals = Self {
            values: of_platform(dockerfile, options),
            declared: BTreeSet::new(),
        };
        let lexer = Lexer::new(dockerfile.directives.escape);
        for instruction in &dockerfile.arguments {
            let Kind::Arg(arguments) = &instruction.kind else {
                continue;
            };
            for argument in arguments {
                let name = argument.name.text.as_str();
                globals.declared.insert(name.to_string());
                if let Some(value) = build_args.get(name) {
                    globals.values.set(name, value);
                } else if let Some(default) = &argument.default {
                    let expansion = expand(lexer, &default.text, &globals.values);
                    let expansion = expansion.map_err(|error| Diagnostic::error(default.span, error.to_string()))?;
                    globals.values.set(name, &expansion.text);
                }
            }
        }
        Ok(globals)
    }

    /// Names that `FROM` may use.
    pub fn names(&self) -> BTreeSet<&str> {
        let declared = self.declared.iter().map(String::as_str);
        declared.chain(self.values.names()).collect()
    }
}

fn of_platform(dockerfile: &Dockerfile, options: &PlanOptions) -> Values {
    let build = &options.build_platform;
    let target = options.target_platform.as_ref().unwrap_or(build);
    let last = dockerfile.stages.last().and_then(|stage| stage.base.name.as_ref());
    let stage = options
        .target
        .clone()
        .or_else(|| last.map(|name| name.text.to_lowercase()));
    let mut values = Values::default();
    for (name, value) in [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage.unwrap_or_else(|| "default".to_string())),
    ] {
        values.set(name, options.build_args.get(name).unwrap_or(&value));
    }
    values
}

/// Proxies from the command line, in both casings: programs differ in which they read.
pub(crate) fn proxies(build_args: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut proxies = BTreeMap::new();
    for (name, value) in build_args {
        let upper = name.to_ascii_uppercase();
        if PROXIES.contains(&upper.as_str()) {
            proxies.insert(name.to_ascii_lowercase(), value.clone());
            proxies.insert(upper, value.clone());
        }
    }
    proxies
}

/// Build arguments that no `ARG` declares and the builder does not know.
pub(crate) fn unused(dockerfile: &Dockerfile, options: &PlanOptions, platform: &Values) -> BTreeSet<String> {
    let stages = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let mut declared = BTreeSet::new();
    for instruction in dockerfile.arguments.iter().chain(stages) {
        if let Kind::Arg(arguments) = &instruction.kind {
            declared.extend(arguments.iter().map(|argument| argument.name.text.as_str()));
        }
    }
    let is_unused = |name: &&String| {
        let upper = name.to_ascii_uppercase();
        !declared.contains(name.as_str())
            && platform.get(name).is_none()
            && !PROXIES.contains(&upper.as_str())
            && !BUILDER.contains(&name.as_str())
    };
    options.build_args.keys().filter(is_unused).cloned().collect()
}
