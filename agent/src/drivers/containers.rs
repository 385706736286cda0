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
use gantry_lifecycle::{Attempt, Found};
use gantry_model::phase::Exit;
use gantry_model::spec::{ContainerSpec, Resources};
use gantry_model::{Class, DurationMs, Problem, ReplicaId, Timestamp};
use gantry_runtime::{
    DataFile, ExecSpec, ExecStreams, Handle, HandleError, HostFile, ImageDefaults, LaunchError, LaunchInput,
    LogSettings, ResolvedMount, ResolvedMountKind, State,
};
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::unix::pipe;

use super::user_ids::UserRanges;
use super::{
    Attached, AttachedOutput, FileKind, Launch, LaunchFailure, LaunchNetwork, PlacedFile, ReadyMount, ReadySource,
    Running, Runtime, blocking, cdi,
};
use crate::descriptor::on_event_loop;
use crate::limits::PROBE_OUTPUT_MAX;

/// See the module.
#[derive(Clone)]
pub(crate) struct Containers {
    inner: Arc<Inner>,
}

struct Inner {
    /// Folder of their folders.
    replicas: PathBuf,
    shim: PathBuf,
    layout: Layout,
    cgroup_parent: String,
    user_ids: Arc<UserRanges>,
    handles: Mutex<HashMap<ReplicaId, Arc<Handle>>>,
}

impl Containers {
    /// The shim's program, the node's control groups, and the parent of ours, for others that launch.
    pub(crate) fn launcher(&self) -> (PathBuf, Layout, String) {
        let inner = &self.inner;
        (inner.shim.clone(), inner.layout.clone(), inner.cgroup_parent.clone())
    }

    /// Containers below `replicas`, started by the shim, in control groups below `cgroup_parent`.
    pub(crate) fn new(replicas: PathBuf, shim: PathBuf, layout: Layout, cgroup_parent: String) -> Self {
        Self {
            inner: Arc::new(Inner {
                replicas,
                shim,
                layout,
                cgroup_parent,
                user_ids: Arc::default(),
                handles: Mutex::default(),
            }),
        }
    }

    /// Others below another folder, with the same shim and control groups.
    pub(crate) fn beside(&self, folder: PathBuf) -> Self {
        let inner = &self.inner;
        Self {
            inner: Arc::new(Inner {
                replicas: folder,
                shim: inner.shim.clone(),
                layout: inner.layout.clone(),
                cgroup_parent: inner.cgroup_parent.clone(),
                user_ids: Arc::clone(&inner.user_ids),
                handles: Mutex::default(),
            }),
        }
    }

    /// Takes over the ranges of user ids that containers of a former agent have.
    pub(crate) fn adopt_user_ids(&self) {
        self.inner.user_ids.adopt(&self.inner.replicas);
    }

    /// The container of a replica, running or ended.
    pub(crate) fn handle(&self, replica: ReplicaId) -> Result<Arc<Handle>, Problem> {
        self.inner.handle(replica)
    }

    /// Makes the root of a container that has never been started, for files to be copied.
    pub(crate) fn lay_out(&self, launch: &Launch) -> Result<(), Problem> {
        let laid_out = self.inner.lay_out(launch);
        laid_out.map_err(|error| error.into_problem(&launch.name))
    }

    /// The file of its output.
    pub(crate) fn log(&self, replica: ReplicaId) -> PathBuf {
        self.inner.log(replica)
    }
}

