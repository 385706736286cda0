//! Many starts: nothing is left behind, and none takes long.

use std::fs;

use gantry_env::{Env, System};
use gantry_model::spec::UserNamespace;
use gantry_runtime::UserIds;

use crate::support::{DEADLINE, Lab, can_run, eventually, run_apart};

/// Starts one after the other, whose times are told; at most so many as [`STARTS_VARIABLE`] says.
const STARTS: usize = 100;
/// Starts at random, all together; another number by [`STARTS_VARIABLE`].
const RANDOM_STARTS: u64 = 1000;
const STARTS_VARIABLE: &str = "GANTRY_TEST_STARTS";
const RANDOM_VARIABLE: &str = "GANTRY_TEST_RANDOM";
/// Containers at the same time.
const LABS: u64 = 8;
/// Largest resident size of a shim, in KiB.
const SHIM_RSS_KIB_MAX: u64 = 2048;

#[test]
fn many_starts_leave_nothing_behind() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.container.command = Some(vec!["/bin/true".to_string()]);
    let group = lab.cgroup_file("pids/pids.max", "pids.max");
    let mut times_us = Vec::new();
    let mut shims = Vec::new();
    let starts = wanted_starts().map_or(STARTS, |wanted| STARTS.min(wanted as usize));
    for _ in 0..starts {
        let start = precise_us();
        let (launched, handle) = lab.start();
        times_us.push(precise_us() - start);
        assert_eq!(
            handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
            Some(0)
        );
        handle.delete().expect("deletes");
        shims.push(launched.shim_pid);
    }
    times_us.sort_unstable();
    let percentile = |percent: usize| times_us[starts * percent / 100];
    eprintln!(
        "create to exec: p10 {} us, p50 {} us, p95 {} us",
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
}

/// In a process of its own: other tests of this one open files at the same time.
#[test]
fn starts_and_stops_at_random_leave_nothing_behind() {
    if !can_run() {
        return;
    }
    let told = run_apart("many::helper_starts_and_stops_at_random", RANDOM_VARIABLE);
    eprintln!("{told}");
    assert!(told.contains("nothing left"), "{told}");
}

fn wanted_starts() -> Option<u64> {
    std::env::var(STARTS_VARIABLE).ok()?.parse().ok()
}

#[test]
fn helper_starts_and_stops_at_random() {
    if std::env::var_os(RANDOM_VARIABLE).is_none() {
        return;
    }
    let starts = wanted_starts().unwrap_or(RANDOM_STARTS);
    let seed = u64::from(std::process::id());
    let before = descriptors();
    let start = precise_us();
    let labs: Vec<Lab> = (0..LABS).map(|_| Lab::new()).collect();
    let marks: Vec<String> = labs.iter().map(|lab| lab.parent.clone()).collect();
    let folders: Vec<String> = labs.iter().map(|lab| lab.folder.path().display().to_string()).collect();
    std::thread::scope(|scope| {
        for (number, lab) in labs.into_iter().enumerate() {
            scope.spawn(move || live_at_random(lab, seed * LABS + number as u64, starts / LABS));
        }
    });
    eprintln!("seed {seed}: {starts} starts in {} ms", (precise_us() - start) / 1000);
    eventually("every process of the containers to end", || {
        let groups = processes()
            .into_iter()
            // One that only waits to be reaped holds nothing any more, but its group's name in version 2.
            .filter(|pid| !is_zombie(*pid))
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default());
        let is_ours = |groups: String| marks.iter().any(|mark| groups.contains(&format!("/{mark}/")));
        (!groups.into_iter().any(is_ours)).then_some(())
    });
    assert_eq!(descriptors(), before, "descriptors of this process");
    for (table, marks) in [("/proc/self/mountinfo", &folders), ("/proc/self/mounts", &folders)] {
        let text = fs::read_to_string(table).expect("mount table");
        assert!(!marks.iter().any(|mark| text.contains(mark)), "{text}");
    }
    for mark in &marks {
        for controller in ["cpu", "memory", "pids", "freezer", "devices", ""] {
            let group = std::path::Path::new("/sys/fs/cgroup").join(controller).join(mark);
            assert!(!group.exists(), "{} is left", group.display());
        }
    }
    println!("nothing left");
}

/// Where each descriptor leads. Namespaces held open would show here.
fn descriptors() -> Vec<String> {
    let links = fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let mut targets: Vec<String> = links
        .filter_map(|link| fs::read_link(link.path()).ok())
        .map(|target| target.display().to_string())
        // That of this very listing.
        .filter(|target| !target.starts_with("/proc/"))
        .collect();
    targets.sort();
    targets
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn is_zombie(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("State:\tZ")
}

/// One container after the other, each with another life.
fn live_at_random(mut lab: Lab, seed: u64, starts: u64) {
    let mut state = seed;
    let mut dice = |sides: u64| {
        // Knuth's MMIX; the upper bits are the random ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    for _ in 0..starts {
        let is_short = dice(2) == 0;
        let script = if is_short { "exit 3" } else { "sleep 1000 & sleep 1000" };
        lab.container.command = Some(["/bin/sh", "-c", script].map(str::to_string).to_vec());
        lab.container.init = dice(4) == 0;
        lab.container.tty = dice(4) == 0;
        lab.options.hold = dice(4) == 0;
        let has_own_ids = dice(3) == 0;
        lab.container.userns = if has_own_ids {
            UserNamespace::Auto { size: None }
        } else {
            UserNamespace::Node
        };
        lab.options.user_ids = has_own_ids.then_some(UserIds {
            first: 200_000,
            count: 65_536,
        });
        if dice(8) == 0 {
            lab.container.command = Some(vec!["/nope".to_string()]);
            lab.try_start()
                .map(|(launched, _)| launched)
                .expect_err("there is no such program");
            continue;
        }
        let (_, handle) = lab.start();
        if lab.options.hold && dice(2) == 0 {
            handle.delete().expect("deletes one that was never started");
            continue;
        }
        if lab.options.hold {
            handle.start().expect("starts");
        }
        match dice(4) {
            0 if is_short => assert_eq!(
                handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
                Some(3)
            ),
            1 => {
                // It may have ended already; whatever comes out, nothing may be left.
                let spec = gantry_runtime::ExecSpec {
                    args: ["/bin/sleep", "1000"].map(str::to_string).to_vec(),
                    tty: dice(2) == 0,
                    ..Default::default()
                };
                let _ = handle.exec(&spec);
                let _ = handle.attach();
            }
            2 => drop(handle.pause()),
            _ => handle.signal(nix::libc::SIGKILL).expect("signal"),
        }
        if dice(2) == 0 {
            handle.delete().expect("deletes");
            continue;
        }
        // Started again over what is left of it.
        handle.kill_all().expect("kills");
        handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
    }
}

/// Gone, or dead and only waiting for a first process that does not reap.
pub fn is_gone(pid: u32) -> bool {
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
