//! Images that an application needs before it is applied: what is built here, and what is pulled.
//!
//! **Invariant:** what is to be done is decided first, from what the cluster has, and shown by `plan` as it is done by `apply`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use gantry_api::kind;
use gantry_api::v1::{Empty, PullImageRequest};
use gantry_manifest::{ImageSource, PullPolicy};
use gantry_model::object::{ImageRecord, TagRecord};
use gantry_model::spec::{Application, BuildSpec};
use gantry_model::{Class, ImageReference, Name, Problem};
use gantry_rpc::Repeat;
use serde_json::{Value, json};

use crate::args::Global;
use crate::client::Client;
use crate::commands::build::{self, Job, Mode, Target};
use crate::commands::container::registry_auth;
use crate::commands::image::transfer::pull_one;
use crate::engine::Engine;
use crate::failure::{Failure, Outcome};
use crate::output;

/// What the manifest of another service's image is called in a build.
const SERVICE_CONTEXT: &str = "service:";

/// An image that a node has is known to the cluster within this time; apply says so if it is not.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at what the cluster knows.
const KNOWN_PAUSE: Duration = Duration::from_millis(100);

// Whether to build.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct SupplyArgs {
    /// Build every image that has 'build', also where the cluster has it
    #[arg(long, conflicts_with = "no_build")]
    pub build: bool,
    /// Build nothing: all images are in the cluster or in a registry
    #[arg(long)]
    pub no_build: bool,
}

/// One image, and how it comes into the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Services that use it.
    services: Vec<Name>,
    image: String,
    act: Act,
    reason: &'static str,
    /// The cluster has nothing of that name yet.
    is_new: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Build(Box<BuildSpec>),
    Pull { platform: String, only_missing: bool },
}

/// Decides what to do for an application, given the references that the cluster knows.
///
/// # Errors
/// When builds need each other in a circle, or a service that does not exist.
pub fn plan(
    application: &Application,
    sources: &BTreeMap<Name, ImageSource>,
    known: &BTreeSet<String>,
    args: SupplyArgs,
) -> Result<Vec<Step>, Problem> {
    let mut steps: Vec<Step> = Vec::new();
    for name in in_build_order(sources)? {
        let (Some(service), Some(source)) = (application.services.get(name), sources.get(name)) else {
            continue;
        };
        let image = &service.container.image;
        let is_known = image.parse().is_ok_and(|image: ImageReference| match image.digest() {
            Some(digest) => known.contains(&digest.to_string()),
            None => known.contains(&image.to_string()),
        });
        let Some((act, reason)) = decide(source, is_known, args) else {
            continue;
        };
        let act = match act {
            Act::Build(spec) => Act::Build(Box::new(with_images(*spec, application))),
            pull @ Act::Pull { .. } => pull,
        };
        match steps.iter_mut().find(|step| step.image == *image && step.act == act) {
            Some(step) => step.services.push(name.clone()),
            None => steps.push(Step {
                services: vec![name.clone()],
                image: image.clone(),
                act,
                reason,
                is_new: !is_known,
            }),
        }
    }
    Ok(steps)
}

/// As Compose decides for `up`: a build stands in for a pull.
fn decide(source: &ImageSource, is_known: bool, args: SupplyArgs) -> Option<(Act, &'static str)> {
    let pull = |only_missing| Act::Pull {
        platform: source.platform.clone().unwrap_or_default(),
        only_missing,
    };
    let build = source.build.as_ref().filter(|_| !args.no_build);
    if let Some(spec) = build {
        let act = || Act::Build(Box::new(spec.clone()));
        return match source.policy {
            _ if args.build => Some((act(), "--build")),
            PullPolicy::Build => Some((act(), "pull_policy: build")),
            PullPolicy::Always => Some((pull(false), "pull_policy: always")),
            PullPolicy::Missing | PullPolicy::Never if is_known => None,
            PullPolicy::Missing | PullPolicy::Never => Some((act(), "not in the cluster")),
        };
    }
    match source.policy {
        PullPolicy::Always => Some((pull(false), "pull_policy: always")),
        PullPolicy::Never | PullPolicy::Build => None,
        PullPolicy::Missing if is_known => None,
        PullPolicy::Missing => Some((pull(true), "not in the cluster")),
    }
}

