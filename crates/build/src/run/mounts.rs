//! `RUN --mount`: what is put into the container besides its layers.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use gantry_dockerfile::{Mount, Run, Sharing, Source};
use gantry_image::Workspace;
use gantry_model::spec::Propagation;
use gantry_runtime::{ResolvedMount, ResolvedMountKind};
use sha2::{Digest as _, Sha256};

use crate::error::{BuildError, Result};
use crate::overlay::{Layers, Mounted, View};
use crate::work::Work;

/// Waiting for a cache folder looks for a cancelled build so often.
const WAIT: Duration = Duration::from_millis(100);
const SECRET_MODE: u32 = 0o400;
const SOCKET_MODE: u32 = 0o600;
const SCRIPT_MODE: u32 = 0o755;
const CACHE_MODE: u32 = 0o755;

/// Folders of `type=cache`, and which are in use.
#[derive(Debug)]
pub(crate) struct CacheFolders {
    dir: PathBuf,
    in_use: Mutex<BTreeSet<PathBuf>>,
    freed: Condvar,
}

/// A cache folder in use.
#[derive(Debug)]
struct Held<'a> {
    folders: &'a CacheFolders,
    path: PathBuf,
    is_exclusive: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.is_exclusive {
            let mut in_use = self.folders.in_use.lock().unwrap_or_else(PoisonError::into_inner);
            in_use.remove(&self.path);
            self.folders.freed.notify_all();
        }
    }
}

impl CacheFolders {
    pub(crate) fn open(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(BuildError::io("make folder", &dir))?;
        Ok(Self {
            dir,
            in_use: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    fn path(&self, id: &str, number: u32) -> PathBuf {
        let name = Sha256::digest(id)
            .iter()
            .take(16)
            .fold(String::new(), |name, byte| name + &format!("{byte:02x}"));
        self.dir.join(format!("{name}-{number}"))
    }

    fn take(&self, id: &str, sharing: Sharing, work: &Work<'_>) -> Result<Held<'_>> {
        let held = |path, is_exclusive| Held {
            folders: self,
            path,
            is_exclusive,
        };
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        match sharing {
            Sharing::Shared => Ok(held(self.path(id, 0), false)),
            Sharing::Private => {
                let free = (0..)
                    .map(|number| self.path(id, number))
                    .find(|path| !in_use.contains(path));
                let path = free.expect("numbers do not end");
                in_use.insert(path.clone());
                Ok(held(path, true))
            }
            Sharing::Locked => loop {
                let path = self.path(id, 0);
                if in_use.insert(path.clone()) {
                    return Ok(held(path, true));
                }
                work.cancel.check()?;
                in_use = self
                    .freed
                    .wait_timeout(in_use, WAIT)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            },
        }
    }

    /// Bytes of all folders.
    pub(crate) fn size(&self) -> Result<u64> {
        folder_size(&self.dir)
    }

    /// Removes folders that nobody uses now, and returns the bytes freed.
    pub(crate) fn prune(&self, dry_run: bool) -> Result<u64> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let mut freed = 0;
        for entry in fs::read_dir(&self.dir).map_err(BuildError::io("list", &self.dir))? {
            let path = entry.map_err(BuildError::io("list", &self.dir))?.path();
            if in_use.contains(&path) {
                continue;
            }
            freed += folder_size(&path)?;
            if !dry_run {
                fs::remove_dir_all(&path).map_err(BuildError::io("remove", &path))?;
            }
        }
        Ok(freed)
    }
}

fn folder_size(folder: &Path) -> Result<u64> {
    let mut pending = vec![folder.to_path_buf()];
    let mut bytes = 0;
    while let Some(folder) = pending.pop() {
        // A folder removed meanwhile holds nothing.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => pending.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(_) => {}
            }
        }
    }
    Ok(bytes)
}

/// All mounts of one command; what they hold goes when it is dropped.
pub(super) struct Prepared<'a> {
    pub(super) mounts: Vec<ResolvedMount>,
    /// `NAME=value` of secrets and sockets.
    pub(super) variables: Vec<String>,
    held: Vec<Held<'a>>,
    mounted: Vec<Mounted>,
    secrets: Option<SecretFolder>,
    listeners: Vec<Listener>,
    points: Vec<PathBuf>,
}

