//! The life of real groups below a parent of the test's own.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::support::{Lab, sleeper};
use gantry_cgroup::{Ceiling, CgroupError, Controller, CpuLimits, DevicePolicy, Limits, MemoryLimits};
use gantry_model::{ByteSize, MilliCpu};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

#[test]
fn a_group_is_made_limited_taken_over_and_removed() {
    let Some(lab) = Lab::new("life", &[]) else { return };
    let limits = Limits {
        cpu: CpuLimits::at_most(MilliCpu(250)),
        memory: MemoryLimits {
            reservation: Some(Ceiling::At(16 << 20)),
            ..MemoryLimits::at_most(ByteSize::mib(32))
        },
        pids: Some(Ceiling::At(10)),
        devices: Some(DevicePolicy::everything()),
        ..Limits::default()
    };
    let group = lab.create("one", &limits);
    assert_eq!(group, lab.create("one", &limits));
    assert!(group.exists() && group.procs_files().iter().all(|file| file.exists()));
    assert_eq!(group.stats().expect("stats").pids.current, 0);
    assert_eq!(group.oom_kills().expect("count"), 0);
    group.kill_all().expect("nothing to kill");
    group.remove().expect("the group goes");
    assert!(!group.exists());
    assert!(
        group.remove().is_ok() && group.kill_all().is_ok(),
        "what is gone is gone"
    );
    assert!(group.stats().is_err());
}

#[test]
fn everything_in_a_group_and_below_is_killed() {
    let Some(lab) = Lab::new("kill", &[]) else { return };
    let group = lab.create("one", &Limits::default());
    let mut forking = Command::new("sh")
        .args(["-c", "while :; do sleep 0.001 & done"])
        .spawn()
        .expect("spawns");
    let mut below = sleeper();
    group.add(forking.id()).expect("joins");
    group.add(below.id()).expect("joins");
    let subgroup = group.gathering_folder().expect("folder").join("exec-1");
    fs::create_dir(&subgroup).expect("subgroup");
    fs::write(subgroup.join("cgroup.procs"), below.id().to_string()).expect("joins below");
    group.kill_all().expect("kills");
    assert_eq!(forking.wait().expect("ends").signal(), Some(9));
    assert_eq!(below.wait().expect("ends").signal(), Some(9));
}

#[test]
fn a_paused_group_stands_still_goes_on_and_dies() {
    let Some(lab) = Lab::new("pause", &[]) else { return };
    let group = lab.create("one", &Limits::default());
    let mut counting = Command::new("sh")
        .args(["-c", "while :; do :; done"])
        .spawn()
        .expect("spawns");
    group.add(counting.id()).expect("joins");
    let used = || group.stats().expect("stats").cpu.total_us;
    group.freeze().expect("pauses");
    assert!(group.is_frozen().expect("state"));
    let before = used();
    for _ in 0..1000 {
        assert_eq!(used(), before, "a paused process uses nothing");
    }
    group.thaw().expect("goes on");
    assert!(!group.is_frozen().expect("state"));
    while used() == before {
        std::thread::yield_now();
    }
    group.freeze().expect("pauses");
    group.kill_all().expect("kills what is paused");
    assert_eq!(counting.wait().expect("ends").signal(), Some(9));
}

#[test]
fn every_process_gets_a_signal() {
    let Some(lab) = Lab::new("signal", &[]) else { return };
    let group = lab.create("one", &Limits::default());
    let mut children = [sleeper(), sleeper()];
    for child in &children {
        group.add(child.id()).expect("joins");
    }
    let mut listed = group.processes().expect("lists");
    listed.sort_unstable();
    let mut expected = children.each_ref().map(|child| child.id() as i32);
    expected.sort_unstable();
    assert_eq!(listed, expected);
    group.signal_all(nix::libc::SIGTERM).expect("signals");
    for child in &mut children {
        assert_eq!(child.wait().expect("ends").signal(), Some(nix::libc::SIGTERM));
    }
}

