//! What goes: by name ([`Store::remove`]), on request ([`Store::prune`]), and by itself when the disk fills
//! ([`Store::collect`]).
//!
//! All three change the catalog first and then sweep: [`mark`] says what is live, the rest of the candidates goes.
//! **Invariant:** marking and removing happen under the locks of the catalog and of the leases, so that nobody begins to rely on
//! a thing in between.
//! Roots are everything in the catalog (names, pins, children of indexes), what the caller says is in use, leases and root sets.

mod collect;
mod mark;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use gantry_model::{ByteSize, Digest, DurationMs, ImageReference};
use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::error::{ImageError, Result};
use crate::lease::Node;
use crate::store::{ImageInfo, Selector, State, Store, select};

pub use collect::{DiskUse, GcPolicy};
pub use mark::mark;

/// What [`Store::remove`], [`Store::prune`] or [`Store::collect`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Names taken away.
    pub untagged: Vec<ImageReference>,
    /// Images and indexes that are gone.
    pub deleted: Vec<Digest>,
    /// Bytes of blobs that are gone; unpacked layers come on top.
    pub freed: ByteSize,
}

/// What [`Store::prune_images`] takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Also images with a name.
    pub all: bool,
    /// Only those not used for so long.
    pub unused_for: DurationMs,
    /// Say what would go, and leave it.
    pub dry_run: bool,
}

impl Store {
    /// Takes a name away from an image, or all of them when it is selected by digest; an image without a name goes, with its
    /// blobs and layers that nothing else needs. `in_use` are the images of this node's replicas: they stay.
    ///
    /// # Errors
    /// When there is no such image, or one selected by digest is in use.
    pub fn remove(&self, selector: &Selector, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut candidates = BTreeSet::new();
        self.update_state(|state| {
            let target = select(&state.catalog, selector)?;
            let mut catalog = state.catalog.clone();
            let family = family(&catalog, target);
            let by_digest = match selector {
                Selector::Digest(_) => true,
                Selector::Reference(reference) => reference.digest().is_some(),
            };
            if by_digest && let Some(digest) = family.iter().find(|digest| is_used(state, in_use, **digest)) {
                return Err(ImageError::InUse { digest: *digest });
            }
            removed.untagged = match selector {
                Selector::Reference(reference) if !by_digest => vec![reference.clone()],
                Selector::Reference(_) | Selector::Digest(_) => {
                    let tags = catalog.tags.iter().filter(|(_, digest)| **digest == target);
                    let own = tags.map(|(reference, _)| reference.clone());
                    own.chain(catalog.references(target))
                        .collect::<BTreeSet<_>>()
                        .into_iter()
                        .collect()
                }
            };
            for reference in &removed.untagged {
                catalog.tags.remove(reference);
            }
            if by_digest {
                catalog.pinned.remove(&target);
            }
            candidates = drop_unheld(
                &mut catalog,
                &family,
                |digest| is_used(state, in_use, digest),
                &mut removed.deleted,
            );
            Ok(catalog)
        })?;
        removed.freed = self.drop_unused(&candidates)?;
        Ok(removed)
    }

