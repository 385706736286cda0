//! What a repository holds, and which nodes have it. Pure, over the state.

use std::collections::BTreeSet;

use gantry_model::object::{ImageRecord, Node, NodeStatus};
use gantry_model::{Digest, ImageReference, NodeId, Timestamp};
use gantry_registry::{Referrer, Repository};
use gantry_state::State;

/// How deep indexes are followed.
const INDEX_DEPTH_MAX: usize = 4;

/// One repository in one state.
#[derive(Clone, Copy)]
pub(super) struct Contents<'a> {
    state: &'a State,
    repository: &'a Repository,
}

impl<'a> Contents<'a> {
    pub(super) const fn of(state: &'a State, repository: &'a Repository) -> Self {
        Self { state, repository }
    }

    /// Its tags, in order; none when nothing was ever called so.
    pub(super) fn tags(&self) -> Option<Vec<String>> {
        let prefix = self.repository.name.len() + 1;
        let tags = self.state.tags_of(&self.repository.name);
        let mut tags: Vec<String> = tags.map(|tag| tag.reference[prefix..].to_string()).collect();
        tags.sort();
        let mut linked = self.state.registry_manifests();
        let exists = !tags.is_empty() || linked.any(|manifest| manifest.repository == self.repository.name);
        exists.then_some(tags)
    }

    /// The manifest that a tag means.
    pub(super) fn tag(&self, tag: &str) -> Option<&'a ImageRecord> {
        let tag = self.state.tag(&format!("{}:{tag}", self.repository.name))?;
        self.state.image(&tag.digest)
    }

    /// A manifest of the repository.
    pub(super) fn manifest(&self, digest: Digest) -> Option<&'a ImageRecord> {
        let record = self.state.image(&digest.to_string())?;
        self.has(digest, INDEX_DEPTH_MAX).then_some(record)
    }

    /// Called so, pushed by its digest, or listed by an index of the repository.
    fn has(&self, digest: Digest, depth: usize) -> bool {
        let text = digest.to_string();
        let mut tags = self.state.tags_of(&self.repository.name);
        tags.any(|tag| tag.digest == text)
            || self.state.registry_manifest(&self.repository.name, digest).is_some()
            || (depth > 0
                && self.state.indexes_with(digest).any(|index| {
                    let index = index.digest.parse::<Digest>();
                    index.is_ok_and(|index| self.has(index, depth - 1))
                }))
    }

    /// Bytes of a blob of the repository: one that a manifest of it needs, or that was uploaded to it.
    pub(super) fn blob(&self, digest: Digest, now: Timestamp) -> Option<u64> {
        if let Some(blob) = self.state.uploaded_blob(digest)
            && blob
                .repositories
                .get(&self.repository.name)
                .is_some_and(|end| now < *end)
        {
            return Some(blob.size.0);
        }
        let mut images = self.state.images_with_blob(digest);
        let image = images.find(|image| {
            let own = image.digest.parse::<Digest>();
            own.is_ok_and(|own| self.has(own, INDEX_DEPTH_MAX))
        })?;
        let blob = image.manifest.blobs.iter().find(|blob| blob.digest == digest)?;
        Some(blob.size.0)
    }

    /// Whether a manifest of the repository needs a blob.
    pub(super) fn needs(&self, blob: Digest) -> bool {
        self.state.images_with_blob(blob).any(|image| {
            let own = image.digest.parse::<Digest>();
            own.is_ok_and(|own| self.has(own, INDEX_DEPTH_MAX))
        })
    }

    /// What says something about a manifest.
    pub(super) fn referrers(&self, subject: Digest) -> Vec<Referrer> {
        let all = self.state.referrers_of(subject);
        let own = all.filter_map(|image| {
            let digest: Digest = image.digest.parse().ok()?;
            self.has(digest, INDEX_DEPTH_MAX).then(|| Referrer {
                digest,
                size: image.manifest.size.0,
                media_type: image.manifest.media_type.clone(),
                artifact_type: image.manifest.artifact_type.clone(),
                annotations: image.manifest.annotations.clone(),
            })
        });
        own.collect()
    }
}

/// Every repository, as people write it, in order.
pub(super) fn repositories(state: &State) -> Vec<String> {
    let tagged = state
        .tags()
        .filter_map(|tag| Some(tag.reference.parse::<ImageReference>().ok()?.familiar_repository()));
    let linked = state.registry_manifests().filter_map(|manifest| {
        let reference: ImageReference = manifest.repository.parse().ok()?;
        Some(reference.familiar_repository())
    });
    // What has a port in its name cannot be written in a path.
    let written = tagged.chain(linked).filter(|name| !name.contains(':'));
    written.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Ready nodes that have some content: a manifest, or a blob of any.
pub(crate) fn holders(state: &State, digest: Digest) -> Vec<&Node> {
    let manifest = state.image(&digest.to_string());
    let images = state.images_with_blob(digest).chain(manifest);
    let mut ids: BTreeSet<NodeId> = images.flat_map(|image| image.nodes.iter().copied()).collect();
    ids.extend(state.uploaded_blob(digest).into_iter().flat_map(|blob| &blob.nodes));
    let nodes = ids.into_iter().filter_map(|id| state.node(id));
    nodes.filter(|node| node.status == NodeStatus::Ready).collect()
}

/// Whether the cluster has some content, and means to go on having it.
pub(crate) fn is_known(state: &State, digest: &str) -> bool {
    let Ok(parsed) = digest.parse::<Digest>() else {
        return false;
    };
    let stays = |image: &ImageRecord| image.leaving.is_none();
    state.image(digest).is_some_and(stays)
        || state.images_with_blob(parsed).any(stays)
        || state.uploaded_blob(parsed).is_some()
}

/// Nodes in an order that differs by `key` and stays when others come and go (highest random weight): the same key leads to the
/// same nodes, and keys spread over all.
pub(crate) fn by_load<'a>(nodes: impl Iterator<Item = &'a Node>, key: &str) -> Vec<&'a Node> {
    let mut weighed: Vec<(u64, &Node)> = nodes.map(|node| (weight(key, node.id), node)).collect();
    weighed.sort_by_key(|(weight, node)| (std::cmp::Reverse(*weight), node.id));
    weighed.into_iter().map(|(_, node)| node).collect()
}

/// FNV-1a over both, and a last mixing so that neighbouring ids do not stay neighbours.
fn weight(key: &str, node: NodeId) -> u64 {
    let bytes = key.bytes().chain(node.0.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 33
}
