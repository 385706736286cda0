//! `Store::usage`: what takes how much of the disk.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{ByteSize, Digest, ImageReference, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::gc::mark;
use crate::lease::Node;
use crate::store::Store;

/// What an image takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUsage {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its names.
    pub references: Vec<ImageReference>,
    /// Its blobs and unpacked layers.
    pub size: ByteSize,
    /// What of that other images have too.
    pub shared: ByteSize,
    /// What goes with it.
    pub unique: ByteSize,
    /// A replica uses it.
    pub in_use: bool,
    /// When it was last used.
    pub last_used: Timestamp,
}

/// What the store takes. Unpacked layers count by their files' bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreUsage {
    /// By image, the largest first.
    pub images: Vec<ImageUsage>,
    /// All blobs and unpacked layers of images, each once.
    pub images_size: ByteSize,
    /// What of that belongs to images that nothing uses.
    pub images_reclaimable: ByteSize,
    /// Unpacked layers, of images and of the build cache.
    pub layers: u64,
    /// Bytes of all of them.
    pub layers_size: ByteSize,
    /// What only the build cache, the registry and operations in progress need, by root set; `leases` is the operations.
    pub others: BTreeMap<String, ByteSize>,
    /// What nothing needs, and interrupted transfers.
    pub garbage: ByteSize,
}

impl Store {
    /// What takes how much of the disk; `in_use` are the images of this node's replicas.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn usage(&self, in_use: &BTreeSet<Digest>) -> Result<StoreUsage> {
        let everything = self.everything()?;
        let sizes: BTreeMap<Node, u64> = everything
            .into_iter()
            .map(|node| (node, self.node_size(node)))
            .collect();
        let of = |nodes: &BTreeSet<Node>| -> u64 { nodes.iter().filter_map(|node| sizes.get(node)).sum() };
        let reach = |roots: &mut dyn Iterator<Item = Node>| {
            let state = self.state();
            mark(roots, [], Timestamp(0), |node| self.edges(&state.catalog, node))
        };
        let infos = self.list();
        let reached: Vec<BTreeSet<Node>> = infos
            .iter()
            .map(|info| reach(&mut std::iter::once(Node::Manifest(info.digest))))
            .collect();
        let mut holders: BTreeMap<Node, u32> = BTreeMap::new();
        for node in reached.iter().flatten() {
            *holders.entry(*node).or_default() += 1;
        }
        let mut usage = StoreUsage::default();
        for (info, nodes) in infos.iter().zip(&reached) {
            let unique = nodes
                .iter()
                .filter(|node| holders.get(node) == Some(&1))
                .copied()
                .collect();
            let (size, unique) = (of(nodes), of(&unique));
            usage.images.push(ImageUsage {
                digest: info.digest,
                references: info.references.clone(),
                size: ByteSize(size),
                shared: ByteSize(size - unique),
                unique: ByteSize(unique),
                in_use: in_use.contains(&info.digest),
                last_used: self.last_used(info.digest),
            });
        }
        usage.images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let catalog: Vec<Node> = self.state().catalog.nodes().collect();
        let of_images = reach(&mut catalog.into_iter());
        let of_used = reach(&mut in_use.iter().copied().map(Node::Manifest));
        usage.images_size = ByteSize(of(&of_images));
        usage.images_reclaimable = ByteSize(of(&of_images.difference(&of_used).copied().collect()));
        let layers = sizes.iter().filter(|(node, _)| matches!(node, Node::Layer(_)));
        usage.layers = layers.clone().count() as u64;
        usage.layers_size = ByteSize(layers.map(|(_, size)| size).sum());
        let mut known = of_images;
        for (owner, roots) in self.root_sets() {
            let nodes = reach(&mut roots.into_iter());
            usage
                .others
                .insert(owner, ByteSize(of(&nodes.difference(&known).copied().collect())));
            known.extend(nodes);
        }
        let garbage: u64 = sizes
            .iter()
            .filter(|(node, _)| !known.contains(node))
            .map(|(_, size)| size)
            .sum();
        usage.garbage = ByteSize(garbage + self.blobs.partials_size()?);
        Ok(usage)
    }

    /// Root sets by owner, and everything leased.
    fn root_sets(&self) -> BTreeMap<String, BTreeSet<Node>> {
        let held = self.leases.lock();
        let mut sets = held.roots.clone();
        let leased: BTreeSet<Node> = held
            .leases
            .values()
            .flat_map(|lease| lease.nodes.iter().copied())
            .collect();
        sets.insert("leases".to_string(), leased);
        sets
    }

    fn node_size(&self, node: Node) -> u64 {
        match node {
            Node::Blob(digest) => self.blobs.size(digest).unwrap_or(0),
            Node::Layer(chain) => self.blobs.layer_record(chain).map_or(0, |record| record.extent.bytes),
            Node::Manifest(_) => 0,
        }
    }
}