/// Services whose images others are built from come first.
fn in_build_order(sources: &BTreeMap<Name, ImageSource>) -> Result<Vec<&Name>, Problem> {
    let mut order: Vec<&Name> = Vec::new();
    while order.len() < sources.len() {
        let before = order.len();
        for (name, source) in sources {
            let needs = source.build.iter().flat_map(|spec| spec.additional_contexts.values());
            let mut needs = needs.filter_map(|context| context.strip_prefix(SERVICE_CONTEXT));
            let is_ready = needs.all(|need| order.iter().any(|done| done.as_str() == need));
            if is_ready && !order.contains(&name) {
                order.push(name);
            }
        }
        if order.len() == before {
            let left: Vec<&str> = sources
                .keys()
                .filter(|name| !order.contains(name))
                .map(Name::as_str)
                .collect();
            let reason = "their builds need each other, or a service that does not exist";
            return Err(
                Problem::new(Class::Invalid, format!("services {}", left.join(", ")), reason)
                    .remedy("name services of the manifest in additional_contexts, without a circle"),
            );
        }
    }
    Ok(order)
}

/// Contexts that are other services become the images of those.
fn with_images(mut spec: BuildSpec, application: &Application) -> BuildSpec {
    for context in spec.additional_contexts.values_mut() {
        let service = context.strip_prefix(SERVICE_CONTEXT);
        let image = service.and_then(|name| {
            let found = application.services.iter().find(|(other, _)| other.as_str() == name);
            found.map(|(_, service)| service.container.image.clone())
        });
        if let Some(image) = image {
            *context = format!("docker-image://{image}");
        }
    }
    spec
}

/// Images of the cluster's own registry are named as the cluster names them: `10.0.0.1:7600/web:v1` is its `web:v1`, and nothing
/// that a node would have to pull from a server.
///
/// # Errors
/// When no server answers.
pub async fn name_as_cluster(client: &Client, application: &mut Application) -> Result<(), Problem> {
    let has_port = |image: &str| image.split('/').next().is_some_and(|registry| registry.contains(':'));
    let mut services = application.services.values();
    if !services.any(|service| has_port(&service.container.image)) {
        return Ok(());
    }
    let status = client
        .call(Repeat::Harmless, |mut cluster| async move {
            cluster.cluster_status(Empty {}).await
        })
        .await?;
    let is_server = |registry: &str| status.servers.iter().any(|server| server.address == registry);
    for service in application.services.values_mut() {
        let image = &mut service.container.image;
        let Ok(reference) = image.parse::<ImageReference>() else {
            continue;
        };
        let meant = reference.clone().of_cluster(is_server);
        if meant != reference {
            *image = meant.familiar();
        }
    }
    Ok(())
}

/// The references and digests that the cluster has images for.
///
/// # Errors
/// When no server answers.
pub async fn known(client: &Client) -> Result<BTreeSet<String>, Problem> {
    let available = available(client).await?;
    let tags = tags(client).await?.into_iter();
    let tags = tags
        .filter(|(_, digest)| available.contains(digest))
        .map(|(tag, _)| tag);
    Ok(tags.collect::<BTreeSet<_>>().union(&available).cloned().collect())
}

/// Digests of the images that some node holds.
async fn available(client: &Client) -> Result<BTreeSet<String>, Problem> {
    let images = client.read::<ImageRecord>(kind::IMAGE, "", "").await?.into_iter();
    let held = images.filter(|image| !image.object.nodes.is_empty());
    Ok(held.map(|image| image.object.digest).collect())
}

/// What each reference means.
async fn tags(client: &Client) -> Result<BTreeMap<String, String>, Problem> {
    let tags = client.read::<TagRecord>(kind::TAG, "", "").await?.into_iter();
    Ok(tags.map(|tag| (tag.object.reference, tag.object.digest)).collect())
}

/// Builds and pulls, one after the other.
///
/// # Errors
/// When one fails; those after it have not been begun then.
pub async fn run(global: &Global, client: &Client, steps: Vec<Step>) -> Outcome {
    for step in steps {
        let reference: ImageReference = step.image.parse().map_err(|error: gantry_model::ImageRefError| {
            Problem::new(Class::Invalid, &step.image, error.to_string())
        })?;
        output::note(&step.line(true));
        let digests = match step.act {
            Act::Build(spec) => build_one(global, step.image, *spec).await?,
            Act::Pull { platform, only_missing } => {
                let engine = Engine::open(global, None).await?;
                let request = PullImageRequest {
                    registry_auth_json: registry_auth(&step.image).await.into(),
                    reference: step.image,
                    platform,
                    plain_http: false,
                    all_tags: false,
                    only_missing,
                };
                let reply = pull_one(&engine, request, false).await?;
                reply.images.into_iter().map(|image| image.digest).collect()
            }
        };
        await_known(client, &reference, &digests).await?;
    }
    Ok(())
}

/// The digest of the result.
async fn build_one(global: &Global, image: String, spec: BuildSpec) -> Result<Vec<String>, Failure> {
    let mut tags = vec![image];
    tags.extend(spec.tags.iter().cloned());
    let job = Job {
        spec,
        tags,
        push: false,
        node: None,
        progress: Mode::Auto,
        target: Target::Image,
    };
    let result = build::build(global, job).await?;
    Ok(result.into_iter().map(|result| result.digest).collect())
}

