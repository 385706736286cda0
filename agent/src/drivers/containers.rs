//! [`Runtime`] by gantry's own container runtime.
//!
//! A replica's folder holds `bundle/` (the runtime's), `log/` and `attempt`, which says for which start the bundle's records
//! stand. The bundle stays over restarts in place, so a container finds its writable layer again, as in Docker.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use gantry_cgroup::Layout;
use gantry_lifecycle::{Attempt, Failure, Found};
use gantry_model::phase::Exit;
use gantry_model::{Class, DurationMs, Problem, ReplicaId};
use gantry_runtime::{
    DataFile, ExecSpec, ExecStreams, Handle, HandleError, HostFile, ImageDefaults, LaunchError, LaunchInput,
    LogSettings, ResolvedMount, ResolvedMountKind, State,
};
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::unix::pipe;

use super::{FileKind, Launch, PlacedFile, ReadyMount, ReadySource, Running, Runtime, blocking};
use crate::descriptor::on_event_loop;
use crate::limits::PROBE_OUTPUT_MAX;

/// See the module.
#[derive(Clone)]
pub(crate) struct Containers {
    inner: Arc<Inner>,
}

struct Inner {
    replicas: PathBuf,
    shim: PathBuf,
    layout: Layout,
    cgroup_parent: String,
    handles: Mutex<HashMap<ReplicaId, Arc<Handle>>>,
}

impl Containers {
    /// Containers below `replicas`, started by the shim, in control groups below `cgroup_parent`.
    pub(crate) fn new(replicas: PathBuf, shim: PathBuf, layout: Layout, cgroup_parent: String) -> Self {
        Self {
            inner: Arc::new(Inner {
                replicas,
                shim,
                layout,
                cgroup_parent,
                handles: Mutex::default(),
            }),
        }
    }

    /// The container of a replica, running or ended.
    pub(crate) fn handle(&self, replica: ReplicaId) -> Result<Arc<Handle>, Problem> {
        self.inner.handle(replica)
    }

    /// The file of its output.
    pub(crate) fn log(&self, replica: ReplicaId) -> PathBuf {
        self.inner.log(replica)
    }
}

impl Inner {
    fn folder(&self, replica: ReplicaId) -> PathBuf {
        self.replicas.join(replica.to_string())
    }

    fn bundle(&self, replica: ReplicaId) -> PathBuf {
        self.folder(replica).join("bundle")
    }

    fn log(&self, replica: ReplicaId) -> PathBuf {
        self.folder(replica).join("log").join("container.log")
    }

    fn attempt_file(&self, replica: ReplicaId) -> PathBuf {
        self.folder(replica).join("attempt")
    }

