//! What stages start from: images of the store, with their configuration, got from elsewhere if needed.

use std::sync::{Arc, PoisonError};

use gantry_dockerfile::{Config, HealthCheck, Platform};
use gantry_image::{ConfigDocument, HealthcheckConfig, HistoryEntry, Node, RuntimeConfig};
use gantry_model::build::BuildEvent;
use gantry_model::{Class, Digest, ImageReference, Problem};
use serde_json::json;

use crate::client::WantedImage;
use crate::error::{BuildError, Result};
use crate::work::{Top, Work};

/// An image to start from or to copy from.
#[derive(Debug, Clone)]
pub(crate) struct BaseImage {
    pub(crate) top: Top,
    pub(crate) document: ConfigDocument,
}

impl Work<'_> {
    /// The image for the platform that is built for.
    pub(crate) fn image(&self, reference: &ImageReference) -> Result<Arc<BaseImage>> {
        self.image_for(reference, &self.graph.platform, None)
    }

    /// The image, in the store and unpacked. `step` shows its progress; without one, a step turns up if there is any.
    pub(crate) fn image_for(
        &self,
        reference: &ImageReference,
        platform: &Platform,
        step: Option<u32>,
    ) -> Result<Arc<BaseImage>> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (reference.clone(), platform.clone());
        if let Some(image) = images.get(&key) {
            return Ok(Arc::clone(image));
        }
        let id = step.unwrap_or_else(|| {
            let id = self.announce(&format!("[internal] load {}", reference.familiar()), None);
            self.started(id);
            id
        });
        let loaded = self.load(reference, platform, id);
        if step.is_none() {
            match &loaded {
                Ok(_) => self.done(id, false),
                Err(error) => self.failed(id, error),
            }
        }
        let image = Arc::new(loaded?);
        images.insert(key, Arc::clone(&image));
        Ok(image)
    }

    /// Gets an image for a platform.
    fn load(&self, reference: &ImageReference, platform: &Platform, step: u32) -> Result<BaseImage> {
        let config = &self.builder.config;
        let progress = |what: &str, current: u64, total: u64| {
            self.client.event(BuildEvent::Progress {
                id: step,
                what: what.to_string(),
                current,
                total,
            });
        };
        let wanted = WantedImage {
            reference,
            platform,
            fresh: self.request.spec.pull,
            auth: &self.request.registry_auth,
        };
        let digest = config
            .images
            .ensure(&wanted, &progress)
            .map_err(|problem| self.with_hint(reference, problem))?;
        self.lease.keep(Node::Manifest(digest))?;
        let info = config.store.info(digest)?;
        let bytes = read(&config.store, info.config_digest)?;
        Ok(BaseImage {
            top: Top(config.store.top_layer(digest)?),
            document: ConfigDocument::parse(&reference.familiar(), &bytes)?,
        })
    }

    /// A missing image may have been meant to be a stage.
    fn with_hint(&self, reference: &ImageReference, problem: Problem) -> Problem {
        match self.graph.similar_stage(reference) {
            Some(stage) if problem.class == Class::NotFound => {
                problem.remedy(format!("did you mean the stage {stage:?}?"))
            }
            _ => problem,
        }
    }
}

fn read(store: &gantry_image::Store, digest: Digest) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let blob = store.read_blob(digest, 0)?;
    blob.take(gantry_image::limits::DOCUMENT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(BuildError::io("read", digest.to_string()))?;
    Ok(bytes)
}

/// What a Dockerfile sees of an image's configuration.
pub(crate) fn config_of(document: &ConfigDocument) -> Config {
    let config = &document.config;
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_string(), value.to_string()),
        None => (text.clone(), String::new()),
    };
    Config {
        env: config.env.iter().map(pair).collect(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        exposed_ports: config.exposed_ports.keys().cloned().collect(),
        volumes: config.volumes.keys().cloned().collect(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        healthcheck: config.healthcheck.as_ref().map(health_of),
        shell: config.shell.clone(),
        on_build: config.on_build.clone(),
        author: document.author.clone().unwrap_or_default(),
    }
}

fn health_of(health: &HealthcheckConfig) -> HealthCheck {
    let duration = |nanos: i64| std::time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    HealthCheck {
        test: health.test.clone(),
        interval: duration(health.interval),
        timeout: duration(health.timeout),
        start_period: duration(health.start_period),
        start_interval: duration(health.start_interval),
        retries: u32::try_from(health.retries).unwrap_or(0),
    }
}

/// The configuration of an image with this history. `base` gives its platform.
pub(crate) fn document_of(config: &Config, base: &ConfigDocument, history: Vec<HistoryEntry>) -> ConfigDocument {
    let set = |names: &std::collections::BTreeSet<String>| names.iter().map(|name| (name.clone(), json!({}))).collect();
    let runtime = RuntimeConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: config
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.as_ref().map(health_document),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        on_build: config.on_build.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        shell: config.shell.clone(),
        ..RuntimeConfig::default()
    };
    ConfigDocument {
        created: history.iter().rev().find_map(|entry| entry.created.clone()),
        author: Some(config.author.clone()).filter(|author| !author.is_empty()),
        architecture: base.architecture.clone(),
        variant: base.variant.clone(),
        os: base.os.clone(),
        config: runtime,
        history,
        ..ConfigDocument::default()
    }
}

fn health_document(health: &HealthCheck) -> HealthcheckConfig {
    let nanos = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    HealthcheckConfig {
        test: health.test.clone(),
        interval: nanos(health.interval),
        timeout: nanos(health.timeout),
        start_period: nanos(health.start_period),
        start_interval: nanos(health.start_interval),
        retries: i64::from(health.retries),
    }
}