#[test]
fn figures_follow_what_a_process_uses() {
    let Some(lab) = Lab::new("stats", &[]) else { return };
    let group = lab.create("one", &Limits::default());
    let file = std::env::temp_dir().join(&lab.parent);
    let script = "read go; dd if=/dev/zero of=\"$0\" bs=1M count=8 conv=fsync 2>/dev/null; i=0; \
                  while [ $i -lt 100000 ]; do i=$((i+1)); done; read stop";
    let mut child = Command::new("sh")
        .args(["-c", script])
        .arg(&file)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("spawns");
    group.add(child.id()).expect("joins");
    let mut input = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut input, b"go\n").expect("writes");
    let mut stats = group.stats().expect("stats");
    // On a slow machine `dd` alone uses that much; only the shell is left when it has ended.
    while stats.cpu.user_us < 10_000 || stats.pids.current > 1 {
        stats = group.stats().expect("stats");
    }
    assert!(stats.cpu.total_us >= stats.cpu.user_us, "{stats:?}");
    assert!(
        stats.memory.usage > ByteSize::ZERO && !stats.memory.details.is_empty(),
        "{stats:?}"
    );
    assert!(stats.memory.peak.is_none_or(|peak| peak >= ByteSize(1)));
    assert_eq!(stats.pids.current, 1);
    if stats.io.is_empty() {
        eprintln!("SKIPPED: the temporary folder's file system does no input and output that is counted");
    } else {
        let written: u64 = stats.io.values().map(|device| device.write_bytes).sum();
        assert!(written > 0, "{stats:?}");
    }
    if lab.layout.is_v2() {
        assert!(stats.cpu_pressure.is_some() || !std::path::Path::new("/proc/pressure/cpu").exists());
    }
    drop(input);
    child.wait().expect("ends");
    fs::remove_file(file).expect("removes");
}

#[test]
fn a_kill_for_lack_of_memory_is_told_and_counted() {
    let Some(lab) = Lab::new("oom", &[Controller::Memory]) else {
        return;
    };
    let limits = Limits {
        memory: MemoryLimits::at_most(ByteSize::mib(16)),
        ..Limits::default()
    };
    let group = lab.create("one", &limits);
    let mut watch = group.watch_oom().expect("watches");
    let mut greedy = Command::new("sh")
        .args(["-c", "read go; tr '\\0' x < /dev/zero | tail -c 200000000 > /dev/null"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("spawns");
    group.add(greedy.id()).expect("joins");
    std::io::Write::write_all(&mut greedy.stdin.take().expect("piped"), b"go\n").expect("writes");
    let mut kills = 0;
    while kills == 0 {
        let mut polled = [PollFd::new(watch.fd(), PollFlags::POLLIN)];
        let ready = poll(&mut polled, PollTimeout::from(20_000u16)).expect("polls");
        assert!(ready > 0, "nobody told of the kill");
        kills += watch.take().expect("counts");
        if kills == 0 {
            // Told before it is counted: the process's end comes after.
            greedy.wait().expect("ends");
            kills += watch.take().expect("counts");
        }
    }
    greedy.wait().expect("ends");
    assert!(group.oom_kills().expect("count") >= 1);
    assert!(group.stats().expect("stats").memory.oom_kills >= 1);
}

#[test]
fn a_group_that_ends_as_one_loses_every_process_to_lack_of_memory() {
    let Some(lab) = Lab::new("oom-group", &[Controller::Memory]) else {
        return;
    };
    if lab.is_v1(Controller::Memory) {
        eprintln!("SKIPPED: only version 2 kills a group as one");
        return;
    }
    let limits = Limits {
        memory: MemoryLimits {
            oom_group: Some(true),
            ..MemoryLimits::at_most(ByteSize::mib(16))
        },
        ..Limits::default()
    };
    let group = lab.create("one", &limits);
    let mut bystander = sleeper();
    group.add(bystander.id()).expect("joins");
    let mut greedy = Command::new("sh")
        .args(["-c", "read go; tail /dev/zero"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("spawns");
    group.add(greedy.id()).expect("joins");
    std::io::Write::write_all(&mut greedy.stdin.take().expect("piped"), b"go\n").expect("writes");
    assert_eq!(greedy.wait().expect("ends").signal(), Some(9));
    assert_eq!(bystander.wait().expect("ends").signal(), Some(9));
}

#[test]
fn what_the_kernel_refuses_names_the_file() {
    let Some(lab) = Lab::new("refuse", &[]) else { return };
    let group = lab.create("one", &Limits::default());
    let gone = group.add(u32::MAX >> 1).expect_err("no such process");
    assert!(
        matches!(&gone, CgroupError::Write { path, .. } if path.ends_with("cgroup.procs")),
        "{gone}"
    );
    assert!(gone.to_string().contains("the process has ended"), "{gone}");
}