    /// Removes images without a name that are not in use, blobs and layers that nothing needs, and interrupted transfers.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn prune(&self, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let mut removed = self.prune_images(PruneOptions::default(), in_use, |_| true)?;
        removed.freed += ByteSize(self.blobs.remove_partials()?);
        Ok(removed)
    }

    /// Removes the images that the options and `wanted` name and that are not in use, and blobs and layers that nothing needs.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn prune_images(
        &self,
        options: PruneOptions,
        in_use: &BTreeSet<Digest>,
        wanted: impl Fn(&ImageInfo) -> bool,
    ) -> Result<Removed> {
        let unused_since = self.env.now().0.saturating_sub(options.unused_for.0);
        let doomed: Vec<ImageInfo> = self.list();
        let doomed = doomed.into_iter().filter(|info| {
            let is_old = options.unused_for == DurationMs(0) || self.last_used(info.digest).0 <= unused_since;
            (options.all || info.references.is_empty()) && is_old && wanted(info)
        });
        let doomed: BTreeSet<Digest> = doomed.map(|info| info.digest).collect();
        let mut removed = Removed::default();
        self.update_state(|state| {
            let mut catalog = state.catalog.clone();
            let rooted = self.rooted(&catalog);
            let used = |digest: Digest| is_used(state, in_use, digest) || rooted.contains(&digest);
            for digest in doomed.iter().filter(|digest| !used(**digest)) {
                let names = if options.all {
                    catalog.references(*digest)
                } else {
                    Vec::new()
                };
                for name in names {
                    catalog.tags.remove(&name);
                    removed.untagged.push(name);
                }
            }
            let images = catalog.images.iter();
            let nameless = images.filter(|(digest, entry)| doomed.contains(digest) || entry.artifact.is_some());
            let nameless = nameless.map(|(digest, _)| *digest).collect::<Vec<_>>();
            let family = nameless.into_iter().flat_map(|digest| family(&catalog, digest));
            let indexes = catalog
                .indexes
                .keys()
                .copied()
                .filter(|digest| catalog.images_below(*digest).is_empty());
            let family: BTreeSet<_> = family.chain(indexes).collect();
            drop_unheld(&mut catalog, &family, used, &mut removed.deleted);
            if options.dry_run {
                removed.freed = self.only_of(&removed.deleted, &state.catalog, &catalog);
                return Ok(state.catalog.clone());
            }
            Ok(catalog)
        })?;
        if !options.dry_run {
            removed.freed = self.drop_unused(&self.everything()?)?;
        }
        Ok(removed)
    }

    /// Removes blobs and layers that nothing needs, and no image.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn prune_layers(&self) -> Result<ByteSize> {
        self.drop_unused(&self.everything()?)
    }

    /// Keeps an image or index until [`Store::unpin`], whatever names it has.
    ///
    /// # Errors
    /// When it is not here, or when the disk refuses.
    pub fn pin(&self, digest: Digest) -> Result<()> {
        self.update(|catalog| {
            let target = select(catalog, &Selector::Digest(digest))?;
            catalog.pinned.insert(target);
            Ok(())
        })
    }

    /// Takes back [`Store::pin`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn unpin(&self, digest: Digest) -> Result<()> {
        self.update(|catalog| {
            catalog.pinned.remove(&digest);
            Ok(())
        })
    }

    /// Bytes of the blobs that the images need now, and that nothing of the catalog after them does.
    fn only_of(&self, images: &[Digest], now: &Catalog, then: &Catalog) -> ByteSize {
        let needed: BTreeSet<Node> = images.iter().flat_map(|image| now.needs(*image)).collect();
        let kept = then.images.keys().chain(then.indexes.keys());
        let kept: BTreeSet<Node> = kept.flat_map(|image| then.needs(*image)).collect();
        let size = |node: &Node| match node {
            Node::Blob(digest) => self.blobs.size(*digest).unwrap_or(0),
            Node::Layer(_) | Node::Manifest(_) => 0,
        };
        ByteSize(needed.difference(&kept).map(size).sum())
    }

    /// Every blob and layer on disk.
    pub(crate) fn everything(&self) -> Result<BTreeSet<Node>> {
        let blobs = self.blobs.list_blobs()?.into_iter().map(Node::Blob);
        let layers = self.blobs.list_layers()?.into_iter().map(Node::Layer);
        Ok(blobs.chain(layers).collect())
    }

    /// Manifests that leases and root sets name, with those below them.
    pub(super) fn rooted(&self, catalog: &Catalog) -> BTreeSet<Digest> {
        let held = self.leases.lock();
        let leased = held.leases.values().flat_map(|lease| &lease.nodes);
        let mut rooted = BTreeSet::new();
        for node in held.roots.values().flatten().chain(leased) {
            if let Node::Manifest(digest) = node {
                rooted.insert(*digest);
                rooted.extend(catalog.images_below(*digest));
            }
        }
        rooted
    }

    /// Removes those of the blobs and layers that nothing needs; returns the bytes of the blobs.
    pub(crate) fn drop_unused(&self, candidates: &BTreeSet<Node>) -> Result<ByteSize> {
        if candidates.is_empty() {
            return Ok(ByteSize(0));
        }
        self.leases.expire();
        let mut freed = 0;
        let mut doomed = Vec::new();
        {
            let state = self.state();
            let held = self.leases.lock();
            let roots = held.roots.values().flatten().copied();
            let roots = roots.chain(state.catalog.nodes()).chain(state.pinned_nodes());
            let live = mark(roots, held.leases.values(), self.env.now(), |node| {
                self.edges(&state.catalog, node)
            });
            for node in candidates.difference(&live) {
                match node {
                    Node::Blob(digest) => freed += self.blobs.remove(*digest)?,
                    Node::Layer(chain) => doomed.extend(self.set_layer_aside(*chain)?),
                    Node::Manifest(_) => {}
                }
            }
        }
        // Large layers take a while; nobody needs to wait for that.
        for tmp in doomed {
            fs::remove_dir_all(&tmp).map_err(ImageError::io("remove", &tmp))?;
        }
        Ok(ByteSize(freed))
    }

    /// Moves a layer out of the way, from where it can be removed at leisure.
    pub(crate) fn set_layer_aside(&self, chain: Digest) -> Result<Option<PathBuf>> {
        let layer = self.blobs.layer_path(chain);
        let tmp = self.blobs.tmp_path();
        let moved = match fs::rename(&layer, &tmp) {
            Ok(()) => Some(tmp),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(ImageError::io("remove", &layer)(error)),
        };
        for path in [self.blobs.record_path(chain), self.blobs.unsynced_path(chain)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ImageError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(moved)
    }

    /// What a thing of the store needs.
    pub(crate) fn edges(&self, catalog: &Catalog, node: Node) -> Vec<Node> {
        match node {
            Node::Manifest(digest) => catalog.needs(digest),
            Node::Blob(_) => Vec::new(),
            Node::Layer(chain) => {
                let Some(record) = self.blobs.layer_record(chain) else {
                    return Vec::new();
                };
                let blob = record.blob.map(|blob| Node::Blob(blob.digest));
                record.parent.map(Node::Layer).into_iter().chain(blob).collect()
            }
        }
    }
}

