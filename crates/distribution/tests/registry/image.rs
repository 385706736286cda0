//! Images made of a few files, as registries hold them.

use std::io::Write;

use gantry_model::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const MANIFEST_OCI: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX_OCI: &str = "application/vnd.oci.image.index.v1+json";

/// An image and the content it names.
#[derive(Debug, Clone)]
pub struct Image {
    pub media_type: String,
    pub manifest: Vec<u8>,
    /// The configuration first, then the layers.
    pub blobs: Vec<(Digest, Vec<u8>)>,
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

impl Image {
    /// Of layers with one file each, of these sizes; `seed` makes their content differ.
    pub fn new(seed: u64, layer_sizes: &[usize]) -> Self {
        Self::on("amd64", seed, layer_sizes)
    }

    pub fn on(architecture: &str, seed: u64, layer_sizes: &[usize]) -> Self {
        let layers: Vec<_> = layer_sizes
            .iter()
            .enumerate()
            .map(|(at, size)| tar_of(&format!("file-{at}"), &noise(seed + at as u64, *size)))
            .collect();
        let diff_ids: Vec<_> = layers.iter().map(|tar| digest_of(tar).to_string()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/file-0"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [],
        });
        let config = serde_json::to_vec(&config).expect("JSON");
        let mut blobs = vec![(digest_of(&config), config)];
        blobs.extend(layers.iter().map(|tar| {
            let gzip = gzip(tar);
            (digest_of(&gzip), gzip)
        }));
        let describe = |(digest, bytes): &(Digest, Vec<u8>), media_type: &str| -> Value {
            json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
        };
        let layers: Vec<_> = blobs[1..]
            .iter()
            .map(|blob| describe(blob, "application/vnd.oci.image.layer.v1.tar+gzip"))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_OCI,
            "config": describe(&blobs[0], "application/vnd.oci.image.config.v1+json"), "layers": layers,
        });
        Self {
            media_type: MANIFEST_OCI.to_string(),
            manifest: serde_json::to_vec(&manifest).expect("JSON"),
            blobs,
        }
    }

    pub fn digest(&self) -> Digest {
        digest_of(&self.manifest)
    }

    /// Digest of a layer, the lowest is 0.
    pub fn layer(&self, at: usize) -> Digest {
        self.blobs[at + 1].0
    }

    pub fn layer_bytes(&self, at: usize) -> &[u8] {
        &self.blobs[at + 1].1
    }
}

/// An index of images by architecture.
pub fn index_of(images: &[(&str, &Image)]) -> Vec<u8> {
    let entry = |(architecture, image): &(&str, &Image)| {
        json!({
            "mediaType": MANIFEST_OCI, "digest": image.digest().to_string(), "size": image.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let entries: Vec<_> = images.iter().map(entry).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_OCI, "manifests": entries});
    serde_json::to_vec(&index).expect("JSON")
}

fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, name, content).expect("memory takes it");
    tar.into_inner().expect("memory takes it")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("memory takes it");
    gzip.finish().expect("memory takes it")
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
