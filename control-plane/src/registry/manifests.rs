//! Manifests: read from whoever has them, stored where their blobs are, and taken away.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use gantry_api::v1::{ImageInfo, PutManifestRequest, RemoveImageRequest};
use gantry_model::object::{ImageRecord, Node, NodeStatus, RepositoryManifest, TagRecord};
use gantry_model::{Class, Digest};
use gantry_registry::{Code, Manifest, ManifestTarget, Refusal, Repository, StoredManifest};
use gantry_state::{Key, Object, Op, RegistryKey, RegistryObject, State, Transaction};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::contents::{Contents, holders};
use super::nodes::{agent, holder, none_ready, problem, takers};
use super::uploads::{decided, put, unchanged, without};
use super::{Registry, transfer, unknown_manifest};
use crate::api::record::{holds, record_of};

/// Bytes of manifests that a server keeps at hand; they never change.
const CACHE_BYTES_MAX: usize = 32 << 20;

/// Manifests that were read, by digest.
#[derive(Default)]
pub(super) struct ManifestCache(Mutex<BTreeMap<Digest, Bytes>>);

impl ManifestCache {
    fn get(&self, digest: Digest) -> Option<Bytes> {
        self.lock().get(&digest).cloned()
    }

    fn insert(&self, digest: Digest, bytes: Bytes) {
        let mut cached = self.lock();
        let size: usize = cached.values().map(Bytes::len).sum();
        if size + bytes.len() > CACHE_BYTES_MAX {
            cached.clear();
        }
        cached.insert(digest, bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Bytes>> {
        // Single insertions leave it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digests that a manifest names.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    subject: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
}

impl Named {
    fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(bytes).map_err(|error| {
            let message = format!("this is no manifest that can be stored: {error}");
            Refusal::new(Code::ManifestInvalid, message)
        })
    }

    fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.config
            .iter()
            .chain(&self.layers)
            .map(|descriptor| descriptor.digest)
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

impl Registry {
    pub(super) async fn read_manifest(
        &self,
        state: &State,
        repository: &Repository,
        target: &ManifestTarget,
    ) -> Result<Manifest, Refusal> {
        let contents = Contents::of(state, repository);
        let record = match target {
            ManifestTarget::Tag(tag) => contents.tag(tag),
            ManifestTarget::Digest(digest) => contents.manifest(*digest),
        };
        let record = record.ok_or_else(|| unknown_manifest(repository, target))?;
        let digest: Digest = record
            .digest
            .parse()
            .map_err(|error| Refusal::new(Code::Internal, format!("{error}")))?;
        let bytes = self.manifest_bytes(record, digest).await?;
        Ok(Manifest {
            digest,
            media_type: media_type(record, &bytes),
            bytes,
        })
    }

    async fn manifest_bytes(&self, record: &ImageRecord, digest: Digest) -> Result<Bytes, Refusal> {
        if let Some(bytes) = self.cache.get(digest) {
            return Ok(bytes);
        }
        // A node of an earlier version did not say how long it is; the largest manifest is short.
        let end = match record.manifest.size.0 {
            0 => gantry_registry::MANIFEST_BYTES_MAX as u64,
            size => size,
        };
        let stream = transfer::read(&self.context, digest, 0, end).await?;
        let whole = stream.try_fold(Vec::new(), |mut whole, bytes| async move {
            whole.extend_from_slice(&bytes);
            Ok(whole)
        });
        let unavailable = |error: std::io::Error| Refusal::new(Code::Unavailable, error.to_string());
        let bytes = Bytes::from(whole.await.map_err(unavailable)?);
        if digest_of(&bytes) != digest {
            return Err(Refusal::new(
                Code::Unavailable,
                format!("manifest {digest} came damaged"),
            ));
        }
        self.cache.insert(digest, bytes.clone());
        Ok(bytes)
    }

    pub(super) async fn store_manifest(
        &self,
        repository: &Repository,
        target: &ManifestTarget,
        bytes: Bytes,
    ) -> Result<StoredManifest, Refusal> {
        let digest = digest_of(&bytes);
        if let ManifestTarget::Digest(wanted) = target
            && *wanted != digest
        {
            let message = format!("the manifest has the digest {digest}, not {wanted}");
            return Err(Refusal::new(Code::DigestInvalid, message));
        }
        let named = Named::parse(&bytes)?;
        let state = self.newest().await;
        self.check_complete(&state, repository, &named)?;
        let (node, info) = self.send_manifest(&state, repository, &named, &bytes).await?;
        drop(state);
        self.enter(repository, target, &named, (&node, &info)).await?;
        self.cache.insert(digest, bytes);
        Ok(StoredManifest {
            digest,
            subject: named.subject.map(|subject| subject.digest),
        })
    }

    /// All that a manifest needs was pushed to its repository before.
    fn check_complete(&self, state: &State, repository: &Repository, named: &Named) -> Result<(), Refusal> {
        let contents = Contents::of(state, repository);
        let now = self.context.env.now();
        let lacks = |what: &str, digest: Digest| {
            let message = format!(
                "{} has no {what} {digest}, which the manifest needs",
                repository.familiar
            );
            Err(Refusal::new(Code::ManifestBlobUnknown, message))
        };
        if let Some(blob) = named.blobs().find(|blob| contents.blob(*blob, now).is_none()) {
            return lacks("blob", blob);
        }
        let mut children = named.manifests.iter().map(|child| child.digest);
        match children.find(|child| contents.manifest(*child).is_none()) {
            Some(child) => lacks("manifest", child),
            None => Ok(()),
        }
    }

    /// To the node that has most of it already.
    async fn send_manifest(
        &self,
        state: &State,
        repository: &Repository,
        named: &Named,
        bytes: &Bytes,
    ) -> Result<(Node, ImageInfo), Refusal> {
        let mut having: BTreeMap<gantry_model::NodeId, (usize, &Node)> = BTreeMap::new();
        let parts = named.blobs().chain(named.manifests.iter().map(|child| child.digest));
        for part in parts {
            for node in holders(state, part) {
                having.entry(node.id).or_insert((0, node)).0 += 1;
            }
        }
        let mut nodes = takers(state, &repository.name);
        nodes.sort_by_key(|node| std::cmp::Reverse(having.get(&node.id).map_or(0, |(count, _)| *count)));
        let request = PutManifestRequest {
            manifest: bytes.clone(),
            holders: having.values().map(|(_, node)| holder(node)).collect(),
        };
        let mut last = none_ready();
        for node in nodes {
            match agent(&self.context, node).put_manifest(request.clone()).await {
                Ok(info) => return Ok((node.clone(), info.into_inner())),
                Err(status) => {
                    let problem = problem(&status, node);
                    if problem.class == Class::Invalid {
                        return Err(Refusal::new(Code::ManifestInvalid, problem.reason));
                    }
                    last = problem.into();
                }
            }
        }
        Err(last)
    }

    /// Makes it part of the repository, in one transaction with what it makes superfluous: records of uploads, and those of
    /// manifests that an index lists now.
    async fn enter(
        &self,
        repository: &Repository,
        target: &ManifestTarget,
        named: &Named,
        (node, info): (&Node, &ImageInfo),
    ) -> Result<(), Refusal> {
        let now = self.context.env.now();
        let committed = self.context.commit(|state| {
            let mut transaction = Transaction::new(now, Vec::new());
            holds(state, record_of(info, Some(node.id)), node.id, &mut transaction);
            transaction.ops.push(match target {
                ManifestTarget::Tag(tag) => Op::Put(Box::new(Object::Tag(TagRecord {
                    reference: format!("{}:{tag}", repository.name),
                    digest: info.digest.clone(),
                    updated_at: now,
                }))),
                ManifestTarget::Digest(digest) => put(RegistryObject::Manifest(RepositoryManifest {
                    repository: repository.name.clone(),
                    digest: *digest,
                    pushed_at: now,
                })),
            });
            for blob in named.blobs().filter_map(|blob| state.uploaded_blob(blob)) {
                if blob.repositories.contains_key(&repository.name) {
                    transaction.ops.push(without(blob, &repository.name));
                    let key = RegistryKey::Blob(blob.digest);
                    transaction.require.push(unchanged(state, key));
                }
            }
            let listed = named.manifests.iter().map(|child| child.digest);
            let listed = listed.filter(|child| state.registry_manifest(&repository.name, *child).is_some());
            let keys = listed.map(|child| RegistryKey::Manifest(repository.name.clone(), child));
            transaction.ops.extend(keys.map(|key| Op::Delete(Key::Registry(key))));
            Ok(decided(transaction))
        });
        committed.await.map(drop).map_err(Refusal::from)
    }

    pub(super) async fn forget_manifest(
        &self,
        repository: &Repository,
        target: &ManifestTarget,
    ) -> Result<(), Refusal> {
        let state = self.newest().await;
        let tags = doomed_tags(&state, repository, target);
        let link = match target {
            ManifestTarget::Tag(_) => None,
            ManifestTarget::Digest(digest) => state.registry_manifest(&repository.name, *digest),
        };
        if tags.is_empty() && link.is_none() {
            let is_part = match target {
                ManifestTarget::Tag(_) => false,
                ManifestTarget::Digest(digest) => Contents::of(&state, repository).manifest(*digest).is_some(),
            };
            if is_part {
                let message = "it is part of an index of the repository: delete that";
                return Err(Refusal::new(Code::Denied, message));
            }
            return Err(unknown_manifest(repository, target));
        }
        let now = self.context.env.now();
        let committed = self.context.commit(|state| {
            let mut transaction = Transaction::new(now, Vec::new());
            for tag in doomed_tags(state, repository, target) {
                let key = Key::Tag(tag.reference);
                transaction.require.push(crate::api::unchanged(state, key.clone()));
                transaction.ops.push(Op::Delete(key));
            }
            if let ManifestTarget::Digest(digest) = target {
                let key = RegistryKey::Manifest(repository.name.clone(), *digest);
                transaction.ops.push(Op::Delete(Key::Registry(key)));
            }
            Ok(decided(transaction))
        });
        committed.await?;
        // The names are gone by now: a node that cannot be reached hears of it with its next session.
        self.untag_on_nodes(&state, &tags).await;
        Ok(())
    }

    /// Nodes that call an image so too.
    async fn untag_on_nodes(&self, state: &State, tags: &[TagRecord]) {
        for tag in tags {
            let nodes = state.image(&tag.digest).into_iter().flat_map(|image| &image.nodes);
            let ready = nodes.filter_map(|id| state.node(*id));
            for node in ready.filter(|node| node.status == NodeStatus::Ready) {
                let request = RemoveImageRequest {
                    image: tag.reference.clone(),
                    force: false,
                };
                // Most nodes keep it without a name.
                let _ = agent(&self.context, node).remove_image(request).await;
            }
        }
    }
}

/// The tags that go with a target.
fn doomed_tags(state: &State, repository: &Repository, target: &ManifestTarget) -> Vec<TagRecord> {
    match target {
        ManifestTarget::Tag(tag) => {
            let tag = state.tag(&format!("{}:{tag}", repository.name));
            tag.cloned().into_iter().collect()
        }
        ManifestTarget::Digest(digest) => {
            let text = digest.to_string();
            let tags = state.tags_of(&repository.name).filter(|tag| tag.digest == text);
            tags.cloned().collect()
        }
    }
}

/// As it says itself, where the node that has it did not say.
fn media_type(record: &ImageRecord, bytes: &[u8]) -> String {
    if !record.manifest.media_type.is_empty() {
        return record.manifest.media_type.clone();
    }
    let value: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let own = value.as_ref().and_then(|value| value.get("mediaType")?.as_str());
    own.unwrap_or("application/vnd.oci.image.manifest.v1+json").to_string()
}
