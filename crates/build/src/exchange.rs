//! The cache of steps between machines: images whose annotation says which step made which of their layers (`--cache-to`,
//! `--cache-from`).
//!
//! Keys of steps come from content alone, so they are the same on every machine that starts from the same base.
//! **Invariant:** what another machine says is believed for keys that this build has computed itself, and for layers whose
//! content has the digest that its image says; nothing else of it enters the cache.

use std::collections::{BTreeMap, BTreeSet};

use gantry_dockerfile::Key;
use gantry_image::{ImageDraft, IndexDraft, Lease, Node, Selector};
use gantry_model::build::{BuildEvent, BuildRequest};
use gantry_model::spec::BuildCache;
use gantry_model::{Digest, ImageReference, Timestamp};
use serde::{Deserialize, Serialize};

use crate::base::document_of;
use crate::build::Finished;
use crate::builder::Builder;
use crate::cache::CacheRecord;
use crate::client::{Client, WantedCache};
use crate::error::{BuildError, Result};
use crate::work::{Top, Work};

/// The annotation of manifests.
const ANNOTATION: &str = "io.gantry.build.cache";

/// A step and the layer that it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) key: Key,
    pub(crate) record: CacheRecord,
}

/// The same in an annotation.
#[derive(Debug, Serialize, Deserialize)]
struct Shared {
    key: Digest,
    chain: Digest,
    size: u64,
    description: String,
    created_at: Timestamp,
}

/// What other machines know.
#[derive(Debug, Default)]
pub(crate) struct Imported(BTreeMap<Key, (Digest, CacheRecord)>);

/// Where this build's steps go.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    pub(crate) inline: bool,
    registries: Vec<(ImageReference, bool)>,
}

impl Exports {
    pub(crate) fn of(request: &BuildRequest) -> Result<Self> {
        let mut exports = Self::default();
        for place in parsed(&request.spec.cache_to)? {
            match place {
                BuildCache::Inline => exports.inline = true,
                BuildCache::Registry { reference, all_stages } => {
                    exports.registries.push((named(&reference)?, all_stages));
                }
            }
        }
        Ok(exports)
    }

    /// Writes the images that hold the cache, and returns their names.
    pub(crate) fn write(&self, work: &Work<'_>, stages: &[&Finished], result: &Finished) -> Result<Vec<String>> {
        let store = &work.builder.config.store;
        let mut names = Vec::new();
        for (reference, all_stages) in &self.registries {
            let step = work.announce(&format!("exporting cache as {}", reference.familiar()), None);
            work.started(step);
            let wanted: &[&Finished] = if *all_stages { stages } else { &[result] };
            let mut images = Vec::new();
            for stage in wanted.iter().filter(|stage| !stage.made.is_empty()) {
                let draft = ImageDraft {
                    config: document_of(
                        &gantry_dockerfile::Config::default(),
                        &stage.base,
                        stage.history.clone(),
                    ),
                    top: stage.top.0,
                    annotations: annotations(&stage.made),
                    ..ImageDraft::default()
                };
                images.push(store.write_image(work.lease, &draft)?.digest);
            }
            images.sort_unstable();
            images.dedup();
            let index = IndexDraft {
                images,
                references: vec![reference.clone()],
                ..IndexDraft::default()
            };
            if !index.images.is_empty() {
                store.write_index(work.lease, &index)?;
                names.push(reference.to_string());
            }
            work.done(step, false);
        }
        Ok(names)
    }
}

/// What an image says about the steps that made it.
pub(crate) fn annotations(made: &[Made]) -> BTreeMap<String, String> {
    let shared = |made: &Made| Shared {
        key: made.key.0,
        chain: made.record.chain,
        size: made.record.size,
        description: made.record.description.clone(),
        created_at: made.record.created_at,
    };
    let shared: Vec<Shared> = made.iter().map(shared).collect();
    let text = serde_json::to_string(&shared).expect("texts and numbers are JSON");
    BTreeMap::from([(ANNOTATION.to_string(), text)])
}

impl Imported {
    /// Gets what the request names. What cannot be had is warned of: the first build of all has nothing to start from.
    pub(crate) fn of(builder: &Builder, request: &BuildRequest, client: &dyn Client, lease: &Lease) -> Result<Self> {
        let mut imported = Self::default();
        for place in parsed(&request.spec.cache_from)? {
            let Some(reference) = place.reference() else { continue };
            let reference = named(reference)?;
            if let Err(error) = imported.take(builder, request, &reference, lease) {
                client.event(BuildEvent::Warning {
                    rule: String::new(),
                    message: format!("no cache comes from {}: {error}", reference.familiar()),
                    line: 0,
                });
            }
        }
        Ok(imported)
    }

    fn take(
        &mut self,
        builder: &Builder,
        request: &BuildRequest,
        reference: &ImageReference,
        lease: &Lease,
    ) -> Result<()> {
        let config = &builder.config;
        let was_here = config.store.target(reference).is_some();
        let wanted = WantedCache {
            reference,
            auth: &request.registry_auth,
        };
        let images = config.images.cache(&wanted)?;
        for image in &images {
            lease.keep(Node::Manifest(*image))?;
            self.add(builder, *image)?;
        }
        if !was_here {
            // It is no image that anybody runs; without a name it stays until room is needed.
            let held: BTreeSet<Digest> = images.into_iter().collect();
            config.store.remove(&Selector::Reference(reference.clone()), &held)?;
        }
        Ok(())
    }

    fn add(&mut self, builder: &Builder, image: Digest) -> Result<()> {
        let (manifest, _) = builder.config.store.manifest(image)?;
        let text = manifest.annotations.get(ANNOTATION).and_then(|value| value.as_str());
        // An image that nobody built here, or of another version: it says nothing.
        let shared: Vec<Shared> = text
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let now = builder.config.env.now();
        for step in shared {
            let record = CacheRecord {
                chain: step.chain,
                size: step.size,
                description: step.description,
                created_at: step.created_at,
                used_at: now,
            };
            self.0.insert(Key(step.key), (image, record));
        }
        Ok(())
    }
}

impl Work<'_> {
    /// The layer that another machine made under this key, here and recorded then; `top` is what it lies on.
    pub(crate) fn borrowed(&self, key: Key, top: Top) -> Result<Option<CacheRecord>> {
        let Some((image, record)) = self.imported.0.get(&key) else {
            return Ok(None);
        };
        let store = &self.builder.config.store;
        store.unpack(*image)?;
        self.lease.keep(Node::Layer(record.chain))?;
        if !store.has_layer_on(record.chain, top.0) {
            return Ok(None);
        }
        self.builder.cache.insert(key, record.clone())?;
        Ok(Some(record.clone()))
    }
}

fn parsed(places: &[String]) -> Result<Vec<BuildCache>> {
    let places = places.iter().map(|place| place.parse::<BuildCache>());
    let places: std::result::Result<Vec<_>, _> = places.collect();
    places.map_err(|error| BuildError::refused(error.to_string(), "correct --cache-from or --cache-to"))
}

fn named(reference: &str) -> Result<ImageReference> {
    let parsed = reference.parse::<ImageReference>();
    parsed.map_err(|error| BuildError::refused(error.to_string(), "write type=registry,ref=REGISTRY/NAME:TAG"))
}
