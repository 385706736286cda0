//! Images of this node: listed, described, named, removed, checked.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_api::kind;
use gantry_api::v1::{
    Document, Documents, Empty, PruneImagesReply, PruneImagesRequest, PullImageRequest, TagImageRequest,
    TransferProgress,
};
use gantry_image::{Finding, GcPolicy, ImageInfo, PruneOptions, Selector, Store};
use gantry_model::object::LocalImage;
use gantry_model::{ByteSize, Class, Digest, DurationMs, ImageReference, Problem};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::super::images::in_use;
use super::super::{Answers, NodeService, STREAM_WAITING};
use crate::drivers::blocking;
use crate::drivers::images::wire_info;

/// Does something with the store, on a thread for it.
async fn with_store<T: Send + 'static>(
    service: &NodeService,
    act: impl FnOnce(&Store) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let store = Arc::clone(service.images.store());
    blocking(move || act(&store)).await
}

/// Images that replicas and containers of this node were made from.
pub(super) async fn used(service: &NodeService) -> Result<BTreeSet<Digest>, Problem> {
    let (shared, containers) = (Arc::clone(&service.shared), service.engine.images());
    with_store(service, move |store| {
        let mut used = in_use(&shared, store)?;
        used.extend(containers);
        Ok(used)
    })
    .await
}

/// The image that a text names: by reference, digest, or the beginning of one.
fn find(store: &Store, text: &str) -> Result<Digest, Problem> {
    match store.find(text)? {
        Selector::Digest(digest) => Ok(digest),
        Selector::Reference(reference) => {
            let found = store.resolve(&reference);
            found.ok_or_else(|| Problem::new(Class::NotFound, format!("image {text}"), "is not on this node"))
        }
    }
}

