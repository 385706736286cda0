//! Mapping without a kernel: what a document becomes, property by property.

use gantry_runtime::plan::{DeviceKindPlan, MountSource, NamespacePlan, UserNamespacePlan};
use serde_json::json;

use super::*;
use crate::spec::{DeviceNode, Mount, Process};

fn linux(value: serde_json::Value) -> Linux {
    serde_json::from_value(value).expect("valid")
}

#[test]
fn namespaces_that_are_not_named_are_the_nodes() {
    let plan = namespaces::plan(&linux(json!({"namespaces": [
        {"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/netns/x"}, {"type": "ipc", "path": ""},
    ]})))
    .expect("maps");
    assert_eq!((plan.pid, plan.ipc), (NamespacePlan::New, NamespacePlan::New));
    assert_eq!(plan.network, NamespacePlan::Path("/run/netns/x".into()));
    assert_eq!((plan.uts, plan.user), (NamespacePlan::Host, UserNamespacePlan::Host));
}

#[test]
fn default_devices_are_replaced_by_those_of_the_same_path() {
    let node = DeviceNode {
        path: "/dev/null".into(),
        kind: "p".to_string(),
        ..DeviceNode::default()
    };
    let plan = devices::plan(std::slice::from_ref(&node), false).expect("maps");
    let null: Vec<_> = plan
        .iter()
        .filter(|device| device.path == Path::new("/dev/null"))
        .collect();
    assert!(
        matches!(null[..], [device] if device.kind == DeviceKindPlan::Fifo),
        "{null:?}"
    );
    assert_eq!(plan.len(), gantry_runtime::default_devices().len());
    assert!(
        devices::plan(&[node], true).expect("maps").is_empty(),
        "a bound /dev has its own"
    );
}

#[test]
fn mounts_keep_their_order_and_relative_sources_start_in_the_bundle() {
    let mounts: Vec<Mount> = serde_json::from_value(json!([
        {"destination": "/a", "type": "tmpfs", "source": "x", "options": ["ro", "size=1k"]},
        {"destination": "b", "source": "folder", "options": ["rbind", "size=ignored"]},
    ]))
    .expect("valid");
    let Ok(layout) = Layout::detect() else {
        eprintln!("SKIPPED: no control groups");
        return;
    };
    let view = mounts::CgroupView {
        layout: &layout,
        group: None,
    };
    let plans = mounts::plan(&mounts, Path::new("/bundle"), &view).expect("maps");
    let MountSource::FileSystem {
        kind, source, options, ..
    } = &plans[0].source
    else {
        panic!("{plans:?}");
    };
    assert_eq!((kind.as_str(), source.as_str()), ("tmpfs", "x"));
    assert_eq!(options, &[("size".to_string(), Some("1k".to_string()))]);
    assert_eq!(plans[1].target, Path::new("/b"));
    assert!(
        matches!(&plans[1].source, MountSource::Bind { path, recursive: true, .. } if path == Path::new("/bundle/folder"))
    );
}

#[test]
fn a_process_is_mapped_by_numbers() {
    let process: Process = serde_json::from_value(json!({
        "args": ["a"], "cwd": "/", "user": {"uid": 1, "gid": 2, "additionalGids": null},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX}],
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "ambient": null},
        "scheduler": {"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
    }))
    .expect("valid");
    let plan = process::plan(&process, &Linux::default(), &Streams::default()).expect("maps");
    assert_eq!(plan.rlimits, [(4, 0, u64::MAX)]);
    assert_eq!((plan.capabilities.bounding, plan.capabilities.effective), (0x21, 0));
    let scheduler = plan.scheduler.expect("one");
    assert_eq!((scheduler.policy, scheduler.flags, scheduler.priority), (1, 1, 10));
}
