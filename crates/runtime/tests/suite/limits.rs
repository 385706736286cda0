//! What the kernel enforces: memory, processes, processor time, and what it counts.

use std::fs;

use gantry_model::{ByteSize, MilliCpu};

use crate::support::{Lab, can_run, eventually};

#[test]
fn a_kill_for_lack_of_memory_is_told() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("echo ready; exec tail /dev/zero");
    lab.resources.memory_limit = Some(ByteSize::mib(16));
    let (exit, _) = lab.run();
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    // The same group, but nothing killed this time.
    lab.container.command = Some(vec!["true".to_string()]);
    let (exit, _) = lab.run();
    assert_eq!((exit.code, exit.oom_killed), (0, false));
}

#[test]
fn a_child_killed_for_lack_of_memory_counts_too() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("tail /dev/zero; echo survived");
    lab.resources.memory_limit = Some(ByteSize::mib(16));
    let (exit, output) = lab.run();
    assert_eq!((exit.code, exit.oom_killed), (0, true));
    assert!(output.contains("survived"));
}

#[test]
fn processes_are_limited() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo all started");
    lab.resources.pids_limit = Some(5);
    let (exit, output) = lab.run();
    assert_ne!(exit.code, 0);
    assert!(
        output.contains("can't fork") && !output.contains("all started"),
        "{output}"
    );
}

#[test]
fn limits_arrive_in_the_control_group_and_use_is_counted() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("echo ready; sleep 1000");
    lab.resources.cpu_limit = Some(MilliCpu(500));
    lab.resources.memory_limit = Some(ByteSize::mib(64));
    lab.resources.memory_reservation = ByteSize::mib(32);
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    let read = |v1: &str, v2: &str| {
        fs::read_to_string(lab.cgroup_file(v1, v2))
            .expect(v1)
            .trim()
            .to_string()
    };
    assert!(["50000", "50000 100000"].contains(&read("cpu/cpu.cfs_quota_us", "cpu.max").as_str()));
    assert_eq!(
        read("memory/memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert_eq!(
        read("memory/memory.soft_limit_in_bytes", "memory.low"),
        (32 << 20).to_string()
    );
    let stats = handle.stats().expect("stats");
    assert!((1..=2).contains(&stats.pids.current), "{stats:?}");
    assert!(
        stats.cpu.total_us > 0 && stats.memory.working_set > ByteSize::ZERO,
        "{stats:?}"
    );
}

#[test]
fn kill_all_reaches_what_the_first_process_started() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("trap '' TERM; sleep 1000 & sleep 1000 & echo ready; wait");
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    handle.kill_all().expect("kills");
    assert_eq!(handle.wait().expect("ends").code, 137);
    let procs = lab.cgroup_file("pids/cgroup.procs", "cgroup.procs");
    eventually("an empty group", || {
        fs::read_to_string(&procs).expect("group").is_empty().then_some(())
    });
}
