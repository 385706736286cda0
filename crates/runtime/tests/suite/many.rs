//! Many starts: nothing is left behind, and none takes long.

use std::fs;

use gantry_env::{Env, System};

use crate::support::{DEADLINE, Lab, can_run, eventually};

const STARTS: usize = 200;
/// Largest resident size of a shim, in KiB.
const SHIM_RSS_KIB_MAX: u64 = 2048;

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

#[test]
fn two_hundred_starts_leave_nothing_behind() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.container.command = Some(vec!["/bin/true".to_string()]);
    let group = lab.cgroup_file("pids/pids.max", "pids.max");
    let mut times_us = Vec::new();
    let mut shims = Vec::new();
    for _ in 0..STARTS {
        let plan = lab.prepare().expect("plan");
        let folder = std::env::temp_dir().join("gantry-runtime-test-shim");
        let shim = gantry_runtime::install_shim(&folder).expect("shim");
        let start = precise_us();
        let launched = gantry_runtime::launch(&shim, &plan).expect("launches");
        times_us.push(precise_us() - start);
        let handle = lab.open();
        assert_eq!(
            handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
            Some(0)
        );
        handle.delete().expect("deletes");
        shims.push(launched.shim_pid);
    }
    times_us.sort_unstable();
    let percentile = |percent: usize| times_us[STARTS * percent / 100];
    eprintln!(
        "launch to exec: p10 {} us, p50 {} us, p95 {} us",
        percentile(10),
        percentile(50),
        percentile(95)
    );
    eventually("all shims to end", || {
        shims.iter().all(|pid| is_gone(*pid)).then_some(())
    });
    assert!(!group.exists() && !lab.bundle().exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mount table");
    assert!(!mounts.contains(&*lab.folder.path().to_string_lossy()));
    // Other tests of this process open files at the same time, but never as many as there were starts.
    assert!(open_files() < STARTS, "{} descriptors", open_files());
}

/// Gone, or dead and only waiting for a first process that does not reap.
fn is_gone(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ") || !status.starts_with("Name:\tshim-")
}

/// Microseconds of a clock that only goes forward.
pub fn precise_us() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("clock");
    now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000
}

#[test]
fn a_shim_is_small_and_keeps_nothing_of_its_launcher() {
    if !can_run() {
        return;
    }
    let inherited = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let lab = Lab::script("echo ready; sleep 1000");
    let (launched, handle) = lab.start();
    lab.wait_for_output("ready");
    let before = System.monotonic();
    let status = fs::read_to_string(format!("/proc/{}/status", launched.shim_pid)).expect("status");
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.split_whitespace().next());
    let rss: u64 = rss.and_then(|number| number.parse().ok()).expect("a size");
    eprintln!("shim: {rss} KiB resident");
    assert!(rss <= SHIM_RSS_KIB_MAX, "{rss} KiB");
    assert!(status.contains("Threads:\t1\n"));
    // Its listener, and the connection of the handle.
    eventually("two sockets", || (sockets_of(launched.shim_pid) == 2).then_some(()));
    drop(inherited);
    assert!(System.monotonic().saturating_sub(before).to_std() < DEADLINE);
    drop(handle);
    eventually("the connection to be let go", || {
        (sockets_of(launched.shim_pid) == 1).then_some(())
    });
}

fn sockets_of(pid: u32) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let targets = links.flatten().filter_map(|link| fs::read_link(link.path()).ok());
    targets
        .filter(|path| path.to_string_lossy().starts_with("socket:"))
        .count()
}
