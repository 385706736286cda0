//! `gantry check`: a manifest on its own, without a cluster.

use std::collections::BTreeMap;

use clap::Args;
use gantry_model::spec::Application;
use serde_json::{Value, json};

use super::manifest::{self, Manifest, ManifestArgs};
use crate::args::Global;
use crate::failure::Outcome;
use crate::output;

// Arguments of `gantry check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// Says what is wrong, or shows what the manifest means.
pub fn run(global: &Global, args: &CheckArgs) -> Outcome {
    let Manifest { application, images } = manifest::read(global, &args.manifest)?;
    let builds: BTreeMap<_, _> = images
        .iter()
        .filter_map(|(name, source)| Some((name, source.build.as_ref()?)))
        .collect();
    let mut json = redacted(&application);
    if !builds.is_empty() {
        json["builds"] = json!(builds);
    }
    let name = application.namespace.to_string();
    output::object(global.output, &name, &json, || summary(&application, builds.len()))?;
    Ok(())
}

fn summary(application: &Application, builds: usize) -> String {
    let mut parts = Vec::new();
    let mut count = |number: usize, word: &str| {
        if number > 0 {
            parts.push(format!("{number} {word}{}", if number == 1 { "" } else { "s" }));
        }
    };
    count(application.services.len(), "service");
    count(builds, "build");
    count(application.networks.len(), "network");
    count(application.volumes.len(), "volume");
    count(application.configs.len(), "config");
    count(application.secrets.len(), "secret");
    if parts.is_empty() {
        parts.push("nothing in it".to_string());
    }
    format!("{} is valid: {}\n", application.namespace, parts.join(", "))
}

/// The application as JSON, without the content of secrets.
fn redacted(application: &Application) -> Value {
    let mut json = serde_json::to_value(application).expect("an application has text keys");
    let secrets = json.get_mut("secrets").and_then(Value::as_object_mut);
    for (name, secret) in secrets.into_iter().flatten() {
        let spec = application.secrets.iter().find(|(key, _)| key.as_str() == name);
        if let Some(content) = spec.and_then(|(_, spec)| spec.content.as_ref()) {
            secret["content"] = json!(format!("<{} bytes>", content.0.len()));
        }
    }
    json
}