/// Files in memory, removed when dropped.
struct SecretFolder(PathBuf);

impl Drop for SecretFolder {
    fn drop(&mut self) {
        // It is in memory, and cleared at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where a forwarded SSH agent listens.
struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Wakes the thread that accepts, which then ends.
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
        let _ = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both);
        let _ = fs::remove_file(&self.path);
    }
}

impl<'a> Prepared<'a> {
    pub(super) fn new(work: &'a Work<'_>, run: &Run, workspace: &Workspace) -> Result<Self> {
        let mut prepared = Self {
            mounts: Vec::new(),
            variables: Vec::new(),
            held: Vec::new(),
            mounted: Vec::new(),
            secrets: None,
            listeners: Vec::new(),
            points: Vec::new(),
        };
        for (number, mount) in run.mounts.iter().enumerate() {
            prepared.add(work, mount, number, workspace)?;
        }
        if let Some(script) = &run.script {
            let path = workspace.path()?.join("script");
            write_file(&path, script.content.as_bytes(), SCRIPT_MODE, (0, 0))?;
            prepared.bind(Path::new(&script.path), path, true);
        }
        Ok(prepared)
    }

    /// Places that are mounted on.
    pub(super) fn script_points(&self) -> impl Iterator<Item = PathBuf> {
        self.points.clone().into_iter()
    }

    fn bind(&mut self, target: &Path, source: PathBuf, read_only: bool) {
        self.points.push(target.to_path_buf());
        self.mounts.push(ResolvedMount {
            target: target.to_path_buf(),
            read_only,
            kind: ResolvedMountKind::Bind {
                source,
                create_host_path: false,
                propagation: Propagation::Private,
            },
        });
    }

    fn add(&mut self, work: &'a Work<'_>, mount: &Mount, number: usize, workspace: &Workspace) -> Result<()> {
        match mount {
            Mount::Bind {
                target,
                from,
                source,
                read_only,
            } => self.add_tree(
                work,
                (from, source),
                (Path::new(target), *read_only),
                (number, workspace),
            ),
            Mount::Cache { .. } => self.add_cache(work, mount, workspace),
            Mount::Tmpfs { target, size } => {
                let mut options = vec!["rw".to_string(), "exec".to_string(), "nosuid".to_string()];
                options.extend(size.map(|size| format!("size={}", size.0)));
                self.points.push(PathBuf::from(target));
                self.mounts.push(ResolvedMount {
                    target: PathBuf::from(target),
                    read_only: false,
                    kind: ResolvedMountKind::TmpfsWith { options },
                });
                Ok(())
            }
            Mount::Secret { .. } => self.add_secret(work, mount, number),
            Mount::Ssh { .. } => self.add_ssh(work, mount, number),
        }
    }

    /// Part of a tree; what is written to it is thrown away.
    fn add_tree(
        &mut self,
        work: &Work<'_>,
        (from, source): (&Source, &str),
        (target, read_only): (&Path, bool),
        (number, workspace): (usize, &Workspace),
    ) -> Result<()> {
        let lower = work.source_folders(from, source, workspace)?;
        let writable = match read_only {
            true => None,
            false => Some((
                workspace.folder(&format!("mount-{number}"))?,
                workspace.folder(&format!("mount-{number}-work"))?,
            )),
        };
        let mounted = Mounted::new(&Layers { lower, writable }, work.mount_point())?;
        let place = work.path_in(&mounted.view()?, from, source)?;
        self.bind(target, mounted.path().join(place), read_only);
        self.mounted.push(mounted);
        Ok(())
    }

