//! Where a service's image comes from: its name, what is built, and when it is pulled.
//!
//! **Invariant:** none of it is part of the service's spec: the cluster only ever sees the name, which the client has filled.

use gantry_model::Name;
use gantry_model::spec::BuildSpec;

use super::scalar::some_text;
use super::{Context, build};
use crate::yaml::cursor::Cursor;

/// When an image is pulled before it is deployed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the cluster lacks it.
    #[default]
    Missing,
    /// Each time.
    Always,
    /// It must be in the cluster.
    Never,
    /// It is built each time.
    Build,
}

/// Where a service's image comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSource {
    /// What to build under the image's name.
    pub build: Option<BuildSpec>,
    /// When to pull it.
    pub policy: PullPolicy,
    /// Which of its platforms; the node's own when absent.
    pub platform: Option<String>,
}

/// The image's name; `PROJECT-SERVICE` for what is built without one, as in Compose.
pub(crate) fn name(service: &Cursor<'_>, service_name: &Name, context: &Context<'_>) -> String {
    let Some(at) = service.get("image") else {
        if service.get("build").is_some() {
            return format!("{}-{service_name}", context.namespace).to_lowercase();
        }
        service.error_key("'image' is missing", None);
        return String::new();
    };
    let image = some_text(&at).unwrap_or_default();
    if image.contains(char::is_whitespace) || image.contains(['\'', '"', '\\']) {
        at.error(format!("'{image}' is not an image reference"));
    }
    image
}

/// `build`, `pull_policy` and `platform`.
pub(crate) fn source(service: &Cursor<'_>, context: &Context<'_>) -> ImageSource {
    let platform = service.read("platform", some_text);
    let mut build = service.read("build", |at| build::build(at, context));
    if let (Some(build), Some(platform)) = (&mut build, &platform)
        && build.platforms.is_empty()
    {
        build.platforms = vec![platform.clone()];
    }
    let policy = service.read("pull_policy", |at| pull_policy(at, build.is_some()));
    ImageSource {
        build,
        policy: policy.unwrap_or_default(),
        platform,
    }
}

fn pull_policy(at: &Cursor<'_>, is_built: bool) -> Option<PullPolicy> {
    let word = some_text(at)?;
    match word.as_str() {
        "missing" | "if_not_present" => Some(PullPolicy::Missing),
        "always" | "refresh" => Some(PullPolicy::Always),
        "never" => Some(PullPolicy::Never),
        "build" if is_built => Some(PullPolicy::Build),
        "build" => {
            at.error_with("the service has nothing to build", "add 'build', or use missing");
            None
        }
        periodic if matches!(periodic, "daily" | "weekly") || periodic.starts_with("every_") => {
            at.warn_with(
                format!("'{periodic}' is read as 'missing': nobody remembers when an image was pulled"),
                "use always to pull at each apply",
            );
            Some(PullPolicy::Missing)
        }
        _ => {
            at.error_with(
                format!("'{word}' is not a pull policy"),
                "use missing, always, never or build",
            );
            None
        }
    }
}