impl Containers {
    /// Does something with a container, on a thread for it.
    async fn with<T: Send + 'static>(
        &self,
        replica: ReplicaId,
        act: impl FnOnce(&Handle) -> Result<T, HandleError> + Send + 'static,
    ) -> Result<T, HandleError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || act(&*inner.open(replica)?)).await
    }

    fn ask<T: Send + 'static>(
        &self,
        replica: ReplicaId,
        act: impl FnOnce(&Handle) -> Result<T, HandleError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Problem>> {
        async move { self.with(replica, act).await.map_err(|error| problem(replica, &error)) }.boxed()
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
        self.open(replica).map_err(|error| problem(replica, &error))
    }

    fn open(&self, replica: ReplicaId) -> Result<Arc<Handle>, HandleError> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handles.get(&replica) {
            return Ok(Arc::clone(handle));
        }
        let handle = Arc::new(Handle::open(&self.bundle(replica), &self.layout)?);
        handles.insert(replica, Arc::clone(&handle));
        Ok(handle)
    }

    fn drop_handle(&self, replica: ReplicaId) -> Option<Arc<Handle>> {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&replica)
    }

    fn lay_out(&self, launch: &Launch) -> Result<(), LaunchError> {
        let image = image_defaults(launch);
        let user_ids = self.user_ids.of(launch.container.userns, &self.folder(launch.id));
        let devices = cdi::resolve(&launch.container.cdi_devices).map_err(LaunchError::Invalid)?;
        let mut input = self.input(launch, &launch.container, &image, self.log(launch.id));
        input.options.user_ids = user_ids.map_err(|source| LaunchError::Io {
            act: "keep the user ids of",
            path: self.folder(launch.id),
            source,
        })?;
        devices.add_to(&mut input);
        gantry_runtime::lay_out(&input, &self.layout)
    }

    fn launch(&self, launch: &Launch, attempt: Attempt) -> Result<Running, LaunchFailure> {
        let replica = launch.id;
        let refused = |error: LaunchError| failure(&launch.name, error);
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
        let user_ids = self
            .user_ids
            .of(launch.container.userns, &self.folder(replica))
            .map_err(|source| io("keep the user ids of", &self.folder(replica), source))?;
        let invalid = |problem| refused(LaunchError::Invalid(problem));
        let devices = cdi::resolve(&launch.container.cdi_devices).map_err(invalid)?;
        let container = devices.environment(&launch.container);
        let mut input = self.input(launch, &container, &image, log);
        input.options.user_ids = user_ids;
        devices.add_to(&mut input);
        let plan = gantry_runtime::prepare(&input, &self.layout).map_err(refused)?;
        // After the records of the last start are gone, before those of this one appear.
        let marker = self.attempt_file(replica);
        fs::write(&marker, attempt.to_string()).map_err(|error| io("write", &marker, error))?;
        let launched = gantry_runtime::launch(&self.shim, &plan).map_err(refused)?;
        Ok(Running {
            pid: launched.pid,
            started_at: launched.started_at,
        })
    }

    fn input<'a>(
        &self,
        launch: &'a Launch,
        container: &'a ContainerSpec,
        image: &'a ImageDefaults,
        log: PathBuf,
    ) -> LaunchInput<'a> {
        let (data, host): (Vec<_>, Vec<_>) = launch.files.iter().partition(|file| file.kind == FileKind::Data);
        LaunchInput {
            id: launch.id.to_string(),
            bundle: self.bundle(launch.id),
            layers: launch.image.layers.clone(),
            container,
            image,
            resources: &launch.resources,
            hostname: launch.hostname.clone(),
            network: match &launch.network {
                LaunchNetwork::Path(path) => gantry_runtime::Network::Path(path.clone()),
                LaunchNetwork::Empty => gantry_runtime::Network::Empty,
                LaunchNetwork::Host => gantry_runtime::Network::Host,
            },
            mounts: launch.mounts.iter().map(resolved).collect(),
            host_files: host.into_iter().map(host_file).collect(),
            data_files: data.into_iter().map(data_file).collect(),
            cgroup_parent: self.cgroup_parent.clone(),
            log: LogSettings::at(log),
            options: launch.options.clone(),
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
            // Held by an agent that ended before it let it go.
            State::Created { .. } => {
                handle.kill_all().map_err(|error| problem(replica, &error))?;
                Ok(Found::Nothing)
            }
            State::Exited(exit) if marked == attempt.to_string() => Ok(Found::Exited(exit)),
            // Replicas are never held.
            State::Exited(_) => Ok(Found::Nothing),
        }
    }

    fn release(&self, replica: ReplicaId) -> Result<(), Problem> {
        self.drop_handle(replica);
        self.user_ids.release(&self.folder(replica));
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
fn failure(name: &str, error: LaunchError) -> LaunchFailure {
    let exit_code = error.exit_code();
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
    LaunchFailure {
        reason,
        retryable,
        exit_code,
    }
}

/// A container that was held, and could not execute its program.
fn start_failure(error: &HandleError) -> LaunchFailure {
    let exit_code = match error {
        HandleError::Refused(failure) => failure.exit_code(),
        _ => 125,
    };
    LaunchFailure {
        reason: error.to_string(),
        retryable: false,
        exit_code,
    }
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
    fn launch(&self, launch: Arc<Launch>, attempt: Attempt) -> BoxFuture<'_, Result<Running, LaunchFailure>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.launch(&launch, attempt)).boxed()
    }

    fn proceed(&self, replica: ReplicaId) -> BoxFuture<'_, Result<Timestamp, LaunchFailure>> {
        self.with(replica, |handle| handle.start())
            .map(move |started| started.map_err(|error| start_failure(&error)))
            .boxed()
    }

    fn attach(&self, replica: ReplicaId, stdin: bool) -> BoxFuture<'_, Result<Attached, Problem>> {
        let attach = move |handle: &Handle| -> Result<Attached, HandleError> {
            let output = match handle.attach()? {
                gantry_runtime::Attached::Terminal(terminal) => AttachedOutput::Terminal(terminal),
                gantry_runtime::Attached::Pipes { stdout, stderr } => AttachedOutput::Pipes { stdout, stderr },
            };
            let stdin = if stdin { Some(handle.stdin()?) } else { None };
            Ok(Attached { stdin, output })
        };
        self.ask(replica, attach)
    }

    fn close_stdin(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        self.ask(replica, Handle::close_stdin)
    }

    fn resize(&self, replica: ReplicaId, rows: u16, columns: u16) -> BoxFuture<'_, Result<(), Problem>> {
        self.ask(replica, move |handle| handle.resize(rows, columns))
    }

    fn freeze(&self, replica: ReplicaId, frozen: bool) -> BoxFuture<'_, Result<(), Problem>> {
        self.ask(
            replica,
            move |handle| if frozen { handle.pause() } else { handle.resume() },
        )
    }

    fn limit(&self, replica: ReplicaId, resources: Resources) -> BoxFuture<'_, Result<(), Problem>> {
        self.ask(replica, move |handle| handle.update(&resources))
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
