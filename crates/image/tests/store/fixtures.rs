//! Tars and stores for tests.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_image::{ImageInfo, ImportOptions, Result, Store};
use gantry_model::{Digest, ImageReference};
use tar::{EntryType, Header};
use tempfile::TempDir;

/// Builds tars, dishonest ones included.
#[derive(Default)]
pub struct TarMaker {
    bytes: Vec<u8>,
}

impl TarMaker {
    pub fn raw(mut self, header: &mut Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        let end = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(end, 0);
        self
    }

    pub fn member(self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = header(kind, path, link);
        header.set_size(data.len() as u64);
        self.raw(&mut header, data)
    }

    pub fn file(self, path: &str, data: &str) -> Self {
        self.member(EntryType::Regular, path, "", data.as_bytes())
    }

    pub fn dir(self, path: &str) -> Self {
        let mut header = header(EntryType::Directory, path, "");
        header.set_mode(0o755);
        self.raw(&mut header, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.member(EntryType::Symlink, path, target, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.member(EntryType::Link, path, target, b"")
    }

    /// A pax header for the next member.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length = (1..)
                .map(|digits| body + digits)
                .find(|length| body + length.to_string().len() == *length);
            write!(data, "{} {key}=", length.expect("some length describes itself")).expect("memory");
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.member(EntryType::XHeader, "pax", "", &data)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    /// Without the end mark.
    pub fn cut(self) -> Vec<u8> {
        self.bytes
    }
}

/// A header whose name and link are taken as they are.
pub fn header(kind: EntryType, path: &str, link: &str) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header
}

/// A store beside something that must stay as it is.
pub struct World {
    pub folder: TempDir,
    pub store: Store,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("victim")).expect("a folder");
        fs::write(folder.path().join("victim/file"), "untouched").expect("a file");
        let store = Store::open(folder.path().join("store")).expect("an empty store opens");
        Self { folder, store }
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The absolute path of the folder that attacks aim at.
    pub fn victim(&self) -> PathBuf {
        self.folder.path().join("victim")
    }

    pub fn import(&self, tar: &[u8], name: &str) -> Result<ImageInfo> {
        self.store
            .import_rootfs(tar, &reference(name), &ImportOptions::default())
    }

    /// Imports a root filesystem and returns the folder of its only layer.
    pub fn unpack(&self, tar: &[u8]) -> Result<PathBuf> {
        let image = self.import(tar, "test")?;
        let mut layers = self.store.unpack(image.digest)?;
        Ok(layers.pop().expect("one layer"))
    }

    /// Fails unless everything beside the store is as it was.
    pub fn assert_untouched(&self) {
        assert_eq!(names(self.folder.path()), ["store", "victim"]);
        assert_eq!(names(&self.victim()), ["file"]);
        let file = self.victim().join("file");
        assert_eq!(fs::read_to_string(&file).expect("the victim's file"), "untouched");
        assert_eq!(
            fs::metadata(&file).expect("the victim's file").nlink(),
            1,
            "a hard link leads to the victim"
        );
    }

    /// Fails unless no operation has left anything half done.
    pub fn assert_nothing_half_done(&self) {
        assert_eq!(names(&self.dir().join("tmp")), [""; 0]);
    }
}

pub fn reference(text: &str) -> ImageReference {
    text.parse().expect("a valid reference")
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into())
        .collect();
    names.sort();
    names
}

pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

/// A Docker archive of one image with these layers.
pub fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| sha256(&plain(layer)).to_string()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/run"], "Env": ["A=1"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let paths: Vec<_> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": paths}]);
    let mut tar = TarMaker::default();
    for (path, layer) in paths.iter().zip(layers) {
        tar = tar.member(EntryType::Regular, path, "", layer);
    }
    tar.file("config.json", &config.to_string())
        .file("manifest.json", &manifest.to_string())
        .end()
}

fn plain(layer: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match layer {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::decode_all(layer).expect("an honest layer"),
        [0x1f, 0x8b, ..] => {
            let mut decoder = flate2::read::GzDecoder::new(layer);
            std::io::Read::read_to_end(&mut decoder, &mut plain).expect("an honest layer");
            plain
        }
        layer => layer.to_vec(),
    }
}

pub fn sha256(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory")
}

/// Path to content of everything below a folder, for comparison.
pub fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for name in names(&folder) {
            let path = folder.join(&name);
            let key = path.strip_prefix(dir).expect("below").display().to_string();
            let metadata = fs::symlink_metadata(&path).expect("an entry");
            if metadata.is_dir() {
                pending.push(path);
                tree.insert(key, "folder".to_string());
            } else if metadata.is_file() {
                tree.insert(key, fs::read_to_string(&path).unwrap_or_default());
            } else {
                tree.insert(key, format!("{:o}", metadata.mode()));
            }
        }
    }
    tree
}