    fn add_cache(&mut self, work: &'a Work<'_>, mount: &Mount, workspace: &Workspace) -> Result<()> {
        let Mount::Cache {
            target,
            id,
            sharing,
            from,
            source,
            read_only,
            mode,
            uid,
            gid,
        } = mount
        else {
            return Ok(());
        };
        let held = work.builder.cache_folders.take(id, *sharing, work)?;
        if !held.path.exists() {
            let fresh = workspace.folder("cache")?;
            if let Some(from) = from {
                work.copy_tree(from, source, &View::folder(&fresh)?, workspace)?;
            }
            fs::set_permissions(&fresh, Permissions::from_mode(mode.unwrap_or(CACHE_MODE)))
                .and_then(|()| chown(&fresh, Some(*uid), Some(*gid)))
                .map_err(BuildError::io("set owner of", &fresh))?;
            match fs::rename(&fresh, &held.path) {
                // Somebody who shares it was faster.
                Err(error) if !held.path.exists() => return Err(BuildError::io("make", &held.path)(error)),
                _ => {}
            }
        }
        self.bind(Path::new(target), held.path.clone(), *read_only);
        self.held.push(held);
        Ok(())
    }

    fn add_secret(&mut self, work: &Work<'_>, mount: &Mount, number: usize) -> Result<()> {
        let Mount::Secret {
            id,
            target,
            variable,
            required,
            mode,
            uid,
            gid,
        } = mount
        else {
            return Ok(());
        };
        let Some(content) = work.client.secret(id)? else {
            return withheld("secret", id, *required);
        };
        if let Some(name) = variable {
            self.variables
                .push(format!("{name}={}", String::from_utf8_lossy(&content)));
        }
        if let Some(target) = target {
            let folder = match &self.secrets {
                Some(folder) => folder.0.clone(),
                None => {
                    let folder = work.memory_path("secrets");
                    fs::create_dir_all(&folder).map_err(BuildError::io("make folder", &folder))?;
                    self.secrets = Some(SecretFolder(folder.clone()));
                    folder
                }
            };
            let path = folder.join(number.to_string());
            write_file(&path, &content, mode.unwrap_or(SECRET_MODE), (*uid, *gid))?;
            self.bind(Path::new(target), path, true);
        }
        Ok(())
    }

    fn add_ssh(&mut self, work: &Work<'_>, mount: &Mount, number: usize) -> Result<()> {
        let Mount::Ssh {
            id,
            target,
            required,
            mode,
            uid,
            gid,
        } = mount
        else {
            return Ok(());
        };
        if !work.client.has_ssh(id) {
            return withheld("ssh agent", id, *required);
        }
        let path = work.memory_path(&format!("ssh-{number}"));
        let socket = UnixListener::bind(&path).map_err(BuildError::io("listen on", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(mode.unwrap_or(SOCKET_MODE)))
            .and_then(|()| chown(&path, Some(*uid), Some(*gid)))
            .map_err(BuildError::io("set owner of", &path))?;
        let accepting = socket.try_clone().map_err(BuildError::io("listen on", &path))?;
        let (client, agent) = (Arc::clone(&work.client), id.clone());
        std::thread::spawn(move || {
            // Ends when the listener is shut down with the command.
            while let Ok((connection, _)) = accepting.accept() {
                client.ssh(&agent, connection);
            }
        });
        self.variables.push(format!("SSH_AUTH_SOCK={target}"));
        self.bind(Path::new(target), path.clone(), false);
        self.listeners.push(Listener { socket, path });
        Ok(())
    }
}

fn withheld(kind: &'static str, id: &str, required: bool) -> Result<()> {
    if required {
        return Err(BuildError::Withheld {
            kind,
            id: id.to_string(),
        });
    }
    Ok(())
}

fn write_file(path: &Path, content: &[u8], mode: u32, (uid, gid): (u32, u32)) -> Result<()> {
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .and_then(|()| chown(path, Some(uid), Some(gid)))
        .map_err(BuildError::io("write", path))
}