/// Brings an image here, and tells the cluster.
pub(super) fn pull(service: &NodeService, request: PullImageRequest) -> Result<Answers<TransferProgress>, Problem> {
    let mut steps = service.registries.pull(request)?;
    let (sender, answers) = mpsc::channel(STREAM_WAITING);
    let images = service.images.clone();
    tokio::spawn(async move {
        while let Some(step) = steps.next().await {
            if let Ok(TransferProgress {
                result: Some(result), ..
            }) = &step
            {
                let came = result.images.clone();
                images.record(came, Vec::new()).await;
            }
            // Dropping the steps ends the transfer.
            if sender.send(step).await.is_err() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(answers))
}

pub(super) async fn list(service: &NodeService) -> Result<Documents, Problem> {
    let (shared, containers) = (Arc::clone(&service.shared), service.engine.images());
    let images = with_store(service, move |store| {
        let replicas = in_use(&shared, store)?;
        let count = |digest: Digest| {
            let by_hand = containers.iter().filter(|used| **used == digest).count();
            u32::try_from(by_hand).unwrap_or(u32::MAX) + u32::from(replicas.contains(&digest))
        };
        Ok(store
            .list()
            .iter()
            .map(|info| local(info, count(info.digest)))
            .collect::<Vec<_>>())
    });
    let images = images.await?;
    Ok(Documents {
        items: images
            .iter()
            .map(|image| gantry_api::encode(kind::LOCAL_IMAGE, image))
            .collect(),
        revision: 0,
    })
}

fn local(info: &ImageInfo, users: u32) -> LocalImage {
    LocalImage {
        digest: info.digest.to_string(),
        config_digest: info.config_digest.to_string(),
        references: info.references.iter().map(ToString::to_string).collect(),
        platform: info.platform.clone(),
        size: info.size,
        created_at: info.created_at,
        users,
    }
}

pub(super) async fn inspect(service: &NodeService, image: &str) -> Result<Document, Problem> {
    let image = image.to_string();
    let inspection = with_store(service, move |store| Ok(store.inspect(find(store, &image)?)?)).await?;
    Ok(gantry_api::encode(kind::IMAGE_INSPECT, &inspection))
}

pub(super) async fn history(service: &NodeService, image: &str) -> Result<Documents, Problem> {
    let image = image.to_string();
    let steps = with_store(service, move |store| Ok(store.history(find(store, &image)?)?)).await?;
    Ok(Documents {
        items: steps
            .iter()
            .map(|step| gantry_api::encode(kind::IMAGE_HISTORY, step))
            .collect(),
        revision: 0,
    })
}

pub(super) async fn tag(service: &NodeService, request: TagImageRequest) -> Result<Empty, Problem> {
    let reference: Result<ImageReference, _> = request.reference.parse();
    let reference = reference.map_err(|error| Problem::new(Class::Invalid, "image reference", format!("{error}")))?;
    let named = with_store(service, move |store| {
        let digest = find(store, &request.source)?;
        store.tag(&reference, digest)?;
        Ok(store.info(digest)?)
    });
    let named = named.await?;
    service.images.refresh();
    service.images.record(vec![wire_info(&named)], Vec::new()).await;
    Ok(Empty {})
}

pub(super) async fn prune(service: &NodeService, request: PruneImagesRequest) -> Result<PruneImagesReply, Problem> {
    let used = used(service).await?;
    let options = PruneOptions {
        all: request.all,
        unused_for: DurationMs(request.unused_for_ms),
        dry_run: request.dry_run,
    };
    let filters = Labels::parse(&request.filters)?;
    let removed = with_store(service, move |store| {
        let wanted = |info: &ImageInfo| filters.pass(store, info);
        Ok(store.prune_images(options, &used, wanted)?)
    });
    let removed = removed.await?;
    let untagged: Vec<String> = removed.untagged.iter().map(ToString::to_string).collect();
    if !request.dry_run {
        service.images.refresh();
    }
    Ok(PruneImagesReply {
        untagged,
        deleted: removed.deleted.iter().map(ToString::to_string).collect(),
        freed_bytes: removed.freed.0,
    })
}

/// `label=KEY[=VALUE]`, as `docker image prune --filter` has it.
struct Labels(Vec<(String, Option<String>)>);

impl Labels {
    fn parse(texts: &[String]) -> Result<Self, Problem> {
        let label = |text: &String| {
            let rest = text.strip_prefix("label=").ok_or_else(|| {
                Problem::new(Class::Invalid, format!("filter '{text}'"), "there is no such filter")
                    .remedy("write label=KEY or label=KEY=VALUE")
            })?;
            Ok(match rest.split_once('=') {
                Some((key, value)) => (key.to_string(), Some(value.to_string())),
                None => (rest.to_string(), None),
            })
        };
        texts.iter().map(label).collect::<Result<_, _>>().map(Self)
    }

    fn pass(&self, store: &Store, info: &ImageInfo) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Ok(config) = store.config(info.digest) else {
            return false;
        };
        self.0.iter().all(|(key, value)| match (config.labels.get(key), value) {
            (Some(found), Some(value)) => found == value,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        })
    }
}

pub(super) async fn disk_usage(service: &NodeService) -> Result<Document, Problem> {
    let used = used(service).await?;
    let usage = with_store(service, move |store| Ok(store.usage(&used)?)).await?;
    let written = super::files::written_bytes(service).await;
    let containers = service.engine.records();
    let size = |at_rest: bool| -> u64 {
        let counted = containers.iter().filter(|record| !at_rest || record.life.is_at_rest());
        counted.filter_map(|record| written.get(&record.id)).sum()
    };
    let mut document = serde_json::to_value(&usage).unwrap_or_default();
    if let Some(fields) = document.as_object_mut() {
        fields.insert("containers".to_string(), containers.len().into());
        fields.insert("containers_size".to_string(), size(false).into());
        fields.insert("containers_reclaimable".to_string(), size(true).into());
    }
    Ok(gantry_api::encode(kind::DISK_USAGE, &document))
}

pub(super) async fn verify(service: &NodeService, repair: bool) -> Result<Documents, Problem> {
    let used = used(service).await?;
    let findings = with_store(service, move |store| Ok(store.verify(&used, repair)?)).await?;
    if repair {
        service.images.refresh();
    }
    Ok(Documents {
        items: findings
            .iter()
            .map(|finding| gantry_api::encode(kind::FINDING, &told(finding)))
            .collect(),
        revision: 0,
    })
}

/// A finding with its words, which the command line prints.
fn told(finding: &Finding) -> serde_json::Value {
    let mut document = serde_json::to_value(finding).unwrap_or_default();
    if let Some(fields) = document.as_object_mut() {
        fields.insert("message".to_string(), finding.to_string().into());
        fields.insert("remedy".to_string(), finding.remedy().into());
    }
    document
}

/// Frees disk space by what nothing needs; once the disk is full to the high watermark, also by the cache of builds, what was not
/// used for longest first, and by images without a name.
pub(crate) async fn collect(service: &NodeService) -> Result<(), Problem> {
    let policy = GcPolicy::default();
    shrink_build_cache(service, policy).await?;
    let used = used(service).await?;
    let removed = with_store(service, move |store| {
        let removed = store.collect(&policy, store.disk_use()?, &used)?;
        Ok((removed, store.disk_use()?))
    });
    let (removed, disk) = removed.await?;
    if !removed.deleted.is_empty() || removed.freed.0 > 0 {
        let images: Vec<String> = removed.deleted.iter().map(ToString::to_string).collect();
        tracing::info!(?images, freed = %removed.freed, "removed what nothing needs, to free disk space");
        service.images.refresh();
    }
    if disk.is_over(policy.high_percent) {
        let percent = policy.high_percent;
        tracing::warn!(
            used = %disk.used, total = %disk.total,
            "the disk is still more than {percent} % full: all images that are left have a name or are in use; \
             `gantry image prune --all` removes those that nothing uses"
        );
    }
    Ok(())
}

/// Ages of build cache that go when the disk is full, one after the other until there is room: two days, as nothing else was
/// said, then half a day, then an hour. What the last builds used stays.
const CACHE_AGES: [DurationMs; 3] = [
    DurationMs::secs(48 * 3600),
    DurationMs::secs(12 * 3600),
    DurationMs::secs(3600),
];

async fn shrink_build_cache(service: &NodeService, policy: GcPolicy) -> Result<(), Problem> {
    let builder = Arc::clone(&service.builder);
    with_store(service, move |store| {
        let cache = |error: gantry_build::BuildError| error.into_problem("build cache");
        let mut freed = builder.tidy().map_err(cache)?;
        let mut steps = 0;
        if store.disk_use()?.is_over(policy.high_percent) {
            for age in CACHE_AGES {
                if !store.disk_use()?.is_over(policy.low_percent) {
                    break;
                }
                let pruned = builder.prune(age, false).map_err(cache)?;
                steps += pruned.removed.len();
                freed += pruned.freed;
                // The records' layers are nobody's now.
                store.prune_layers()?;
            }
        }
        if freed > 0 {
            let freed = ByteSize(freed);
            tracing::info!(steps, %freed, "removed build cache to free disk space");
        }
        Ok(())
    })
    .await
}
