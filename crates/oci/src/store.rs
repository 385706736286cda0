//! Containers of one root folder: a folder each, with what was asked for and what became of it. Nothing is in memory between two
//! commands; what runs is told by the kernel.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_cgroup::{Group, Layout};
use gantry_runtime::plan::HookState;
use gantry_runtime::{Progress, Unattended};
use serde::{Deserialize, Serialize};

use crate::spec::{NamespaceKind, Spec};
use crate::{OCI_VERSION, OciError};

/// [`Record`], in a container's folder.
const RECORD_FILE: &str = "container.json";
/// Longest id, as in runc; it is a folder's name.
const ID_LENGTH_MAX: usize = 255;

/// What is known of a container for as long as it exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: String,
    /// Where its document lay.
    pub bundle: PathBuf,
    /// Path of its control group below each hierarchy.
    pub cgroup: String,
    /// When it was created, as RFC 3339 has it.
    pub created: String,
    /// The document as it was then.
    pub spec: Spec,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is being made.
    Creating,
    /// It is set up and waits to be started.
    Created,
    /// It runs.
    Running,
    /// It runs, and stands still.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl Status {
    /// As the specification and runc write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The root folder.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    layout: Layout,
}

impl Store {
    /// The store below `root`, which need not exist.
    ///
    /// # Errors
    /// When there are no control groups.
    pub fn open(root: &Path) -> Result<Self, OciError> {
        let absolute = std::path::absolute(root).map_err(|source| OciError::io("find", root, source))?;
        Ok(Self {
            root: absolute,
            layout: Layout::detect()?,
        })
    }

    /// The hierarchies of this machine.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes an id; nobody else can take it then.
    ///
    /// # Errors
    /// [`OciError::Exists`], or when the id cannot be a folder's name.
    pub fn claim(&self, id: &str) -> Result<PathBuf, OciError> {
        check_id(id)?;
        let folder = self.root.join(id);
        fs::DirBuilder::new()
            .mode(0o711)
            .recursive(true)
            .create(&self.root)
            .map_err(|source| OciError::io("make folder", &self.root, source))?;
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(OciError::Exists { id: id.to_string() }),
            Err(source) => Err(OciError::io("make folder", &folder, source)),
        }
    }

    /// The container of that id.
    ///
    /// # Errors
    /// [`OciError::NotFound`].
    pub fn load(&self, id: &str) -> Result<Container, OciError> {
        check_id(id)?;
        let folder = self.root.join(id);
        let path = folder.join(RECORD_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(OciError::NotFound { id: id.to_string() });
            }
            Err(source) => return Err(OciError::io("read", &path, source)),
        };
        let record: Record = serde_json::from_slice(&text).map_err(|source| OciError::Document { path, source })?;
        let group = group_at(&self.layout, &record.cgroup);
        Ok(Container { folder, record, group })
    }

    /// A folder that was claimed but never became a container goes.
    pub fn release(&self, id: &str) -> bool {
        let folder = self.root.join(id);
        check_id(id).is_ok() && !folder.join(RECORD_FILE).exists() && fs::remove_dir_all(folder).is_ok()
    }

    /// All containers, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Container>, OciError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(OciError::io("list", &self.root, source)),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        // One that is being created or deleted right now is not there yet, or any more.
        Ok(names.iter().filter_map(|name| self.load(name).ok()).collect())
    }
}

/// The group of a path below each hierarchy.
#[must_use]
pub fn group_at(layout: &Layout, path: &str) -> Group {
    let (parent, name) = split_cgroup(path);
    Group::at(layout, parent, name)
}

/// Parent and name.
#[must_use]
pub fn split_cgroup(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn check_id(id: &str) -> Result<(), OciError> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
    let is_valid = !id.is_empty() && id != "." && id != ".." && id.len() <= ID_LENGTH_MAX && id.chars().all(is_plain);
    if is_valid {
        return Ok(());
    }
    let reason = format!("invalid container id '{id}': use up to {ID_LENGTH_MAX} letters, digits and _ + - .");
    Err(OciError::Usage(reason))
}

/// One container.
#[derive(Debug)]
pub struct Container {
    /// Its folder.
    pub folder: PathBuf,
    /// What was asked for.
    pub record: Record,
    /// Its control group.
    pub group: Group,
}

impl Container {
    /// Writes its record; it exists from then on.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn store(&self) -> Result<(), OciError> {
        let path = self.folder.join(RECORD_FILE);
        let fresh = self.folder.join("container.json.new");
        let text = serde_json::to_vec(&self.record).map_err(std::io::Error::from);
        text.and_then(|text| fs::write(&fresh, text))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|source| OciError::io("write", &path, source))
    }

    /// Its first process; none while it is being made.
    #[must_use]
    pub fn process(&self) -> Option<Unattended> {
        Unattended::open(&self.folder).ok()
    }

    /// The id of its first process, if that lives: another process that got the id later is not taken for it.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let process = self.process()?;
        (process.progress() != Progress::Stopped).then(|| process.pid())
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.process().map(|process| process.progress()) {
            None => Status::Creating,
            Some(Progress::Created) => Status::Created,
            Some(Progress::Stopped) => Status::Stopped,
            Some(Progress::Running) => match self.group.is_frozen() {
                Ok(true) => Status::Paused,
                Ok(false) | Err(_) => Status::Running,
            },
        }
    }

    /// Whether the end of its first process is the end of all.
    #[must_use]
    pub fn has_pid_namespace(&self) -> bool {
        let linux = self.record.spec.linux.as_ref();
        let namespaces = linux.map(|linux| linux.namespaces.as_slice()).unwrap_or_default();
        namespaces
            .iter()
            .any(|namespace| namespace.kind == NamespaceKind::Pid && namespace.path.is_none())
    }

    /// As hooks are told.
    #[must_use]
    pub fn hook_state(&self, status: Status) -> HookState {
        HookState {
            oci_version: OCI_VERSION.to_string(),
            id: self.record.id.clone(),
            status: status.name().to_string(),
            pid: self.pid().and_then(|pid| i32::try_from(pid).ok()),
            bundle: self.record.bundle.clone(),
            annotations: self.record.spec.annotations.clone(),
        }
    }

    /// Name or number of whoever created it.
    #[must_use]
    pub fn owner(&self) -> String {
        let uid = fs::metadata(&self.folder).map_or(0, |metadata| metadata.uid());
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
        user.ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_folders_and_nothing_else() {
        for id in ["a", "web-1", "A_b+c.d", &"x".repeat(255)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(256)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_control_group_has_a_parent_and_a_name() {
        assert_eq!(split_cgroup("/docker/abc"), ("/docker", "abc"));
        assert_eq!(split_cgroup("abc"), ("", "abc"));
    }
}
