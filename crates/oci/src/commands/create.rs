//! `create`, and `run`, which is create, start, wait and delete.

use std::path::{Path, PathBuf};

use gantry_cgroup::Group;
use gantry_runtime::Launched;

use super::{delete, shim, start, write_pid_file};
use crate::args::{CreateArgs, RunArgs};
use crate::foreground::{self, Console, Streams};
use crate::log::now;
use crate::plan::{self, Input, hook_plans};
use crate::relay::own_size;
use crate::spec::{CONFIG_FILE, Spec};
use crate::store::{Container, Record, Status, Store, split_cgroup};
use crate::{OciError, limits};

/// Parent of groups when the document does not say.
const CGROUP_PARENT: &str = "gantry-oci";

/// Sets up a container.
pub(super) fn create(store: &Store, args: &CreateArgs) -> Result<Container, OciError> {
    create_with(store, args, None).map(|(container, _)| container)
}

/// Creates, starts and, unless detached, waits and deletes.
pub(super) fn run(store: &Store, args: &RunArgs) -> Result<u8, OciError> {
    if args.detach {
        let (container, _) = create_with(store, &args.create, None)?;
        start_or_delete(store, &container)?;
        return Ok(0);
    }
    foreground::adopt_orphans()?;
    let console = Console::new()?;
    let (container, launched) = create_with(store, &args.create, Some(&console))?;
    start_or_delete(store, &container)?;
    let code = console.attend(launched.pid)?;
    if !args.keep {
        delete::destroy(&container)?;
    }
    Ok(code)
}

fn start_or_delete(store: &Store, container: &Container) -> Result<(), OciError> {
    start::start(container).inspect_err(|_| {
        let _ = delete::force(store, &container.record.id);
    })
}

fn create_with(store: &Store, args: &CreateArgs, console: Option<&Console>) -> Result<(Container, Launched), OciError> {
    if args.no_pivot {
        let text = "--no-pivot is not supported: the root is always pivoted to, which works on a memory disk as well";
        return Err(OciError::Usage(text.to_string()));
    }
    let bundle = args
        .bundle
        .canonicalize()
        .map_err(|source| OciError::io("find bundle", &args.bundle, source))?;
    let mut spec = Spec::read(&bundle.join(CONFIG_FILE))?;
    if let (Some(_), Some(process)) = (console, &mut spec.process) {
        process.console_size = process.console_size.or_else(own_size);
    }
    let streams = foreground::streams(
        spec.process.as_ref().is_some_and(|process| process.terminal),
        args.console_socket.as_deref(),
        console,
        args.preserve_fds,
    )?;
    let folder = store.claim(&args.id)?;
    let made = make(store, args, &folder, bundle, spec, streams);
    made.inspect_err(|_| {
        let _ = std::fs::remove_dir_all(&folder);
    })
}

fn make(
    store: &Store,
    args: &CreateArgs,
    folder: &Path,
    bundle: PathBuf,
    spec: Spec,
    streams: Streams,
) -> Result<(Container, Launched), OciError> {
    let cgroup = cgroup_path(&spec, &args.id)?;
    let linux = spec.linux.as_ref();
    let limits = limits::of_container(linux.and_then(|linux| linux.resources.as_ref()))?;
    let (parent, name) = split_cgroup(&cgroup);
    let before = Group::at(store.layout(), parent, name);
    if before.exists() && !before.processes()?.is_empty() {
        let reason = format!("control group {cgroup} is not empty: another container runs there");
        return Err(OciError::invalid("linux.cgroupsPath", reason));
    }
    let group = Group::create(store.layout(), parent, name, &limits);
    let container = Container {
        folder: folder.to_path_buf(),
        group: before,
        record: Record {
            id: args.id.clone(),
            bundle,
            created: now(),
            spec,
            cgroup: cgroup.clone(),
        },
    };
    let launched = group
        .map_err(OciError::from)
        .and_then(|_| launch(store, &container, args, streams));
    match launched {
        Ok(launched) => Ok((container, launched)),
        Err(error) => {
            undo(&container);
            Err(error)
        }
    }
}

fn launch(store: &Store, container: &Container, args: &CreateArgs, streams: Streams) -> Result<Launched, OciError> {
    let record = &container.record;
    let plan = plan::plan(&Input {
        id: &record.id,
        spec: &record.spec,
        bundle: &record.bundle,
        state: &container.folder,
        layout: store.layout(),
        group: &container.group,
        streams: streams.plan.clone(),
    })?;
    let launched = gantry_runtime::launch_with(&shim()?, &plan, streams.fds)?;
    container.store()?;
    if let Some(path) = &args.pid_file {
        write_pid_file(path, launched.pid)?;
    }
    Ok(launched)
}

/// What was made of a container that failed goes, and its last hooks are told.
fn undo(container: &Container) {
    let _ = container.group.kill_all();
    let _ = container.group.remove();
    let hooks = container.record.spec.hooks.as_ref();
    let hooks = hook_plans(hooks.map(|hooks| hooks.poststop.as_slice()).unwrap_or_default());
    if let Ok(shim) = shim() {
        let _ = gantry_runtime::run_hooks(&shim, &hooks, &container.hook_state(Status::Stopped), false);
    }
}

/// The group below each hierarchy, without a slash in front.
fn cgroup_path(spec: &Spec, id: &str) -> Result<String, OciError> {
    let asked = spec.linux.as_ref().and_then(|linux| linux.cgroups_path.as_deref());
    let Some(asked) = asked.filter(|path| !path.is_empty()) else {
        return Ok(format!("{CGROUP_PARENT}/{id}"));
    };
    if !asked.starts_with('/') && asked.matches(':').count() == 2 {
        let reason = format!(
            "'{asked}' is a group of systemd's: configure the engine's cgroup driver as cgroupfs \
             (dockerd --exec-opt native.cgroupdriver=cgroupfs, podman --cgroup-manager=cgroupfs)"
        );
        return Err(OciError::invalid("linux.cgroupsPath", reason));
    }
    let parts: Vec<&str> = asked.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.is_empty() || parts.contains(&"..") {
        let reason = format!("'{asked}' leads out of the hierarchy or to its root");
        return Err(OciError::invalid("linux.cgroupsPath", reason));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Linux;

    fn path(asked: &str) -> Result<String, OciError> {
        let spec = Spec {
            linux: Some(Linux {
                cgroups_path: Some(asked.to_string()),
                ..Linux::default()
            }),
            ..Spec::default()
        };
        cgroup_path(&spec, "web")
    }

    #[test]
    fn groups_are_where_the_document_says_and_never_above() {
        assert_eq!(path("/docker/abc").ok().as_deref(), Some("docker/abc"));
        assert_eq!(path("a//b/./c").ok().as_deref(), Some("a/b/c"));
        assert_eq!(path("").ok().as_deref(), Some("gantry-oci/web"));
        assert!(path("/../x").is_err() && path("/").is_err());
        assert!(path("system.slice:docker:abc").is_err_and(|error| error.to_string().contains("cgroupfs")));
    }
}
