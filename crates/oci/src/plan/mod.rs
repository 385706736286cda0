//! From `config.json` to a launch plan: every property is mapped, or refused with its name. Nothing is looked up in the root.

mod devices;
mod hooks;
mod mounts;
mod namespaces;
mod process;

use std::path::{Path, PathBuf};

use gantry_cgroup::{Group, Layout};
use gantry_runtime::LaunchPlan;
use gantry_runtime::plan::{CgroupPlan, RootPlan, RootSource};

use crate::OciError;
use crate::spec::{Linux, NamespaceKind, Spec};

pub use hooks::plans as hook_plans;
pub use process::{Streams, plan as process_plan};

/// A container to be planned.
#[derive(Debug)]
pub struct Input<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its document.
    pub spec: &'a Spec,
    /// Where the document lies; relative paths start here.
    pub bundle: &'a Path,
    /// Folder for its socket and records.
    pub state: &'a Path,
    /// The hierarchies of this machine.
    pub layout: &'a Layout,
    /// Its control group, which exists.
    pub group: &'a Group,
    /// Streams of its first process.
    pub streams: Streams,
}

/// The plan of a container that is created and waits to be started.
///
/// # Errors
/// The first property that makes no sense or is not supported.
pub fn plan(input: &Input<'_>) -> Result<LaunchPlan, OciError> {
    let none = Linux::default();
    let linux = input.spec.linux.as_ref().unwrap_or(&none);
    check(input.spec, linux)?;
    let process = input.spec.process.as_ref().ok_or(OciError::Unsupported {
        property: "process",
        reason: "a container without one has nothing to start; give it one",
    })?;
    let namespaces = namespaces::plan(linux)?;
    let oom = input.group.oom_source()?;
    let has_cgroup_namespace = linux
        .namespaces
        .iter()
        .any(|namespace| namespace.kind == NamespaceKind::Cgroup);
    let cgroups = mounts::CgroupView {
        layout: input.layout,
        group: (!has_cgroup_namespace).then_some(input.group),
    };
    let brings_dev = mounts::brings_dev(&input.spec.mounts);
    Ok(LaunchPlan {
        id: input.id.to_string(),
        bundle: input.state.to_path_buf(),
        attendance: None,
        hold: true,
        root: root(input, linux)?,
        namespaces,
        hostname: input.spec.hostname.clone().filter(|name| !name.is_empty()),
        domain_name: input.spec.domainname.clone().filter(|name| !name.is_empty()),
        mounts: mounts::plan(&input.spec.mounts, input.bundle, &cgroups)?,
        files: Vec::new(),
        devices: devices::plan(&linux.devices, brings_dev)?,
        device_links: !brings_dev,
        masked_paths: linux.masked_paths.clone(),
        read_only_paths: linux
            .readonly_paths
            .iter()
            .cloned()
            .chain(mounts::read_only_cgroups(&input.spec.mounts, input.layout))
            .collect(),
        sysctls: linux.sysctl.clone(),
        cgroup: CgroupPlan {
            procs: input.group.join_files(),
            gathering_folder: input.group.gathering_folder()?,
            oom_file: oom.file,
            oom_key: oom.key.to_string(),
        },
        process: process::plan(process, linux, &input.streams)?,
        init: false,
        hooks: hooks::plan(input.spec, input.bundle),
    })
}

fn root(input: &Input<'_>, linux: &Linux) -> Result<RootPlan, OciError> {
    let root = input
        .spec
        .root
        .as_ref()
        .ok_or_else(|| OciError::invalid("root", "it is required"))?;
    let folder = absolute(input.bundle, &root.path);
    let folder = folder
        .canonicalize()
        .map_err(|source| OciError::io("find root.path", &folder, source))?;
    if !folder.is_dir() {
        return Err(OciError::invalid(
            "root.path",
            format!("{} is not a folder", folder.display()),
        ));
    }
    Ok(RootPlan {
        mount_point: folder.clone(),
        source: RootSource::Folder(folder),
        read_only: root.readonly,
        propagation: mounts::propagation(linux.rootfs_propagation.as_deref())?,
        // Whoever writes the document has given the files the ids that they have outside.
        idmap: false,
    })
}

/// A path of the document, which may be relative to the bundle.
pub fn absolute(bundle: &Path, path: &Path) -> PathBuf {
    bundle.join(path)
}

/// What is refused as a whole.
fn check(spec: &Spec, linux: &Linux) -> Result<(), OciError> {
    let is_known = spec.oci_version.split('.').next() == Some("1");
    if !is_known {
        let reason = format!("'{}' is not a version 1.x of the specification", spec.oci_version);
        return Err(OciError::invalid("ociVersion", reason));
    }
    if linux.intel_rdt.as_ref().is_some_and(|value| !value.is_null()) {
        return Err(OciError::Unsupported {
            property: "linux.intelRdt",
            reason: "cache and memory bandwidth are not divided here; leave it out",
        });
    }
    let is_labelled = |label: &Option<String>| label.as_deref().is_some_and(|label| !label.is_empty());
    let process_label = spec
        .process
        .as_ref()
        .is_some_and(|process| is_labelled(&process.selinux_label));
    if is_labelled(&linux.mount_label) || process_label {
        return Err(OciError::Unsupported {
            property: "linux.mountLabel and process.selinuxLabel",
            reason: "SELinux labels are not applied; leave them out (with Podman: --security-opt label=disable)",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
