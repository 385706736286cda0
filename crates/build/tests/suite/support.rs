//! A builder of the test's own, a person with a context on disk, and a base image with busybox.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use gantry_build::{
    BaseImages, Builder, BuilderConfig, Cancel, Client, Contents, HostNetwork, WantedCache, WantedImage,
};
use gantry_cgroup::{Group, Layout};
use gantry_env::System;
use gantry_image::{ConfigDocument, Store};
use gantry_model::build::{BuildEvent, BuildRequest, BuildResult, ContextEntry, ContextEntryKind};
use gantry_model::{Class, Digest, Problem};
use sha2::{Digest as _, Sha256};

const BUSYBOX: &str = "/bin/busybox";

/// Whether builds with `RUN` can be done here at all; says so loudly when not.
pub fn can_run() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: building needs root");
        return false;
    }
    if !Path::new(BUSYBOX).exists() {
        eprintln!("SKIPPED: {BUSYBOX} is missing: apt-get install busybox-static");
        return false;
    }
    true
}

/// Base images are those of the store.
struct Local(Arc<Store>);

impl BaseImages for Local {
    /// As a registry that has what the store had named: its layers come back although nothing of them is unpacked.
    fn cache(&self, wanted: &WantedCache<'_>) -> Result<Vec<Digest>, Problem> {
        let name = wanted.reference.familiar();
        let target = self.0.target(wanted.reference);
        let missing = || Problem::new(Class::NotFound, format!("image {name}"), "is nowhere");
        Ok(self.0.images_below(target.ok_or_else(missing)?))
    }

    fn ensure(&self, wanted: &WantedImage<'_>, _progress: &dyn Fn(&str, u64, u64)) -> Result<Digest, Problem> {
        let name = wanted.reference.familiar();
        let found = self.0.resolve(wanted.reference);
        found.ok_or_else(|| Problem::new(Class::NotFound, format!("image {name}"), "is nowhere"))
    }
}

/// A person: a context folder, secrets, and what they saw.
pub struct Person {
    contexts: BTreeMap<String, PathBuf>,
    contents: Arc<Contents>,
    pub secrets: BTreeMap<String, Vec<u8>>,
    pub ssh: Option<String>,
    pub seen: Mutex<Seen>,
    /// Runs at every event.
    pub on_event: Box<dyn Fn(&BuildEvent) + Send + Sync>,
}

#[derive(Default)]
pub struct Seen {
    pub events: Vec<BuildEvent>,
    pub sent: Vec<Digest>,
    pub output: Vec<u8>,
}

impl Seen {
    /// Titles of steps that were done, without those of the executor itself, and whether they came from the cache.
    pub fn steps(&self) -> Vec<(String, bool)> {
        let title = |wanted: u32| {
            self.events.iter().find_map(|event| match event {
                BuildEvent::Step { id, title, .. } if *id == wanted => Some(title.clone()),
                _ => None,
            })
        };
        let done = self.events.iter().filter_map(|event| match event {
            BuildEvent::Done { id, cached, .. } => Some((title(*id)?, *cached)),
            _ => None,
        });
        done.filter(|(title, _)| !title.contains("internal") && !title.contains("export") && !title.contains("FROM"))
            .collect()
    }

    /// The steps that were not cached, without their numbers.
    pub fn worked(&self) -> Vec<String> {
        let work = self.steps().into_iter().filter(|(_, cached)| !cached);
        work.map(|(title, _)| {
            title
                .split_once("] ")
                .map_or(title.clone(), |(_, rest)| rest.to_string())
        })
        .collect()
    }

    pub fn log(&self) -> String {
        let logs = self.events.iter().filter_map(|event| match event {
            BuildEvent::Log { data, .. } => Some(String::from_utf8_lossy(&data.0).into_owned()),
            _ => None,
        });
        logs.collect()
    }
}

impl Person {
    fn walk(&self, root: &Path, folder: &Path, entries: &mut Vec<ContextEntry>) {
        let mut names: Vec<_> = fs::read_dir(root.join(folder))
            .expect("context")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        names.sort();
        for name in names {
            let path = folder.join(name);
            let metadata = fs::symlink_metadata(root.join(&path)).expect("context");
            let kind = if metadata.is_dir() {
                ContextEntryKind::Folder
            } else if metadata.is_symlink() {
                let target = fs::read_link(root.join(&path)).expect("link");
                ContextEntryKind::Link {
                    target: target.to_string_lossy().into_owned(),
                }
            } else {
                ContextEntryKind::File {
                    digest: digest(&fs::read(root.join(&path)).expect("file")).to_string(),
                    size: metadata.len(),
                }
            };
            entries.push(ContextEntry {
                path: path.to_string_lossy().into_owned(),
                mode: metadata.mode() & 0o7777,
                uid: 0,
                gid: 0,
                mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
                kind,
            });
            if metadata.is_dir() {
                self.walk(root, &path, entries);
            }
        }
    }