    fn handle(&self, replica: ReplicaId) -> Result<Arc<Handle>, Problem> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handles.get(&replica) {
            return Ok(Arc::clone(handle));
        }
        let handle = Handle::open(&self.bundle(replica), &self.layout).map_err(|error| problem(replica, &error))?;
        let handle = Arc::new(handle);
        handles.insert(replica, Arc::clone(&handle));
        Ok(handle)
    }

    fn drop_handle(&self, replica: ReplicaId) -> Option<Arc<Handle>> {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&replica)
    }

    fn launch(&self, launch: &Launch, attempt: Attempt) -> Result<Running, Failure> {
        let replica = launch.item.id;
        let refused = |error: LaunchError| failure(&launch.item.name(), error);
        self.drop_handle(replica);
        let io = |act, path: &PathBuf, source| {
            refused(LaunchError::Io {
                act,
                path: path.clone(),
                source,
            })
        };
        let log = self.log(replica);
        let folder = self.folder(replica).join("log");
        fs::create_dir_all(&folder).map_err(|error| io("make", &folder, error))?;
        let image = image_defaults(launch);
        let plan = gantry_runtime::prepare(&self.input(launch, &image, log), &self.layout).map_err(refused)?;
        // After the records of the last start are gone, before those of this one appear.
        let marker = self.attempt_file(replica);
        fs::write(&marker, attempt.to_string()).map_err(|error| io("write", &marker, error))?;
        let launched = gantry_runtime::launch(&self.shim, &plan).map_err(refused)?;
        Ok(Running {
            pid: launched.pid,
            started_at: launched.started_at,
        })
    }

    fn input<'a>(&self, launch: &'a Launch, image: &'a ImageDefaults, log: PathBuf) -> LaunchInput<'a> {
        let (data, host): (Vec<_>, Vec<_>) = launch.files.iter().partition(|file| file.kind == FileKind::Data);
        LaunchInput {
            id: launch.item.id.to_string(),
            bundle: self.bundle(launch.item.id),
            layers: launch.image.layers.clone(),
            container: &launch.container,
            image,
            resources: &launch.item.spec.resources,
            hostname: launch.hostname.clone(),
            network: match &launch.network {
                Some(path) => gantry_runtime::Network::Path(path.clone()),
                None => gantry_runtime::Network::Empty,
            },
            mounts: launch.mounts.iter().map(resolved).collect(),
            host_files: host.into_iter().map(host_file).collect(),
            data_files: data.into_iter().map(data_file).collect(),
            cgroup_parent: self.cgroup_parent.clone(),
            log: LogSettings::at(log),
            options: gantry_runtime::LaunchOptions::default(),
        }
    }

    /// Records of another start than the one asked for are none.
    fn find(&self, replica: ReplicaId, attempt: Attempt) -> Result<Found, Problem> {
        self.drop_handle(replica);
        let handle = match Handle::open(&self.bundle(replica), &self.layout) {
            Err(HandleError::NotFound { .. }) => return Ok(Found::Nothing),
            handle => Arc::new(handle.map_err(|error| problem(replica, &error))?),
        };
        let state = match handle.state() {
            Err(HandleError::NotFound { .. }) => return Ok(Found::Nothing),
            state => state.map_err(|error| problem(replica, &error))?,
        };
        let marked = fs::read_to_string(self.attempt_file(replica)).unwrap_or_default();
        match state {
            State::Running { pid, started_at } => {
                self.handles
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(replica, handle);
                Ok(Found::Running { pid, started_at })
            }
            State::Exited(exit) if marked == attempt.to_string() => Ok(Found::Exited(exit)),
            // Replicas are never held.
            State::Exited(_) | State::Created { .. } => Ok(Found::Nothing),
        }
    }

    fn release(&self, replica: ReplicaId) -> Result<(), Problem> {
        self.drop_handle(replica);
        match Handle::open(&self.bundle(replica), &self.layout) {
            Ok(handle) => handle.delete().map_err(|error| problem(replica, &error)),
            Err(HandleError::NotFound { path }) => match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let reason = format!("cannot remove {}: {error}", path.display());
                    Err(Problem::new(Class::Internal, object(replica), reason))
                }
                Ok(()) | Err(_) => Ok(()),
            },
            Err(error) => Err(problem(replica, &error)),
        }
    }
}

fn object(replica: ReplicaId) -> String {
    format!("replica {replica}")
}

pub(crate) fn problem(replica: ReplicaId, error: &HandleError) -> Problem {
    let class = match error {
        HandleError::NotFound { .. } => Class::NotFound,
        HandleError::Refused(_) => Class::Invalid,
        HandleError::Ended { .. } => Class::Conflict,
        HandleError::Io { .. } | HandleError::Record { .. } | HandleError::Shim { .. } | HandleError::Cgroup(_) => {
            Class::Internal
        }
    };
    Problem::new(class, object(replica), error.to_string())
}

/// What the spec or the image ask for in vain will not be there on a second try; what the machine refuses may.
fn failure(name: &str, error: LaunchError) -> Failure {
    let retryable = match &error {
        LaunchError::Invalid(_) => false,
        LaunchError::Step(step) => !matches!(step.exit_code(), 126 | 127),
        LaunchError::Io { .. } | LaunchError::Cgroup(_) | LaunchError::Spawn { .. } | LaunchError::Silent { .. } => {
            true
        }
    };
    let problem = error.into_problem(name);
    let reason = if problem.remedy.is_empty() {
        problem.reason
    } else {
        format!("{} ({})", problem.reason, problem.remedy)
    };
    Failure { reason, retryable }
}

fn image_defaults(launch: &Launch) -> ImageDefaults {
    let config = &launch.image.config;
    ImageDefaults {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        stop_signal: config.stop_signal.clone(),
        healthcheck: config.healthcheck.clone(),
        volumes: config.volumes.iter().cloned().collect(),
    }
}

fn resolved(mount: &ReadyMount) -> ResolvedMount {
    ResolvedMount {
        target: PathBuf::from(&mount.target),
        read_only: mount.read_only,
        kind: match &mount.source {
            ReadySource::Bind { path, propagation } => ResolvedMountKind::Bind {
                source: path.clone(),
                create_host_path: false,
                propagation: *propagation,
            },
            ReadySource::Volume { path, no_copy } => ResolvedMountKind::Volume {
                source: path.clone(),
                copy_up: !no_copy,
            },
            ReadySource::Tmpfs { size, mode } => ResolvedMountKind::Tmpfs {
                size: *size,
                mode: *mode,
            },
        },
    }
}

fn host_file(file: &PlacedFile) -> HostFile {
    HostFile {
        target: PathBuf::from(&file.target),
        content: file.content.clone(),
    }
}

