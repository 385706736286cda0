//! Real groups below a parent of the test's own.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use gantry_cgroup::{CgroupError, DeviceRule, Group, Layout, Limits};
use gantry_model::{ByteSize, MilliCpu};

/// The layout and a parent that nobody else uses; none where groups cannot be made.
fn lab(test: &str) -> Option<(Layout, String)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: control groups need root");
        return None;
    }
    let layout = Layout::detect().expect("control groups");
    Some((layout, format!("gantry-test-{test}-{}", std::process::id())))
}

fn remove(layout: &Layout, parent: &str, group: &Group) {
    group.remove().expect("the group goes");
    Group::at(layout, parent, "").remove().expect("the parent goes");
    assert!(group.procs_files().iter().all(|file| !file.exists()));
}

#[test]
fn a_group_is_made_limited_taken_over_and_removed() {
    let Some((layout, parent)) = lab("life") else { return };
    let limits = Limits {
        cpu: Some(MilliCpu(250)),
        memory: Some(ByteSize::mib(32)),
        memory_reservation: ByteSize::mib(16),
        pids: Some(10),
        devices: Some(vec![DeviceRule::EVERYTHING]),
    };
    let group = Group::create(&layout, &parent, "one", &limits).expect("makes");
    let again = Group::create(&layout, &parent, "one", &limits).expect("takes over");
    assert_eq!(group, again);
    assert!(group.procs_files().iter().all(|file| file.exists()));
    assert_eq!(group.stats().expect("stats").pids, 0);
    assert_eq!(group.oom_kills().expect("count"), 0);
    group.kill_all().expect("nothing to kill");
    remove(&layout, &parent, &group);
    assert!(
        group.remove().is_ok() && group.kill_all().is_ok(),
        "what is gone is gone"
    );
}

#[test]
fn everything_in_a_group_and_below_is_killed() {
    let Some((layout, parent)) = lab("kill") else { return };
    let group = Group::create(&layout, &parent, "one", &Limits::default()).expect("makes");
    let mut forking = Command::new("sh")
        .args(["-c", "while :; do sleep 0.001 & done"])
        .spawn()
        .expect("spawns");
    let mut below = Command::new("sleep").arg("1000").spawn().expect("spawns");
    group.add(forking.id()).expect("joins");
    group.add(below.id()).expect("joins");
    let subgroup = group.gathering_folder().expect("folder").join("exec-1");
    fs::create_dir(&subgroup).expect("subgroup");
    fs::write(subgroup.join("cgroup.procs"), below.id().to_string()).expect("joins below");
    group.kill_all().expect("kills");
    assert_eq!(forking.wait().expect("ends").signal(), Some(9));
    assert_eq!(below.wait().expect("ends").signal(), Some(9));
    remove(&layout, &parent, &group);
}

#[test]
fn what_the_kernel_refuses_names_the_file() {
    let Some((layout, parent)) = lab("refuse") else { return };
    let group = Group::create(&layout, &parent, "one", &Limits::default()).expect("makes");
    let gone = group.add(u32::MAX >> 1).expect_err("no such process");
    assert!(
        matches!(&gone, CgroupError::Write { path, .. } if path.ends_with("cgroup.procs")),
        "{gone}"
    );
    remove(&layout, &parent, &group);
    assert!(group.stats().is_err());
}
