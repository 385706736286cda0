//! Devices: of the node by path, and those of the container device interface, GPUs among them.

use gantry_model::spec::{ContainerSpec, DeviceSpec};

use super::keys;
use super::scalar::{integer, some_text, texts};
use crate::yaml::cursor::Cursor;

/// Names all GPUs in the container device interface.
const GPU_CLASS: &str = "nvidia.com/gpu";

/// Most GPUs that a count may ask for; nodes have 16.
const GPUS_MAX: i64 = 1024;

/// The words of a device's permissions.
const PERMISSIONS_ALL: &str = "rwm";

/// `devices`, `device_cgroup_rules`, `gpus` and `deploy.resources.reservations.devices`.
pub(crate) fn devices(service: &Cursor<'_>, container: &mut ContainerSpec) {
    if let Some(list) = service.get("devices") {
        for item in list.items() {
            if item.is_map() {
                container.devices.extend(long(&item));
            } else {
                short(&item, container);
            }
        }
    }
    if let Some(list) = service.get("device_cgroup_rules") {
        container.device_cgroup_rules = list.items().iter().filter_map(rule).collect();
    }
    if let Some(gpus) = service.get("gpus") {
        if gpus.is_list() {
            for item in gpus.items() {
                item.check_keys(keys::DEVICE_REQUEST);
                container.cdi_devices.extend(request(&item));
            }
        } else if some_text(&gpus).as_deref() == Some("all") {
            container.cdi_devices.push(format!("{GPU_CLASS}=all"));
        } else {
            gpus.error_with(
                "names no GPUs",
                "write all, or a list of {count: …} or {device_ids: […]}",
            );
        }
    }
    reserved(service, container);
}

fn reserved(service: &Cursor<'_>, container: &mut ContainerSpec) {
    let Some(deploy) = service.get("deploy") else { return };
    let Some(resources) = deploy.get("resources") else {
        return;
    };
    let Some(reservations) = resources.get("reservations") else {
        return;
    };
    let Some(list) = reservations.get("devices") else {
        return;
    };
    for item in list.items() {
        if !item.check_keys(keys::DEVICE_REQUEST) {
            item.error(format!("expected a mapping, found {}", item.node.kind()));
            continue;
        }
        let capabilities = item.read("capabilities", texts).unwrap_or_default();
        if capabilities.is_empty() {
            item.error_with("'capabilities' is missing", "write capabilities: [gpu]");
        } else if !capabilities.iter().any(|word| word == "gpu") && item.get("device_ids").is_none() {
            item.error_with(
                format!(
                    "nothing on a node is known by the capabilities {}",
                    capabilities.join(", ")
                ),
                "use gpu, or name devices by their CDI names in device_ids",
            );
        } else {
            container.cdi_devices.extend(request(&item));
        }
    }
}

/// GPUs by count or id; an id that is a CDI name already stays as it is.
fn request(at: &Cursor<'_>) -> Vec<String> {
    if let Some(driver) = at.get("driver")
        && let Some(word) = some_text(&driver)
        && !["nvidia", "cdi"].contains(&word.as_str())
    {
        driver.error_with(
            format!("device driver '{word}' is not known"),
            "use nvidia or cdi: devices are found by the CDI files of the node",
        );
    }
    if let Some(ids) = at.get("device_ids") {
        if at.get("count").is_some() {
            ids.error_key("'count' and 'device_ids' exclude each other", None);
        }
        let name = |id: &String| {
            if id.contains('=') {
                id.clone()
            } else {
                format!("{GPU_CLASS}={id}")
            }
        };
        return texts(&ids).unwrap_or_default().iter().map(name).collect();
    }
    let Some(count_at) = at.get("count") else {
        return vec![format!("{GPU_CLASS}=all")];
    };
    if matches!(some_text(&count_at).as_deref(), Some("all" | "-1")) {
        return vec![format!("{GPU_CLASS}=all")];
    }
    let count = integer(&count_at, 1, GPUS_MAX).unwrap_or(0);
    (0..count).map(|index| format!("{GPU_CLASS}={index}")).collect()
}

fn is_permissions(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|letter| PERMISSIONS_ALL.contains(letter))
}

/// `PATH[:PATH[:rwm]]`, or a CDI name.
fn short(at: &Cursor<'_>, container: &mut ContainerSpec) {
    let Some(text) = some_text(at) else { return };
    let is_cdi = |(kind, name): (&str, &str)| kind.contains('/') && !name.is_empty();
    if !text.starts_with('/') && text.split_once('=').is_some_and(is_cdi) {
        container.cdi_devices.push(text);
        return;
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts.as_slice() {
        [source] => (*source, *source, PERMISSIONS_ALL),
        [source, permissions] if is_permissions(permissions) => (*source, *source, *permissions),
        [source, target] => (*source, *target, PERMISSIONS_ALL),
        [source, target, permissions] => (*source, *target, *permissions),
        _ => ("", "", ""),
    };
    container.devices.extend(device(at, source, target, permissions));
}

fn long(at: &Cursor<'_>) -> Option<DeviceSpec> {
    at.check_keys(keys::DEVICE);
    let Some(source) = at.read("source", some_text) else {
        at.error("'source' is missing");
        return None;
    };
    let target = at.read("target", some_text).unwrap_or_else(|| source.clone());
    let permissions = at.read("permissions", some_text);
    device(at, &source, &target, permissions.as_deref().unwrap_or(PERMISSIONS_ALL))
}

fn device(at: &Cursor<'_>, source: &str, target: &str, permissions: &str) -> Option<DeviceSpec> {
    if !source.starts_with('/') || !target.starts_with('/') || !is_permissions(permissions) {
        at.error_with(
            "is not a device",
            "write /dev/NAME[:/dev/INSIDE[:rwm]], or a CDI name such as vendor.com/class=name",
        );
        return None;
    }
    Some(DeviceSpec {
        source: source.to_string(),
        target: target.to_string(),
        permissions: permissions.to_string(),
    })
}

/// `TYPE MAJOR:MINOR PERMISSIONS`, as the kernel writes them.
fn rule(at: &Cursor<'_>) -> Option<String> {
    let text = some_text(at)?;
    let number = |part: &str| part == "*" || (!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let words: Vec<&str> = text.split(' ').collect();
    let valid = match words.as_slice() {
        ["a" | "b" | "c", numbers, permissions] => {
            numbers
                .split_once(':')
                .is_some_and(|(major, minor)| number(major) && number(minor))
                && is_permissions(permissions)
        }
        _ => false,
    };
    if !valid {
        at.error_with(
            format!("'{text}' is not a device rule"),
            "write TYPE MAJOR:MINOR PERMISSIONS, such as c 42:* rmw",
        );
        return None;
    }
    Some(text)
}
