//! From an input to a plan, and the folders and the control group that the plan names.
//!
//! Bundle: `upper/` and `work/` (the writable layer), `empty/` (a layer for images without any), `root/` (mount point),
//! `files/` (host files), `container.json` (what deleting needs), `process.json` (what exec inherits), and the shim's records.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gantry_cgroup::{DevicePolicy, Group, Layout, Limits};
use gantry_model::{Class, Problem};
use gantry_shim::plan::{
    AttendancePlan, CgroupPlan, FilePlan, IdRanges, LaunchPlan, LogPlan, MountPlan, MountSource, NamespacePlan,
    NamespacesPlan, RootPlan, RootSource,
};
use gantry_shim::{EXIT_FILE, STATE_FILE};
use gantry_sys::mount::attribute::READ_ONLY;
use serde::{Deserialize, Serialize};

use crate::{LaunchError, LaunchInput, devices, handle, mounts, namespaces, paths, process, sysctl};

/// [`ContainerRecord`], in the bundle.
pub(crate) const CONTAINER_FILE: &str = "container.json";
/// The first process's plan, in the bundle.
pub(crate) const PROCESS_FILE: &str = "process.json";

/// Group of all shims below the agent's parent group.
const SHIMS: &str = "shims";

/// [`RootRecord`], in the bundle.
pub(crate) const ROOT_FILE: &str = "root.json";

/// How the container's root is put together, to look into it when it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootRecord {
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) writable: PathBuf,
    pub(crate) mount_point: PathBuf,
    /// Binds: source on the node, target inside, whether read-only.
    pub(crate) binds: Vec<(PathBuf, PathBuf, bool)>,
    /// Where it has memory.
    pub(crate) memory: Vec<PathBuf>,
    /// Everything that is mounted on.
    pub(crate) targets: Vec<PathBuf>,
    /// The node's ids for those inside, when they differ.
    pub(crate) ranges: Option<IdRanges>,
}

impl RootRecord {
    fn of(root: &RootPlan, mounts: &[MountPlan], files: &[FilePlan], namespaces: &NamespacesPlan) -> Self {
        let (lower, writable) = match &root.source {
            RootSource::Layers { lower, writable } => (lower.clone(), writable.clone()),
            RootSource::Folder(folder) => (Vec::new(), folder.clone()),
        };
        let bind = |mount: &MountPlan| match &mount.source {
            MountSource::Bind {
                path, namespace: None, ..
            } => {
                let is_read_only = mount.recursive_attributes.set & READ_ONLY != 0;
                Some((path.clone(), mount.target.clone(), is_read_only))
            }
            MountSource::Bind { .. } | MountSource::FileSystem { .. } => None,
        };
        let is_memory =
            |mount: &&MountPlan| matches!(&mount.source, MountSource::FileSystem { kind, .. } if kind == "tmpfs");
        Self {
            lower,
            writable,
            mount_point: root.mount_point.clone(),
            binds: mounts.iter().filter_map(bind).collect(),
            memory: mounts
                .iter()
                .filter(is_memory)
                .map(|mount| mount.target.clone())
                .collect(),
            targets: mounts
                .iter()
                .map(|mount| &mount.target)
                .chain(files.iter().map(|file| &file.target))
                .cloned()
                .collect(),
            ranges: namespaces.user.ranges().cloned(),
        }
    }
}

/// What a later agent needs to know about a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) cgroup_parent: String,
}

/// Makes the bundle's folders and the control group, and the plan that names them. Calling it again for the same bundle is how
/// a container is started again: its writable layer stays, the records of the last run go.
///
/// # Errors
/// When the input asks for what does not exist, or the node's disk or control groups refuse.
pub fn prepare(input: &LaunchInput<'_>, layout: &Layout) -> Result<LaunchPlan, LaunchError> {
    check(input)?;
    let container = input.container;
    let process = process::plan(input).map_err(LaunchError::Invalid)?;
    let sysctls = sysctl::plan(container, &input.network).map_err(LaunchError::Invalid)?;
    let namespaces = namespaces::plan(input).map_err(LaunchError::Invalid)?;
    let devices = devices::plan(input).map_err(LaunchError::Invalid)?;
    let root = make_bundle(input, &namespaces)?;
    let defaults = paths::mounts(layout, container, input.options.peers);
    let mounts = mounts::merge(defaults, user_mounts(input)?);
    let is_open = container.privileged || container.system_paths_unconfined;
    let restricted = |list: &[&str]| {
        let paths = list.iter().filter(|_| !is_open);
        paths.map(PathBuf::from).collect()
    };
    write_record(&input.bundle, PROCESS_FILE, &process)?;
    let files = mounts::data_files(&input.data_files)?;
    write_record(
        &input.bundle,
        ROOT_FILE,
        &RootRecord::of(&root, &mounts, &files, &namespaces),
    )?;
    let has_own_names = namespaces.uts == NamespacePlan::New;
    Ok(LaunchPlan {
        id: input.id.clone(),
        bundle: input.bundle.clone(),
        attendance: Some(AttendancePlan {
            shim_procs: shim_group(input, layout)?,
            log: LogPlan {
                path: input.log.path.clone(),
                size_max: input.log.size_max.0,
                files_max: input.log.files_max.max(1),
            },
        }),
        hold: input.options.hold,
        root,
        hostname: has_own_names.then(|| input.hostname.clone()),
        domain_name: container.domainname.clone().filter(|_| has_own_names),
        mounts,
        files,
        device_links: !input.mounts.iter().any(|mount| mount.target == Path::new("/dev")),
        devices: devices.nodes,
        masked_paths: restricted(paths::MASKED),
        read_only_paths: restricted(paths::READ_ONLY_PATHS),
        sysctls,
        cgroup: make_cgroup(input, layout, devices.policy)?,
        process,
        init: container.init,
        hooks: input.options.hooks.clone(),
        namespaces,
    })
}

