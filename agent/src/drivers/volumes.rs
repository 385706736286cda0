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
use gantry_model::assignment::ReplicaItem;
use gantry_model::spec::{Mount, MountKind};
use gantry_model::{Class, Problem, ReplicaId};

use super::{ReadyMount, ReadySource, Volumes, blocking};

/// See the module.
#[derive(Clone)]
pub(crate) struct LocalVolumes {
    data_dir: Arc<PathBuf>,
}

impl LocalVolumes {
    /// Volumes below the agent's data folder.
    pub(crate) fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir: Arc::new(data_dir),
        }
    }

    fn anonymous(&self, replica: ReplicaId) -> PathBuf {
        self.data_dir.join("replicas").join(replica.to_string()).join("volumes")
    }

    fn ready(
        &self,
        item: &ReplicaItem,
        mounts: &[Mount],
        image_volumes: &BTreeSet<String>,
    ) -> Result<Vec<ReadyMount>, Failure> {
        let mut ready = Vec::new();
        for mount in mounts {
            ready.push(ReadyMount {
                target: mount.target.clone(),
                read_only: mount.read_only,
                source: self.source(item, mount)?,
            });
        }
        let covered: BTreeSet<PathBuf> = mounts.iter().map(|mount| plain(&mount.target)).collect();
        for target in image_volumes.iter().filter(|target| !covered.contains(&plain(target))) {
            ready.push(ReadyMount {
                target: target.clone(),
                read_only: false,
                source: ReadySource::Volume {
                    path: self.make_anonymous(item.id, target)?,
                    no_copy: false,
                },
            });
        }
        Ok(ready)
    }

    fn source(&self, item: &ReplicaItem, mount: &Mount) -> Result<ReadySource, Failure> {
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
                    (None, Some(name)) => Some(format!("{}_{name}", item.namespace)),
                    (None, None) => None,
                };
                let root = match &node_name {
                    Some(node_name) => self.make_named(node_name)?,
                    None => self.make_anonymous(item.id, &mount.target)?,
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
        item: &'a ReplicaItem,
        mounts: &'a [Mount],
        image: &'a ImageConfig,
    ) -> BoxFuture<'a, Result<Vec<ReadyMount>, Failure>> {
        let (own, item, mounts, volumes) = (self.clone(), item.clone(), mounts.to_vec(), image.volumes.clone());
        blocking(move || own.ready(&item, &mounts, &volumes)).boxed()
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
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
        let item = testing::replica(1);
        let image = BTreeSet::from(["/data".to_string(), "/var/cache".to_string()]);
        let ready = volumes.ready(&item, &[volume(Some("db"), None)], &image).expect("made");
        let paths: Vec<_> = ready
            .iter()
            .map(|mount| match &mount.source {
                ReadySource::Volume { path, .. } => path.strip_prefix(folder.path()).expect("below").to_path_buf(),
                other => panic!("{other:?}"),
            })
            .collect();
        let anonymous = format!("replicas/{}/volumes/@var@cache/_data", item.id);
        assert_eq!(
            paths,
            [PathBuf::from("volumes/shop_db/_data"), PathBuf::from(anonymous)]
        );
        assert!(paths.iter().all(|path| folder.path().join(path).is_dir()));
        let again = volumes
            .ready(&item, &[volume(Some("db"), None)], &image)
            .expect("found again");
        assert_eq!(again, ready);
    }

    #[test]
    fn a_missing_bind_source_is_made_only_when_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().to_path_buf());
        let item = testing::replica(1);
        let source = folder.path().join("host/deep");
        let failure = volumes
            .ready(&item, &[bind_of(&source, false)], &BTreeSet::new())
            .expect_err("missing");
        assert!(
            !failure.retryable && failure.reason.contains("does not exist"),
            "{failure:?}"
        );
        volumes
            .ready(&item, &[bind_of(&source, true)], &BTreeSet::new())
            .expect("made");
        assert!(source.is_dir());
    }

    #[test]
    fn a_subpath_cannot_leave_its_volume() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().to_path_buf());
        let item = testing::replica(1);
        let root = folder.path().join("volumes/shop_db/_data");
        fs::create_dir_all(root.join("inside")).expect("made");
        std::os::unix::fs::symlink("/etc", root.join("link")).expect("made");
        assert!(
            volumes
                .ready(&item, &[volume(Some("db"), Some("inside"))], &BTreeSet::new())
                .is_ok()
        );
        for subpath in ["link", "../x", "/etc", "absent"] {
            let failure = volumes.ready(&item, &[volume(Some("db"), Some(subpath))], &BTreeSet::new());
            assert!(failure.is_err(), "{subpath}");
        }
    }
}
