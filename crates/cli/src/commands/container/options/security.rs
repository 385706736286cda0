//! Capabilities, filters and devices.

use clap::Args;
use gantry_model::Problem;
use gantry_model::spec::{ContainerSpec, DeviceSpec};

use super::wrong;
use crate::failure::file_problem;

/// Names all GPUs in the container device interface.
const GPU_CLASS: &str = "nvidia.com/gpu";

// What it may do.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Security and devices")]
pub struct SecurityOptions {
    /// Give it a capability; ALL for all
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability; ALL for all
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// All capabilities and devices, nothing masked, no filter
    #[arg(long)]
    privileged: bool,
    /// no-new-privileges, seccomp=FILE, seccomp=unconfined, apparmor=PROFILE, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Give it a device of the node, or one by its CDI name
    #[arg(long, value_name = "PATH[:PATH[:rwm]]")]
    device: Vec<String>,
    /// Rule for devices, as the kernel writes it
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// GPUs, through the container device interface: all, a count, or device=ID
    #[arg(long, value_name = "GPUS")]
    gpus: Option<String>,
}

impl SecurityOptions {
    pub(super) fn apply(&self, container: &mut ContainerSpec) -> Result<(), Problem> {
        container.privileged = self.privileged;
        container.cap_add = self.cap_add.iter().map(|name| capability(name)).collect();
        container.cap_drop = self.cap_drop.iter().map(|name| capability(name)).collect();
        container.device_cgroup_rules = self.device_cgroup_rule.clone();
        for text in &self.device {
            match device(text)? {
                Device::Node(device) => container.devices.push(device),
                Device::Cdi(name) => container.cdi_devices.push(name),
            }
        }
        if let Some(text) = &self.gpus {
            container.cdi_devices.extend(gpus(text)?);
        }
        self.security_opt.iter().try_for_each(|text| security(container, text))
    }
}

fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_string()
}

enum Device {
    Node(DeviceSpec),
    Cdi(String),
}

fn device(text: &str) -> Result<Device, Problem> {
    let remedy = "write /dev/NAME, /dev/NAME:/dev/INSIDE, /dev/NAME:/dev/INSIDE:rwm, or a CDI name such as vendor.com/class=name";
    if !text.starts_with('/') {
        return match text.split_once('=') {
            Some((kind, name)) if kind.contains('/') && !name.is_empty() => Ok(Device::Cdi(text.to_string())),
            _ => Err(wrong("--device", text, "is neither a path nor a CDI name", remedy)),
        };
    }
    let is_permissions = |part: &str| !part.is_empty() && part.chars().all(|letter| "rwm".contains(letter));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, permissions] if is_permissions(permissions) => (*source, *source, *permissions),
        [source, target] => (*source, *target, "rwm"),
        [source, target, permissions] if is_permissions(permissions) => (*source, *target, *permissions),
        [_, _, permissions] => {
            return Err(wrong(
                "--device",
                text,
                format!("'{permissions}' is not of r, w and m"),
                remedy,
            ));
        }
        _ => return Err(wrong("--device", text, "has too many parts", remedy)),
    };
    if !target.starts_with('/') {
        return Err(wrong("--device", text, format!("'{target}' is not absolute"), remedy));
    }
    Ok(Device::Node(DeviceSpec {
        source: source.to_string(),
        target: target.to_string(),
        permissions: permissions.to_string(),
    }))
}

fn gpus(text: &str) -> Result<Vec<String>, Problem> {
    let plain = text.trim_matches('"');
    if plain == "all" {
        return Ok(vec![format!("{GPU_CLASS}=all")]);
    }
    if let Ok(count @ 1..) = plain.parse::<u32>() {
        return Ok((0..count).map(|index| format!("{GPU_CLASS}={index}")).collect());
    }
    match plain.strip_prefix("device=") {
        Some(ids) if !ids.is_empty() => Ok(ids.split(',').map(|id| format!("{GPU_CLASS}={id}")).collect()),
        _ => Err(wrong(
            "--gpus",
            text,
            "names no GPUs",
            "write all, a count, or device=ID,ID",
        )),
    }
}

fn security(container: &mut ContainerSpec, text: &str) -> Result<(), Problem> {
    let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    match (key, value) {
        ("no-new-privileges", "" | "true") => container.no_new_privileges = true,
        ("no-new-privileges", "false") => container.no_new_privileges = false,
        ("seccomp", "unconfined") => container.seccomp_unconfined = true,
        ("seccomp", path) if !path.is_empty() => {
            let path = std::path::Path::new(path);
            let profile = std::fs::read_to_string(path).map_err(|error| file_problem("read", path, &error))?;
            if let Err(error) = serde_json::from_str::<serde_json::Value>(&profile) {
                let reason = format!("its file is no JSON: {error}");
                return Err(wrong(
                    "--security-opt",
                    text,
                    reason,
                    "give it a profile as Docker writes them",
                ));
            }
            container.seccomp_profile = Some(profile);
        }
        ("apparmor", profile) if !profile.is_empty() => container.apparmor_profile = Some(profile.to_string()),
        ("systempaths", "unconfined") => container.system_paths_unconfined = true,
        _ => {
            let remedy =
                "write no-new-privileges, seccomp=FILE, seccomp=unconfined, apparmor=PROFILE or systempaths=unconfined";
            return Err(wrong("--security-opt", text, "is no security option", remedy));
        }
    }
    Ok(())
}
