//! A Compose tree to the model: the top level and what its parts refer to each other by.
//!
//! **Invariant:** everything wrong is reported in one go; a reader that fails reports and goes on with a default, and the
//! application is given out only when nothing was reported as an error.

mod autoscale;
mod block_io;
mod build;
mod checks;
mod container;
mod data;
mod deploy;
mod devices;
mod environment;
mod extension;
mod health;
mod image;
mod include;
mod ingress;
pub(crate) mod keys;
mod mounts;
mod namespaces;
mod network;
mod policy;
mod ports;
mod project;
mod rebase;
mod resolver;
mod resources;
mod restart;
pub(crate) mod scalar;
mod service;
mod sources;
mod traefik;
mod workload;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use gantry_model::Name;
use gantry_model::spec::{Application, NetworkSpec, VolumeSpec};

pub use image::{ImageSource, PullPolicy};
pub(crate) use include::include;
pub(crate) use project::{inherit, project_name};
pub(crate) use sources::Sources;

use crate::diagnostic::Site;
use crate::yaml::cursor::Cursor;
use crate::{Files, Options};

/// The name of the network that services without `networks` share.
const NETWORK_DEFAULT: &str = "default";

/// File and variable of each secret that has one of them.
pub(crate) type SecretSources = BTreeMap<Name, (Option<String>, Option<String>)>;

/// What every reader may need besides its own node.
pub(crate) struct Context<'c> {
    pub options: &'c Options,
    /// The environment of the options with Compose's own variables.
    pub environment: &'c BTreeMap<String, String>,
    pub files: &'c dyn Files,
    pub namespace: Name,
    pub networks: BTreeMap<Name, NetworkSpec>,
    pub volumes: BTreeMap<Name, VolumeSpec>,
    /// All services, active or not.
    pub service_names: BTreeSet<Name>,
    pub configs: BTreeSet<Name>,
    pub secrets: BTreeSet<Name>,
    pub secret_sources: SecretSources,
    /// Configs and secrets that some active service uses: only their content is read.
    pub used: RefCell<BTreeSet<(data::Kind, Name)>>,
}

impl Context<'_> {
    /// The name in the cluster of something the manifest calls `key`.
    fn cluster_name(&self, key: &Name, shared: Option<&Name>) -> String {
        shared.map_or_else(|| format!("{}_{key}", self.namespace), Name::to_string)
    }

    /// Reports a reference to what the top level does not declare; `known` is what it does. True when all is well.
    fn declared<'k>(
        at: &Cursor<'_>,
        what: &str,
        name: &Name,
        is_known: bool,
        known: impl Iterator<Item = &'k Name>,
    ) -> bool {
        if !is_known {
            let help = at.suggest(name.as_str(), known.map(Name::as_str)).map_or_else(
                || format!("declare it under '{what}s:' at the top level"),
                |other| format!("did you mean '{other}'?"),
            );
            at.error_with(format!("{what} '{name}' is not declared"), help);
        }
        is_known
    }
}

/// A service as read, with the places that the checks across services point at.
pub(crate) struct Draft {
    pub name: Name,
    pub spec: gantry_model::spec::ServiceSpec,
    pub image: ImageSource,
    /// Where each of `spec.ports` stands.
    pub ports: Vec<Site>,
    /// Where each of `spec.depends_on` stands.
    pub depends_on: BTreeMap<Name, Site>,
    /// Whether `restart` or `deploy.restart_policy` is given.
    pub has_restart: bool,
}

/// An application, and where the images of its services come from.
pub(crate) type Read = (Application, BTreeMap<Name, ImageSource>);

/// Reads a whole application; what comes back is only valid when the sink has no errors.
pub(crate) fn application(root: &Cursor<'_>, mut context: Context<'_>, sink: &crate::diagnostic::Sink) -> Read {
    root.check_keys(keys::TOP);
    let strategy = extension::namespace_strategy(root);
    declare(root, &mut context);
    let (mut drafts, inactive) = service::services(root, &context);
    for draft in &mut drafts {
        let own = draft.spec.placement.strategy;
        draft.spec.placement.strategy = own.or(strategy);
    }
    checks::across_services(&mut drafts, &inactive, sink);
    let configs = data::contents(root, data::Kind::Config, &context);
    let secrets = data::contents(root, data::Kind::Secret, &context);
    let images = drafts
        .iter()
        .map(|draft| (draft.name.clone(), draft.image.clone()))
        .collect();
    let services: BTreeMap<_, _> = drafts.into_iter().map(|draft| (draft.name, draft.spec)).collect();
    let mut networks = context.networks;
    let uses_default = services
        .values()
        .any(|service| service.networks.contains_key(NETWORK_DEFAULT));
    if !uses_default {
        networks.retain(|name, _| name.as_str() != NETWORK_DEFAULT);
    }
    let application = Application {
        namespace: context.namespace,
        services,
        networks,
        volumes: context.volumes,
        configs,
        secrets,
    };
    (application, images)
}

/// What services may refer to.
fn declare(root: &Cursor<'_>, context: &mut Context<'_>) {
    let namespace = context.namespace.clone();
    context.networks = root
        .read("networks", |at| Some(network::networks(at, &namespace)))
        .unwrap_or_default();
    context.volumes = root.read("volumes", |at| Some(mounts::volumes(at))).unwrap_or_default();
    context.configs = root.read("configs", |at| Some(data::names(at))).unwrap_or_default();
    context.secrets = root.read("secrets", |at| Some(data::names(at))).unwrap_or_default();
    let names = root.get("services").map(|at| service_names(&at));
    context.service_names = names.unwrap_or_default();
    let base = &context.options.base_dir;
    let sources = root.read("secrets", |at| Some(build::secret_sources(at, base)));
    context.secret_sources = sources.unwrap_or_default();
    if let Ok(name) = Name::new(NETWORK_DEFAULT) {
        context.networks.entry(name).or_default();
    }
}

fn service_names(at: &Cursor<'_>) -> BTreeSet<Name> {
    let entries = at.node.entries().iter();
    entries.filter_map(|entry| Name::new(entry.key.as_str()).ok()).collect()
}
