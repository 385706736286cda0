//! `features`: what this runtime can do, as the specification's features document has it.

use gantry_cgroup::Layout;
use serde_json::json;

use crate::{OCI_VERSION, OciError};

/// Options that are understood without being handed to a file system.
const MOUNT_OPTIONS: &[&str] = &[
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "idmap",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "tmpcopyup",
    "unbindable",
];

/// Shows the document.
pub(super) fn show() -> Result<(), OciError> {
    let layout = Layout::detect()?;
    let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let document = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "cgroup": {
                "v1": !layout.v1_mounts().is_empty(),
                "v2": layout.is_v2(),
                "systemd": false,
                "systemdUser": false,
                "rdma": true,
            },
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": apparmor.is_ok_and(|text| text.starts_with('Y'))},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
    });
    println!("{document:#}");
    Ok(())
}
