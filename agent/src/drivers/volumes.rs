//! [`Volumes`] on the node's own disk: `volumes/NAME/_data`, as Docker lays them out, and `replicas/ID/volumes/N/_data` for
//! anonymous ones, which go with their replica.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use gantry_image::ImageConfig;
use gantry_lifecycle::Failure;
use gantry_model::spec::{Mount, MountKind};
use gantry_model::{Class, Problem, ReplicaId};

use super::{ReadyMount, ReadySource, VolumeOwner, Volumes, blocking};

/// See the module.
#[derive(Clone)]
pub(crate) struct LocalVolumes {
    data_dir: Arc<PathBuf>,
    /// Folder of those who own anonymous volumes.
    owners: &'static str,
}

impl LocalVolumes {
    /// Volumes below the agent's data folder.
    pub(crate) fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir: Arc::new(data_dir),
            owners: "replicas",
        }
    }

    /// The same named volumes, with anonymous ones of containers run by hand.
    pub(crate) fn of_containers(&self) -> Self {
        Self {
            data_dir: Arc::clone(&self.data_dir),
            owners: "containers",
        }
    }

    fn anonymous(&self, owner: ReplicaId) -> PathBuf {
        self.data_dir.join(self.owners).join(owner.to_string()).join("volumes")
    }

    /// Makes an owner's anonymous volumes named ones, so that they outlive it. None there is fine.
    fn keep_anonymous(&self, owner: ReplicaId) -> Result<(), Problem> {
        let folder = self.anonymous(owner);
        let kept = self.data_dir.join("volumes");
        let moved = || -> io::Result<()> {
            for (index, entry) in fs::read_dir(&folder)?.enumerate() {
                fs::create_dir_all(&kept)?;
                fs::rename(entry?.path(), kept.join(format!("{owner}-{index}")))?;
            }
            Ok(())
        };
        match moved() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let reason = format!("cannot keep its anonymous volumes {}: {error}", folder.display());
                Err(Problem::new(Class::Internal, format!("container {owner}"), reason))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn ready(
        &self,
        owner: &VolumeOwner,
        mounts: &[Mount],
        image_volumes: &BTreeSet<String>,
    ) -> Result<Vec<ReadyMount>, Failure> {
        let mut ready = Vec::new();
        for mount in mounts {
            ready.push(ReadyMount {
                target: mount.target.clone(),
                read_only: mount.read_only,
                source: self.source(owner, mount)?,
            });
        }
        let covered: BTreeSet<PathBuf> = mounts.iter().map(|mount| plain(&mount.target)).collect();
        for target in image_volumes.iter().filter(|target| !covered.contains(&plain(target))) {
            ready.push(ReadyMount {
                target: target.clone(),
                read_only: false,
                source: ReadySource::Volume {
                    path: self.make_anonymous(owner.id, target)?,
                    no_copy: false,
                },
            });
        }
        Ok(ready)
    }

    fn source(&self, owner: &VolumeOwner, mount: &Mount) -> Result<ReadySource, Failure> {
        match &mount.kind {
            MountKind::Bind {
                source,
                create_host_path,
                propagation,
            } => Ok(ReadySource::Bind {
                path: bind(Path::new(source), *create_host_path)?,
                propagation: *propagation,
            }),
            MountKind::Volume {
                name,
                node_name,
                no_copy,
                subpath,
            } => {
                let node_name = match (node_name, name) {
                    (Some(node_name), _) => Some(node_name.clone()),
                    (None, Some(name)) => Some(match &owner.namespace {
                        Some(namespace) => format!("{namespace}_{name}"),
                        None => name.to_string(),
                    }),
                    (None, None) => None,
                };
                let root = match &node_name {
                    Some(node_name) => self.make_named(node_name)?,
                    None => self.make_anonymous(owner.id, &mount.target)?,
                };
                let path = match subpath {
                    Some(subpath) => below(&root, subpath)?,
                    None => root,
                };
                let no_copy = *no_copy || subpath.is_some();
                Ok(ReadySource::Volume { path, no_copy })
            }
            MountKind::Tmpfs { size, mode } => Ok(ReadySource::Tmpfs {
                size: *size,
                mode: *mode,
            }),
        }
    }

    fn make_named(&self, name: &str) -> Result<PathBuf, Failure> {
        let is_plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        if !is_plain {
            return Err(refused(format!("'{name}' cannot name a volume")));
        }
        make(self.data_dir.join("volumes").join(name).join("_data"))
    }

    /// Found again by its target, so that a container that is started again has the same one.
    fn make_anonymous(&self, replica: ReplicaId, target: &str) -> Result<PathBuf, Failure> {
        let name: String = target
            .trim_matches('/')
            .chars()
            .map(|c| if c == '/' { '@' } else { c })
            .collect();
        make(self.anonymous(replica).join(format!("@{name}")).join("_data"))
    }
}

fn plain(target: &str) -> PathBuf {
    Path::new(target).components().collect()
}

fn refused(reason: String) -> Failure {
    Failure {
        reason,
        retryable: false,
    }
}

/// A full or read-only disk may be mended.
fn failed(act: &str, path: &Path, error: &io::Error) -> Failure {
    Failure {
        reason: format!("cannot {act} {}: {error}", path.display()),
        retryable: true,
    }
}

fn make(path: PathBuf) -> Result<PathBuf, Failure> {
    fs::create_dir_all(&path).map_err(|error| failed("make volume", &path, &error))?;
    Ok(path)
}