/// Makes the root of a container that has never been started, as far as its folders and records go: files can be copied into
/// it and out of it from then on, and its first start finds them. It has no control group and no process.
///
/// # Errors
/// When it runs, the input asks for what does not exist, or the node's disk refuses.
pub fn lay_out(input: &LaunchInput<'_>, layout: &Layout) -> Result<(), LaunchError> {
    check(input)?;
    let namespaces = namespaces::plan(input).map_err(LaunchError::Invalid)?;
    let root = make_root(input, &namespaces)?;
    let mounts = mounts::merge(
        paths::mounts(layout, input.container, input.options.peers),
        user_mounts(input)?,
    );
    write_record(
        &input.bundle,
        ROOT_FILE,
        &RootRecord::of(&root, &mounts, &[], &namespaces),
    )
}

fn check(input: &LaunchInput<'_>) -> Result<(), LaunchError> {
    if handle::is_attended(&input.bundle) {
        let reason = format!("the container in {} still runs", input.bundle.display());
        return Err(LaunchError::Invalid(Problem::new(Class::Conflict, "", reason)));
    }
    let is_plain = |name: &str| !name.is_empty() && !name.contains('/') && name != "." && name != ".." && name != SHIMS;
    if is_plain(&input.id) && input.bundle.is_absolute() {
        return Ok(());
    }
    let reason = format!(
        "container id '{}' or bundle {} cannot be used",
        input.id,
        input.bundle.display()
    );
    Err(LaunchError::Invalid(Problem::new(Class::Internal, "", reason)))
}

fn user_mounts(input: &LaunchInput<'_>) -> Result<Vec<MountPlan>, LaunchError> {
    let mut all = mounts::host_files(&input.host_files, &input.bundle.join("files"))?;
    for mount in &input.mounts {
        let plan = mounts::plan(mount)?;
        // What the user mounts over a host file wins.
        all.retain(|other| other.target != plan.target);
        all.push(plan);
    }
    Ok(all)
}

/// As [`make_root`], for a new start: what the last one recorded goes.
fn make_bundle(input: &LaunchInput<'_>, namespaces: &NamespacesPlan) -> Result<RootPlan, LaunchError> {
    let bundle = &input.bundle;
    let root = make_root(input, namespaces)?;
    for name in [STATE_FILE, EXIT_FILE] {
        let path = bundle.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(LaunchError::Io {
                    act: "remove",
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(root)
}

fn make_root(input: &LaunchInput<'_>, namespaces: &NamespacesPlan) -> Result<RootPlan, LaunchError> {
    let bundle = &input.bundle;
    make_folder(bundle, 0o700)?;
    for name in ["upper", "root", "empty"] {
        make_folder(&bundle.join(name), 0o755)?;
    }
    for name in ["work", "files"] {
        make_folder(&bundle.join(name), 0o700)?;
    }
    let record = ContainerRecord {
        id: input.id.clone(),
        cgroup_parent: input.cgroup_parent.clone(),
    };
    write_record(bundle, CONTAINER_FILE, &record)?;
    let has_layers = !input.layers.is_empty();
    Ok(RootPlan {
        source: RootSource::Layers {
            lower: if has_layers {
                input.layers.clone()
            } else {
                vec![bundle.join("empty")]
            },
            writable: bundle.clone(),
        },
        mount_point: bundle.join("root"),
        read_only: input.container.read_only,
        propagation: None,
        idmap: namespaces.user.ranges().is_some(),
    })
}

fn make_folder(path: &Path, mode: u32) -> Result<(), LaunchError> {
    let failed = |act| {
        move |source| LaunchError::Io {
            act,
            path: path.to_path_buf(),
            source,
        }
    };
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(failed("make folder"))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set mode of"))
}

fn write_record(bundle: &Path, name: &str, record: &impl Serialize) -> Result<(), LaunchError> {
    let path = bundle.join(name);
    let text = serde_json::to_vec(record).map_err(std::io::Error::from);
    text.and_then(|text| fs::write(&path, text))
        .map_err(|source| LaunchError::Io {
            act: "write",
            path,
            source,
        })
}

fn shim_group(input: &LaunchInput<'_>, layout: &Layout) -> Result<Vec<PathBuf>, LaunchError> {
    let group = Group::at(layout, &input.cgroup_parent, SHIMS);
    if !group.exists() {
        Group::create(layout, &input.cgroup_parent, SHIMS, &Limits::default())?;
    }
    Ok(group.join_files())
}

fn make_cgroup(input: &LaunchInput<'_>, layout: &Layout, devices: DevicePolicy) -> Result<CgroupPlan, LaunchError> {
    let limits = Limits {
        devices: Some(devices),
        ..Limits::of(input.resources)?
    };
    let group = Group::create(layout, &input.cgroup_parent, &input.id, &limits)?;
    if group.is_frozen()? {
        // Paused just when its last run ended. Whoever joins a frozen group stands still before anybody can be told.
        group.thaw()?;
    }
    let oom = group.oom_source()?;
    Ok(CgroupPlan {
        procs: group.join_files(),
        gathering_folder: group.gathering_folder()?,
        oom_file: oom.file,
        oom_key: oom.key.to_string(),
    })
}
