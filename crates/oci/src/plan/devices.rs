//! Nodes in `/dev`: those that every container has, and those asked for.

use gantry_runtime::plan::{DeviceKindPlan, DevicePlan};

use crate::OciError;
use crate::spec::DeviceNode;

/// Mode when the document does not say, as in runc.
const MODE_DEFAULT: u32 = 0o666;

/// `brings_dev`: its `/dev` is a bind of a folder, whose nodes are there already.
pub(super) fn plan(nodes: &[DeviceNode], brings_dev: bool) -> Result<Vec<DevicePlan>, OciError> {
    if brings_dev {
        return Ok(Vec::new());
    }
    let asked = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| device(node, index))
        .collect::<Result<Vec<_>, _>>()?;
    let is_replaced = |default: &DevicePlan| asked.iter().any(|node| node.path == default.path);
    let mut all = gantry_runtime::default_devices();
    all.retain(|default| !is_replaced(default));
    all.extend(asked);
    Ok(all)
}

fn device(node: &DeviceNode, index: usize) -> Result<DevicePlan, OciError> {
    let wrong = |reason: String| OciError::invalid(format!("linux.devices[{index}]"), reason);
    let kind = match node.kind.as_str() {
        "c" | "u" => DeviceKindPlan::Character,
        "b" => DeviceKindPlan::Block,
        "p" => DeviceKindPlan::Fifo,
        other => return Err(wrong(format!("type is 'c', 'u', 'b' or 'p', not '{other}'"))),
    };
    if !node.path.is_absolute() {
        return Err(wrong(format!("path {} is not absolute", node.path.display())));
    }
    let number = |number: i64| u32::try_from(number).map_err(|_| wrong(format!("{number} is not a device number")));
    Ok(DevicePlan {
        path: node.path.clone(),
        kind,
        major: number(node.major)?,
        minor: number(node.minor)?,
        mode: node.file_mode.unwrap_or(MODE_DEFAULT) & 0o7777,
        uid: node.uid.unwrap_or(0),
        gid: node.gid.unwrap_or(0),
    })
}