fn bind(source: &Path, create: bool) -> Result<PathBuf, Failure> {
    if !source.is_absolute() {
        return Err(refused(format!(
            "bind source '{}' is not an absolute path",
            source.display()
        )));
    }
    match fs::metadata(source) {
        Ok(_) => Ok(source.to_path_buf()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => make(source.to_path_buf()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(refused(format!(
            "bind source {} does not exist on this node: make it, or use a named volume",
            source.display()
        ))),
        Err(error) => Err(failed("look at bind source", source, &error)),
    }
}

/// A folder inside a volume. What a container put into the volume, links included, cannot lead out of it.
fn below(root: &Path, subpath: &str) -> Result<PathBuf, Failure> {
    let relative = Path::new(subpath);
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(refused(format!("subpath '{subpath}' leads out of its volume")));
    }
    let path = root.join(relative);
    let real = fs::canonicalize(&path).map_err(|_| {
        refused(format!(
            "subpath '{subpath}' does not exist in its volume: make it with another container first"
        ))
    })?;
    let root = fs::canonicalize(root).map_err(|error| failed("look at volume", root, &error))?;
    if real.starts_with(&root) {
        Ok(real)
    } else {
        Err(refused(format!("subpath '{subpath}' leads out of its volume")))
    }
}

impl Volumes for LocalVolumes {
    fn ensure<'a>(
        &'a self,
        owner: &'a VolumeOwner,
        mounts: &'a [Mount],
        image: &'a ImageConfig,
    ) -> BoxFuture<'a, Result<Vec<ReadyMount>, Failure>> {
        let (own, owner, mounts, volumes) = (self.clone(), owner.clone(), mounts.to_vec(), image.volumes.clone());
        blocking(move || own.ready(&owner, &mounts, &volumes)).boxed()
    }

    fn remove(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        let folder = self.anonymous(replica);
        blocking(move || match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let reason = format!("cannot remove its anonymous volumes {}: {error}", folder.display());
                Err(Problem::new(Class::Internal, format!("replica {replica}"), reason))
            }
            Ok(()) | Err(_) => Ok(()),
        })
        .boxed()
    }

    fn keep(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        let own = self.clone();
        blocking(move || own.keep_anonymous(replica)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::spec::Propagation;

    fn mount(kind: MountKind) -> Mount {
        Mount {
            target: "/data".into(),
            read_only: false,
            kind,
        }
    }

    fn volume(name: Option<&str>, subpath: Option<&str>) -> Mount {
        mount(MountKind::Volume {
            name: name.map(|name| name.parse().expect("a name")),
            node_name: None,
            no_copy: false,
            subpath: subpath.map(Into::into),
        })
    }

    fn owner() -> VolumeOwner {
        VolumeOwner {
            id: ReplicaId(1),
            namespace: Some("shop".parse().expect("a name")),
        }
    }

    fn bind_of(source: &Path, create_host_path: bool) -> Mount {
        mount(MountKind::Bind {
            source: source.display().to_string(),
            create_host_path,
            propagation: Propagation::default(),
        })
    }

    #[test]
    fn named_volumes_are_the_nodes_and_anonymous_ones_the_replicas() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().to_path_buf());
        let owner = owner();
        let image = BTreeSet::from(["/data".to_string(), "/var/cache".to_string()]);
        let ready = volumes
            .ready(&owner, &[volume(Some("db"), None)], &image)
            .expect("made");
        let paths: Vec<_> = ready
            .iter()
            .map(|mount| match &mount.source {
                ReadySource::Volume { path, .. } => path.strip_prefix(folder.path()).expect("below").to_path_buf(),
                other => panic!("{other:?}"),
            })
            .collect();
        let anonymous = format!("replicas/{}/volumes/@var@cache/_data", owner.id);
        assert_eq!(
            paths,
            [PathBuf::from("volumes/shop_db/_data"), PathBuf::from(anonymous)]
        );
        assert!(paths.iter().all(|path| folder.path().join(path).is_dir()));
        let again = volumes
            .ready(&owner, &[volume(Some("db"), None)], &image)
            .expect("found again");
        assert_eq!(again, ready);
    }

    #[test]
    fn a_missing_bind_source_is_made_only_when_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().to_path_buf());
        let owner = owner();
        let source = folder.path().join("host/deep");
        let failure = volumes
            .ready(&owner, &[bind_of(&source, false)], &BTreeSet::new())
            .expect_err("missing");
        assert!(
            !failure.retryable && failure.reason.contains("does not exist"),
            "{failure:?}"
        );
        volumes
            .ready(&owner, &[bind_of(&source, true)], &BTreeSet::new())
            .expect("made");
        assert!(source.is_dir());
    }

    #[test]
    fn a_subpath_cannot_leave_its_volume() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().to_path_buf());
        let owner = owner();
        let root = folder.path().join("volumes/shop_db/_data");
        fs::create_dir_all(root.join("inside")).expect("made");
        std::os::unix::fs::symlink("/etc", root.join("link")).expect("made");
        assert!(
            volumes
                .ready(&owner, &[volume(Some("db"), Some("inside"))], &BTreeSet::new())
                .is_ok()
        );
        for subpath in ["link", "../x", "/etc", "absent"] {
            let failure = volumes.ready(&owner, &[volume(Some("db"), Some(subpath))], &BTreeSet::new());
            assert!(failure.is_err(), "{subpath}");
        }
    }
}