/// Nodes tell the cluster of their images a moment after they have them, and until then a name means what it meant before.
async fn await_known(client: &Client, reference: &ImageReference, digests: &[String]) -> Result<(), Problem> {
    let wanted = reference.to_string();
    let look = async {
        loop {
            let means_new = tags(client)
                .await?
                .get(&wanted)
                .is_some_and(|digest| digests.contains(digest));
            if means_new || reference.digest().is_some() {
                return Ok::<(), Problem>(());
            }
            tokio::time::sleep(KNOWN_PAUSE).await;
        }
    };
    // Past it, applying says what is missing.
    tokio::time::timeout(KNOWN_TIMEOUT, look).await.unwrap_or(Ok(()))
}

impl Step {
    /// Whether nothing can be planned with the image before this is done.
    pub const fn brings_new(&self) -> bool {
        self.is_new
    }

    /// `build shop-web for web (not in the cluster)`.
    pub fn line(&self, is_done: bool) -> String {
        let verb = match (&self.act, is_done) {
            (Act::Build(_), true) => "building",
            (Act::Build(_), false) => "build",
            (Act::Pull { .. }, true) => "pulling",
            (Act::Pull { .. }, false) => "pull",
        };
        let services: Vec<&str> = self.services.iter().map(Name::as_str).collect();
        format!("{verb} {} for {} ({})", self.image, services.join(", "), self.reason)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let action = match self.act {
            Act::Build(_) => "build",
            Act::Pull { .. } => "pull",
        };
        json!({ "action": action, "image": self.image, "services": self.services, "reason": self.reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(manifest: &str, known: &[&str], args: SupplyArgs) -> Result<Vec<String>, Problem> {
        let source = gantry_manifest::Source {
            name: "compose.yaml".to_string(),
            text: manifest.to_string(),
        };
        let options = gantry_manifest::Options {
            base_dir: "/srv/shop".into(),
            ..gantry_manifest::Options::default()
        };
        let loaded = gantry_manifest::load(&[source], &options, &gantry_manifest::MemoryFiles::default());
        let application = loaded.application.expect("a valid manifest");
        let known = known.iter().map(ToString::to_string).collect();
        let steps = plan(&application, &loaded.images, &known, args)?;
        Ok(steps.iter().map(|step| step.line(false)).collect())
    }

    const MANIFEST: &str = "\
services:
  api: {build: ., image: 'api:1'}
  copy: {image: 'redis:7'}
  db: {image: 'postgres:17', pull_policy: always}
  fixed: {image: 'tool:1', pull_policy: never}
  redis: {image: 'redis:7'}
  web: {build: {context: web, additional_contexts: {base: 'service:worker'}}}
  worker: {build: worker, pull_policy: build}
";

    #[test]
    fn what_the_cluster_lacks_is_built_or_pulled() {
        let lines = planned(MANIFEST, &[], SupplyArgs::default()).expect("no circle");
        let expected = [
            "build api:1 for api (not in the cluster)",
            "pull redis:7 for copy, redis (not in the cluster)",
            "pull postgres:17 for db (pull_policy: always)",
            "build shop-worker for worker (pull_policy: build)",
            "build shop-web for web (not in the cluster)",
        ];
        assert_eq!(lines, expected);
        let all = [
            "docker.io/library/api:1",
            "docker.io/library/redis:7",
            "docker.io/library/postgres:17",
            "docker.io/library/shop-web:latest",
            "docker.io/library/shop-worker:latest",
        ];
        let lines = planned(MANIFEST, &all, SupplyArgs::default()).expect("no circle");
        assert_eq!(lines, [expected[2], expected[3]]);
    }

    #[test]
    fn building_is_forced_or_forbidden() {
        let manifest = "services: {a: {build: ., image: 'a:1'}}";
        let known = ["docker.io/library/a:1"];
        let forced = SupplyArgs {
            build: true,
            no_build: false,
        };
        assert_eq!(
            planned(manifest, &known, forced).expect("no circle"),
            ["build a:1 for a (--build)"]
        );
        let forbidden = SupplyArgs {
            build: false,
            no_build: true,
        };
        let lines = planned(manifest, &[], forbidden).expect("no circle");
        assert_eq!(lines, ["pull a:1 for a (not in the cluster)"]);
    }

    #[test]
    fn builds_in_a_circle_are_refused() {
        let manifest = "\
services:
  a: {build: {context: ., additional_contexts: {x: 'service:b'}}}
  b: {build: {context: ., additional_contexts: {x: 'service:a'}}}
";
        let problem = planned(manifest, &[], SupplyArgs::default()).expect_err("a circle");
        assert!(problem.object.contains("a, b"), "{problem:?}");
    }
}