/// Whether a replica or an operation uses the image.
fn is_used(state: &State, in_use: &BTreeSet<Digest>, digest: Digest) -> bool {
    in_use.contains(&digest) || state.is_pinned(digest)
}

/// The target, everything below it and every index above it: what may go with it.
fn family(catalog: &Catalog, target: Digest) -> BTreeSet<Digest> {
    let mut family = BTreeSet::from([target]);
    let mut pending = vec![target];
    while let Some(digest) = pending.pop() {
        let below = catalog
            .indexes
            .get(&digest)
            .into_iter()
            .flat_map(|index| index.manifests.iter().copied());
        let related: Vec<_> = below
            .chain(catalog.indexes_with(digest))
            .chain(catalog.referrers(digest))
            .collect();
        for digest in related {
            if catalog.contains(digest) && family.insert(digest) {
                pending.push(digest);
            }
        }
    }
    family
}

/// Removes those of the family that nothing holds any more and returns the blobs and layers they had.
fn drop_unheld(
    catalog: &mut Catalog,
    family: &BTreeSet<Digest>,
    is_used: impl Fn(Digest) -> bool,
    deleted: &mut Vec<Digest>,
) -> BTreeSet<Node> {
    let mut freed = BTreeSet::new();
    loop {
        let used_below = |digest: Digest| catalog.images_below(digest).into_iter().any(&is_used);
        let subject_stays = |digest: Digest| {
            let image = catalog.images.get(&digest).and_then(|entry| entry.subject);
            let index = catalog.indexes.get(&digest).and_then(|index| index.subject);
            image.or(index).is_some_and(|subject| catalog.contains(subject))
        };
        let goes = |digest: &&Digest| {
            catalog.contains(**digest)
                && !catalog.is_held(**digest)
                && !is_used(**digest)
                && !used_below(**digest)
                && !subject_stays(**digest)
        };
        let Some(digest) = family.iter().find(goes).copied() else {
            deleted.sort_unstable();
            return freed;
        };
        freed.extend(catalog.needs(digest));
        catalog.images.remove(&digest);
        catalog.indexes.remove(&digest);
        deleted.push(digest);
    }
}