fn data_file(file: &PlacedFile) -> DataFile {
    DataFile {
        target: PathBuf::from(&file.target),
        content: file.content.clone(),
        uid: file.uid,
        gid: file.gid,
        mode: file.mode,
    }
}

impl Runtime for Containers {
    fn launch(&self, launch: Arc<Launch>, attempt: Attempt) -> BoxFuture<'_, Result<Running, Failure>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.launch(&launch, attempt)).boxed()
    }

    fn find(&self, replica: ReplicaId, attempt: Attempt) -> BoxFuture<'_, Result<Found, Problem>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.find(replica, attempt)).boxed()
    }

    fn wait(&self, replica: ReplicaId, _attempt: Attempt) -> BoxFuture<'_, Result<Exit, Problem>> {
        let inner = Arc::clone(&self.inner);
        async move {
            loop {
                let opened = Arc::clone(&inner);
                let handle = blocking(move || opened.handle(replica)).await?;
                wait_readable(replica, &handle).await?;
                let state = blocking(move || handle.state())
                    .await
                    .map_err(|error| problem(replica, &error))?;
                if let State::Exited(exit) = state {
                    return Ok(exit);
                }
            }
        }
        .boxed()
    }

    fn signal(&self, replica: ReplicaId, _attempt: Attempt, signal: i32) -> BoxFuture<'_, Result<(), Problem>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let handle = inner.handle(replica)?;
            handle.signal(signal).map_err(|error| problem(replica, &error))
        })
        .boxed()
    }

    fn kill(&self, replica: ReplicaId, _attempt: Attempt) -> BoxFuture<'_, Result<(), Problem>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let handle = inner.handle(replica)?;
            handle.kill_all().map_err(|error| problem(replica, &error))
        })
        .boxed()
    }

    fn probe(
        &self,
        replica: ReplicaId,
        _attempt: Attempt,
        command: Vec<String>,
        timeout: DurationMs,
    ) -> BoxFuture<'_, Result<(i32, String), Problem>> {
        let inner = Arc::clone(&self.inner);
        async move {
            let (streams, opened) = tokio::sync::oneshot::channel();
            let ended = blocking(move || probe(&inner, replica, command, timeout, streams));
            let output = async {
                match opened.await {
                    Ok(streams) => read_output(streams).await,
                    Err(_) => String::new(),
                }
            };
            let (ended, output) = tokio::join!(ended, tokio::time::timeout(timeout.to_std(), output));
            Ok((ended?, output.unwrap_or_default()))
        }
        .boxed()
    }

    fn release(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.release(replica)).boxed()
    }
}

/// Waits until the handle's container has ended, without a thread.
async fn wait_readable(replica: ReplicaId, handle: &Handle) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::new(Class::Internal, object(replica), format!("cannot wait: {error}"));
    let Some(fd) = handle.exit_fd() else { return Ok(()) };
    let fd = fd.try_clone_to_owned().map_err(failed)?;
    let fd = on_event_loop(fd, Interest::READABLE).map_err(failed)?;
    fd.readable().await.map(drop).map_err(failed)
}

/// Runs a command and waits for it; one that takes too long is killed with everything it started.
fn probe(
    inner: &Inner,
    replica: ReplicaId,
    command: Vec<String>,
    timeout: DurationMs,
    streams: tokio::sync::oneshot::Sender<[OwnedFd; 2]>,
) -> Result<i32, Problem> {
    let failed = |error: HandleError| problem(replica, &error);
    let handle = inner.handle(replica)?;
    let spec = ExecSpec {
        args: command,
        ..ExecSpec::default()
    };
    let mut session = handle.exec(&spec).map_err(failed)?;
    if let Some(ExecStreams::Pipes { stdout, stderr, .. }) = session.streams.take() {
        // Nobody reads when the worker has lost interest; the command is waited for all the same.
        let _ = streams.send([stdout, stderr]);
    }
    match session.wait_timeout(timeout.to_std()).map_err(failed)? {
        Some(code) => Ok(code),
        None => {
            session.kill().map_err(failed)?;
            let reason = format!("it took longer than {timeout}");
            Err(Problem::new(Class::Timeout, "health check", reason))
        }
    }
}

async fn read_output([stdout, stderr]: [OwnedFd; 2]) -> String {
    let (stdout, stderr) = tokio::join!(read_pipe(stdout), read_pipe(stderr));
    let bytes = [stdout, stderr].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_pipe(fd: OwnedFd) -> Vec<u8> {
    match pipe::Receiver::from_owned_fd(fd) {
        Ok(pipe) => read_some(pipe).await,
        Err(_) => Vec::new(),
    }
}

/// Keeps the beginning, and reads the rest so that the writer is not stopped.
async fn read_some(mut pipe: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let room = PROBE_OUTPUT_MAX.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&buffer[..room]);
    }
    kept
}