    fn find(&self, folder: &Path, wanted: Digest) -> Option<Vec<u8>> {
        for entry in fs::read_dir(folder).ok()? {
            let path = entry.ok()?.path();
            let metadata = fs::symlink_metadata(&path).ok()?;
            let found = if metadata.is_dir() {
                self.find(&path, wanted)
            } else if metadata.is_file() {
                Some(fs::read(&path).ok()?).filter(|bytes| digest(bytes) == wanted)
            } else {
                None
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

impl Client for Person {
    fn event(&self, event: BuildEvent) {
        (self.on_event)(&event);
        self.seen.lock().expect("lock").events.push(event);
    }

    fn entries(&self, context: &str) -> Result<Vec<ContextEntry>, Problem> {
        let missing = || Problem::new(Class::NotFound, format!("context {context}"), "was not given");
        let root = self.contexts.get(context).ok_or_else(missing)?;
        let mut entries = Vec::new();
        self.walk(root, Path::new(""), &mut entries);
        Ok(entries)
    }

    fn fetch(&self, digests: &[Digest]) -> Result<(), Problem> {
        for wanted in digests {
            let bytes = self
                .contexts
                .values()
                .find_map(|root| self.find(root, *wanted))
                .expect("what was announced is there");
            let mut incoming = self.contents.receive(*wanted, &System).expect("receives");
            incoming.write(&bytes).expect("writes");
            incoming.finish().expect("is what it says");
            self.seen.lock().expect("lock").sent.push(*wanted);
        }
        Ok(())
    }

    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Problem> {
        Ok(self.secrets.get(id).cloned())
    }

    fn has_ssh(&self, id: &str) -> bool {
        self.ssh.as_deref() == Some(id)
    }

    /// An agent that says everything back in capitals.
    fn ssh(&self, _id: &str, mut connection: UnixStream) {
        std::thread::spawn(move || {
            let mut text = [0; 64];
            let length = connection.read(&mut text).expect("reads");
            connection
                .write_all(&text[..length].to_ascii_uppercase())
                .expect("writes");
        });
    }

    fn output(&self, bytes: Vec<u8>) -> Result<(), Problem> {
        self.seen.lock().expect("lock").output.extend(bytes);
        Ok(())
    }
}

/// A builder with a folder, a store and control groups of its own, and a context.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub store: Arc<Store>,
    pub builder: Builder,
    pub request: BuildRequest,
    pub secrets: BTreeMap<String, Vec<u8>>,
    pub ssh: Option<String>,
    layout: Layout,
    parent: String,
}

impl Lab {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::in_folder(
            tempfile::tempdir().expect("temporary folder"),
            format!("gantry-build-test-{}-{number}", std::process::id()),
        )
    }

    pub fn in_folder(folder: tempfile::TempDir, parent: String) -> Self {
        let store = Arc::new(Store::open(folder.path().join("store")).expect("store"));
        let layout = Layout::detect().expect("control groups");
        let shim = gantry_runtime::install_shim(&std::env::temp_dir().join("gantry-runtime-test-shim")).expect("shim");
        let builder = Builder::open(BuilderConfig {
            dir: folder.path().join("build"),
            run_dir: folder.path().join("run"),
            store: Arc::clone(&store),
            images: Arc::new(Local(Arc::clone(&store))),
            networks: Arc::new(HostNetwork),
            env: Arc::new(System),
            layout: layout.clone(),
            cgroup_parent: parent.clone(),
            shim,
            // Also where there is one processor: tests are about what works side by side.
            parallelism: Some(2),
        });
        let lab = Self {
            builder: builder.expect("builder"),
            store,
            request: BuildRequest::default(),
            secrets: BTreeMap::new(),
            ssh: None,
            layout,
            parent,
            folder,
        };
        fs::create_dir_all(lab.context()).expect("context");
        lab
    }

    /// With the image `busybox`.
    pub fn with_busybox() -> Self {
        let lab = Self::new();
        let root = lab.folder.path().join("busybox");
        for folder in ["bin", "etc", "tmp", "root", "usr"] {
            fs::create_dir_all(root.join(folder)).expect("folder");
        }
        fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox");
        for name in [
            "sh", "cat", "ls", "echo", "touch", "mkdir", "rm", "stat", "sleep", "id", "env", "nc", "wc", "ln", "mv",
            "chmod", "dd", "true", "false", "find", "date",
        ] {
            symlink("busybox", root.join("bin").join(name)).expect("applet");
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n",
        )
        .expect("passwd");
        fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\nlogs:x:50:app\n").expect("group");
        let person = lab.person_with("", &root);
        let request = BuildRequest {
            dockerfile: "FROM scratch\nCOPY . /\nCMD [\"/bin/sh\"]\n".to_string(),
            tags: vec!["busybox".to_string()],
            ..BuildRequest::default()
        };
        let cancel = Cancel::new().expect("event");
        lab.builder
            .build(&request, Arc::new(person), &cancel)
            .expect("the base image builds");
        lab
    }

    pub fn context(&self) -> PathBuf {
        self.folder.path().join("context")
    }

    /// Writes a file of the context.
    pub fn write(&self, path: &str, content: &str) -> PathBuf {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(&path, content).expect("file");
        path
    }

    fn person_with(&self, context: &str, root: &Path) -> Person {
        Person {
            contexts: BTreeMap::from([(context.to_string(), root.to_path_buf())]),
            contents: Arc::clone(self.builder.contents()),
            secrets: self.secrets.clone(),
            ssh: self.ssh.clone(),
            seen: Mutex::default(),
            on_event: Box::new(|_| {}),
        }
    }

    pub fn person(&self) -> Person {
        self.person_with("", &self.context())
    }

    /// Builds the Dockerfile as `test`.
    pub fn try_build(&self, dockerfile: &str) -> (Result<BuildResult, Problem>, Seen) {
        self.build_as(dockerfile, self.person(), &Cancel::new().expect("event"))
    }

    pub fn build_as(&self, dockerfile: &str, person: Person, cancel: &Cancel) -> (Result<BuildResult, Problem>, Seen) {
        let mut request = self.request.clone();
        request.dockerfile = dockerfile.to_string();
        if request.tags.is_empty() {
            request.tags = vec!["test".to_string()];
        }
        let person = Arc::new(person);
        let client: Arc<dyn Client> = Arc::clone(&person) as Arc<dyn Client>;
        let built = self.builder.build(&request, client, cancel);
        let seen = std::mem::take(&mut *person.seen.lock().expect("lock"));
        (built, seen)
    }

    /// Builds and looks at the result.
    pub fn build(&self, dockerfile: &str) -> Built {
        let (built, seen) = self.try_build(dockerfile);
        let result = built.unwrap_or_else(|problem| panic!("the build succeeds: {problem}\n{}", seen.log()));
        let digest: Digest = result.digest.parse().expect("digest");
        let folders = self.store.unpack(digest).expect("unpacks");
        let info = self.store.info(digest).expect("is here");
        let mut bytes = Vec::new();
        self.store
            .open_blob(info.config_digest)
            .expect("blob")
            .read_to_end(&mut bytes)
            .expect("reads");
        Built {
            result,
            seen,
            folders,
            document: ConfigDocument::parse("test", &bytes).expect("document"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in ["shims", ""] {
            // The last shim may need a moment to end after its container.
            let group = Group::at(&self.layout, &self.parent, name);
            let gone = (0..200).any(|_| {
                let removed = group.remove().is_ok();
                if !removed {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                removed
            });
            if !gone {
                eprintln!("clean-up: the control group {}/{name} stays", self.parent);
            }
        }
    }
}

/// A build that succeeded.
pub struct Built {
    pub result: BuildResult,
    pub seen: Seen,
    /// Layers, topmost first.
    pub folders: Vec<PathBuf>,
    pub document: ConfigDocument,
}

impl Built {
    /// Where a path is in the topmost layer that has it.
    pub fn path(&self, path: &str) -> Option<PathBuf> {
        self.folders
            .iter()
            .map(|folder| folder.join(path))
            .find(|path| path.symlink_metadata().is_ok())
    }

    pub fn read(&self, path: &str) -> String {
        let found = self.path(path).unwrap_or_else(|| panic!("{path} is in the image"));
        fs::read_to_string(found).expect("text")
    }

    pub fn stat(&self, path: &str) -> fs::Metadata {
        let found = self.path(path).unwrap_or_else(|| panic!("{path} is in the image"));
        found.symlink_metadata().expect("metadata")
    }

    /// `mode uid gid`.
    pub fn owner(&self, path: &str) -> String {
        let stat = self.stat(path);
        format!("{:o} {} {}", stat.mode() & 0o7777, stat.uid(), stat.gid())
    }

    /// Everything in the topmost layer, relative to its root.
    pub fn top_layer(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.folders[0], Path::new(""), &mut found);
        found
    }
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    let mut names: Vec<_> = fs::read_dir(root.join(folder))
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    names.sort();
    for name in names {
        let path = folder.join(name);
        found.push(path.to_string_lossy().into_owned());
        if root.join(&path).symlink_metadata().expect("metadata").is_dir() {
            list(root, &path, found);
        }
    }
}
