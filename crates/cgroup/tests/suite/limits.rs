//! Every limit on real groups, in whatever layout this machine has. A controller that it lacks is skipped loudly.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{Lab, some_disk};
use gantry_cgroup::{
    Ceiling, CgroupError, Controller, CpuLimits, CpusetLimits, Device, DevicePolicy, DeviceRule, Group, IoLimits,
    Limits, MemoryLimits, NetworkLimits, RdmaLimit, Swap,
};
use gantry_env::{Env, System};
use gantry_model::{ByteSize, MilliCpu};

const MIB: u64 = 1 << 20;

#[test]
fn processor_time_by_weight_quota_and_burst() {
    let Some(lab) = Lab::new("cpu", &[Controller::Cpu]) else {
        return;
    };
    let limits = Limits {
        cpu: CpuLimits {
            shares: Some(1024),
            burst_us: Some(10_000),
            ..CpuLimits::at_most(MilliCpu(250))
        },
        ..Limits::default()
    };
    let group = lab.create("one", &limits);
    lab.expect("one", ("cpu/cpu.shares", "1024"), ("cpu.weight", "100"));
    lab.expect("one", ("cpu/cpu.cfs_quota_us", "25000"), ("cpu.max", "25000 100000"));
    lab.expect("one", ("cpu/cpu.cfs_burst_us", "10000"), ("cpu.max.burst", "10000"));

    // A quota below the burst, a shorter period, and the rest as it was.
    let cpu = CpuLimits {
        quota_us: Some(Ceiling::At(5_000)),
        period_us: Some(50_000),
        burst_us: Some(0),
        ..CpuLimits::default()
    };
    group
        .update(&Limits {
            cpu,
            ..Limits::default()
        })
        .expect("updates");
    lab.expect("one", ("cpu/cpu.cfs_quota_us", "5000"), ("cpu.max", "5000 50000"));
    lab.expect("one", ("cpu/cpu.shares", "1024"), ("cpu.weight", "100"));

    let cpu = CpuLimits {
        quota_us: Some(Ceiling::Unlimited),
        idle: Some(true),
        shares: Some(512),
        ..CpuLimits::default()
    };
    group
        .update(&Limits {
            cpu,
            ..Limits::default()
        })
        .expect("updates");
    lab.expect("one", ("cpu/cpu.cfs_quota_us", "-1"), ("cpu.max", "max 50000"));
    lab.expect("one", ("cpu/cpu.idle", "1"), ("cpu.idle", "1"));
    let cpu = CpuLimits {
        idle: Some(false),
        shares: Some(2048),
        ..CpuLimits::default()
    };
    group
        .update(&Limits {
            cpu,
            ..Limits::default()
        })
        .expect("updates");
    lab.expect("one", ("cpu/cpu.shares", "2048"), ("cpu.weight", "174"));
}

#[test]
fn a_quota_grows_and_shrinks_below_a_parent_with_one() {
    let Some(lab) = Lab::new("ratio", &[Controller::Cpu]) else {
        return;
    };
    let quota = |quota_us, period_us| Limits {
        cpu: CpuLimits {
            quota_us: Some(Ceiling::At(quota_us)),
            period_us: Some(period_us),
            ..CpuLimits::default()
        },
        ..Limits::default()
    };
    let group = lab.create("outer/one", &quota(50_000, 100_000));
    lab.group("outer")
        .update(&quota(50_000, 100_000))
        .expect("the parent's");
    // Half a processor both times: either write alone would pass the parent's for a moment.
    group.update(&quota(5_000, 10_000)).expect("shrinks");
    group.update(&quota(50_000, 100_000)).expect("grows");
    let refused = group.update(&quota(90_000, 100_000));
    if lab.layout.is_v2() {
        refused.expect("version 2 lets the parent's limit rule");
    } else {
        let text = refused.expect_err("more than the parent has").to_string();
        assert!(
            text.contains("cpu.cfs_quota_us") && text.contains("parent group's share"),
            "{text}"
        );
    }
}

#[test]
fn real_time_is_granted_from_the_top_or_refused_with_a_reason() {
    let Some(lab) = Lab::new("rt", &[Controller::Cpu]) else {
        return;
    };
    let limits = Limits {
        cpu: CpuLimits {
            realtime_runtime_us: Some(1_000),
            realtime_period_us: Some(1_000_000),
            ..CpuLimits::default()
        },
        ..Limits::default()
    };
    match lab.try_create("one", &limits) {
        Ok(_) => {
            lab.expect("one", ("cpu/cpu.rt_runtime_us", "1000"), ("", ""));
            lab.create("two", &limits);
        }
        Err(CgroupError::Unsupported { controller: "cpu", .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn processors_and_memory_nodes_are_inherited_and_chosen() {
    let Some(lab) = Lab::new("cpuset", &[Controller::Cpuset]) else {
        return;
    };
    let all = lab.create("all", &Limits::default());
    all.add(std::process::id())
        .expect("a process enters without anything said");
    lab.leave();
    let limits = Limits {
        cpuset: CpusetLimits {
            cpus: Some("0".to_string()),
            mems: Some("0".to_string()),
        },
        ..Limits::default()
    };
    lab.create("one", &limits);
    lab.expect("one", ("cpuset/cpuset.cpus", "0"), ("cpuset.cpus", "0"));
    lab.expect("one", ("cpuset/cpuset.mems", "0"), ("cpuset.mems", "0"));
    let absurd = Limits {
        cpuset: CpusetLimits {
            cpus: Some("1000000".to_string()),
            mems: None,
        },
        ..Limits::default()
    };
    let text = lab
        .try_create("two", &absurd)
        .expect_err("no such processor")
        .to_string();
    assert!(
        text.contains("cpuset.cpus") && text.contains("'1000000'") && text.contains("online"),
        "{text}"
    );
}

#[test]
fn memory_with_swap_as_docker_counts_it() {
    let Some(lab) = Lab::new("memory", &[Controller::Memory]) else {
        return;
    };
    let memory = MemoryLimits {
        limit: Some(Ceiling::At(64 * MIB)),
        reservation: Some(Ceiling::At(32 * MIB)),
        swap: Some(Swap::Total(Ceiling::At(96 * MIB))),
        ..MemoryLimits::default()
    };
    let group = lab.create(
        "one",
        &Limits {
            memory,
            ..Limits::default()
        },
    );
    let bytes = |mib: u64| (mib * MIB).to_string();
    lab.expect(
        "one",
        ("memory/memory.limit_in_bytes", &bytes(64)),
        ("memory.max", &bytes(64)),
    );
    lab.expect(
        "one",
        ("memory/memory.soft_limit_in_bytes", &bytes(32)),
        ("memory.low", &bytes(32)),
    );
    lab.expect(
        "one",
        ("memory/memory.memsw.limit_in_bytes", &bytes(96)),
        ("memory.swap.max", &bytes(32)),
    );

    // Up past the old total, and down below it: each order of writes is wrong for one of them.
    for (limit, total) in [(256, 512), (16, 32), (64, 64)] {
        let memory = MemoryLimits {
            limit: Some(Ceiling::At(limit * MIB)),
            swap: Some(Swap::Total(Ceiling::At(total * MIB))),
            ..MemoryLimits::default()
        };
        group
            .update(&Limits {
                memory,
                ..Limits::default()
            })
            .expect("updates");
        lab.expect(
            "one",
            ("memory/memory.limit_in_bytes", &bytes(limit)),
            ("memory.max", &bytes(limit)),
        );
        let swap = bytes(total - limit);
        lab.expect(
            "one",
            ("memory/memory.memsw.limit_in_bytes", &bytes(total)),
            ("memory.swap.max", &swap),
        );
    }
    let stats = group.stats().expect("stats").memory;
    assert_eq!(stats.limit, Some(ByteSize(64 * MIB)));

    let memory = MemoryLimits {
        limit: Some(Ceiling::Unlimited),
        ..MemoryLimits::default()
    };
    group
        .update(&Limits {
            memory,
            ..Limits::default()
        })
        .expect("updates");
    let stats = group.stats().expect("stats").memory;
    assert_eq!(
        (stats.limit, stats.swap_limit),
        (None, None),
        "unlimited memory takes the swap limit along"
    );
}

#[test]
fn swap_alone_is_counted_beside_the_limit_that_is_there() {
    let Some(lab) = Lab::new("swap", &[Controller::Memory]) else {
        return;
    };
    let group = lab.create(
        "one",
        &Limits {
            memory: MemoryLimits::at_most(ByteSize(64 * MIB)),
            ..Limits::default()
        },
    );
    let bytes = |mib: u64| (mib * MIB).to_string();
    lab.expect(
        "one",
        ("memory/memory.memsw.limit_in_bytes", &bytes(128)),
        ("memory.swap.max", &bytes(64)),
    );
    let swap = |total| Limits {
        memory: MemoryLimits {
            swap: Some(Swap::Total(total)),
            ..MemoryLimits::default()
        },
        ..Limits::default()
    };
    group.update(&swap(Ceiling::At(80 * MIB))).expect("updates");
    lab.expect(
        "one",
        ("memory/memory.memsw.limit_in_bytes", &bytes(80)),
        ("memory.swap.max", &bytes(16)),
    );
    group.update(&swap(Ceiling::Unlimited)).expect("updates");
    assert_eq!(group.stats().expect("stats").memory.swap_limit, None);
    let text = group
        .update(&swap(Ceiling::At(MIB)))
        .expect_err("below memory")
        .to_string();
    assert!(text.contains("memory") && text.contains("together"), "{text}");
}

#[test]
fn what_one_version_lacks_of_memory_is_refused_with_a_reason() {
    let Some(lab) = Lab::new("lacks", &[Controller::Memory]) else {
        return;
    };
    let of_v1 = MemoryLimits {
        swappiness: Some(10),
        oom_kill_disable: Some(true),
        ..MemoryLimits::default()
    };
    let of_v2 = MemoryLimits {
        high: Some(Ceiling::At(32 * MIB)),
        oom_group: Some(true),
        ..MemoryLimits::default()
    };
    let is_v1 = lab.is_v1(Controller::Memory);
    let (taken, refused) = if is_v1 { (of_v1, of_v2) } else { (of_v2, of_v1) };
    let group = lab.create(
        "one",
        &Limits {
            memory: taken,
            ..Limits::default()
        },
    );
    if is_v1 {
        lab.expect("one", ("memory/memory.swappiness", "10"), ("", ""));
        assert!(
            lab.read("one", "memory/memory.oom_control", "")
                .starts_with("oom_kill_disable 1")
        );
    } else {
        lab.expect("one", ("", ""), ("memory.oom.group", "1"));
        lab.expect("one", ("", ""), ("memory.high", &(32 * MIB).to_string()));
    }
    let error = group
        .update(&Limits {
            memory: refused,
            ..Limits::default()
        })
        .expect_err("not in this version");
    assert!(
        matches!(
            error,
            CgroupError::Unsupported {
                controller: "memory",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn processes_and_a_lifted_limit() {
    let Some(lab) = Lab::new("pids", &[Controller::Pids]) else {
        return;
    };
    let limit = |limit| Limits {
        pids: Some(limit),
        ..Limits::default()
    };
    let group = lab.create("one", &limit(Ceiling::At(7)));
    assert_eq!(group.stats().expect("stats").pids.limit, Some(7));
    group.update(&limit(Ceiling::Unlimited)).expect("lifts");
    assert_eq!(group.stats().expect("stats").pids.limit, None);
}

#[test]
fn disks_by_weight_and_rate() {
    let Some(lab) = Lab::new("io", &[Controller::Io]) else {
        return;
    };
    let Some(disk) = some_disk() else {
        eprintln!("SKIPPED: no block device to limit");
        return;
    };
    let io = IoLimits {
        read_bps: BTreeMap::from([(disk, 10 * MIB)]),
        write_iops: BTreeMap::from([(disk, 50)]),
        ..IoLimits::default()
    };
    let group = lab.create(
        "one",
        &Limits {
            io,
            ..Limits::default()
        },
    );
    let v2 = format!("{disk} rbps={} wbps=max riops=max wiops=50", 10 * MIB);
    lab.expect(
        "one",
        ("blkio/blkio.throttle.read_bps_device", &format!("{disk} {}", 10 * MIB)),
        ("io.max", &v2),
    );
    lab.expect(
        "one",
        ("blkio/blkio.throttle.write_iops_device", &format!("{disk} 50")),
        ("io.max", &v2),
    );
    let io = IoLimits {
        read_bps: BTreeMap::from([(disk, 0)]),
        write_iops: BTreeMap::from([(disk, 0)]),
        ..IoLimits::default()
    };
    group
        .update(&Limits {
            io,
            ..Limits::default()
        })
        .expect("lifts");
    lab.expect("one", ("blkio/blkio.throttle.read_bps_device", ""), ("io.max", ""));

    let weight = |weight| Limits {
        io: IoLimits {
            weight: Some(weight),
            ..IoLimits::default()
        },
        ..Limits::default()
    };
    match group.update(&weight(500)) {
        Ok(()) => {
            let text = lab.read("one", "blkio/blkio.bfq.weight", "io.bfq.weight")
                + &lab.read("one", "blkio/blkio.weight", "io.weight");
            assert!(text.contains("500") || text.contains("4950"), "{text}");
        }
        Err(error) => assert!(
            matches!(error, CgroupError::Unsupported { controller: "io", .. }),
            "{error}"
        ),
    }
    assert!(matches!(group.update(&weight(5)), Err(CgroupError::Invalid { .. })));
    let nowhere = IoLimits {
        read_bps: BTreeMap::from([(Device { major: 4000, minor: 1 }, 1)]),
        ..IoLimits::default()
    };
    let text = group
        .update(&Limits {
            io: nowhere,
            ..Limits::default()
        })
        .expect_err("no such disk")
        .to_string();
    assert!(
        text.contains("4000:1") && text.contains("no such block device"),
        "{text}"
    );
}

/// Where the process that [`time_to_read`] starts finds the file.
const READER_VARIABLE: &str = "GANTRY_TEST_READER";

/// What a process of the group takes to read a file past every cache.
fn time_to_read(group: &Group, file: &Path) -> Duration {
    let mut child = Command::new(std::env::current_exe().expect("test program"))
        .args(["--exact", "limits::helper_reads_a_file"])
        .env(READER_VARIABLE, file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("spawns");
    group.add(child.id()).expect("joins");
    let start = System.monotonic();
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"go\n").expect("writes");
    assert!(child.wait().expect("ends").success(), "direct reads work here");
    System.monotonic().saturating_sub(start).to_std()
}

#[test]
fn helper_reads_a_file() {
    const PIECE: usize = 64 << 10;
    const ALIGNMENT: usize = 4096;
    let Some(path) = std::env::var_os(READER_VARIABLE) else {
        return;
    };
    std::io::stdin().read_line(&mut String::new()).expect("the word to go");
    let flags = nix::libc::O_DIRECT;
    let mut file = std::fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .expect("opens");
    let mut buffer = vec![0; PIECE + ALIGNMENT];
    let offset = buffer.as_ptr().align_offset(ALIGNMENT);
    while file.read(&mut buffer[offset..offset + PIECE]).expect("reads") > 0 {}
}

#[test]
fn a_rate_is_kept() {
    let Some(lab) = Lab::new("io-rate", &[Controller::Io]) else {
        return;
    };
    let folder = tempfile::tempdir_in("/var/tmp").expect("folder");
    let file = folder.path().join("file");
    std::fs::write(&file, vec![7; 4 * MIB as usize]).expect("file");
    std::fs::File::open(&file)
        .and_then(|file| file.sync_all())
        .expect("on the disk");
    let number = std::fs::metadata(&file).expect("file").dev();
    let disk = Device {
        major: nix::sys::stat::major(number) as u32,
        minor: nix::sys::stat::minor(number) as u32,
    };
    let limited = Limits {
        io: IoLimits {
            read_bps: BTreeMap::from([(disk, 2 * MIB)]),
            ..IoLimits::default()
        },
        ..Limits::default()
    };
    let group = match lab.try_create("one", &limited) {
        Ok(group) => group,
        // A partition, or memory.
        Err(error) => {
            eprintln!(
                "SKIPPED: {} is on nothing that can be limited: {error}",
                folder.path().display()
            );
            return;
        }
    };
    // Two seconds' worth; the kernel grants the first slice at once.
    let taken = time_to_read(&group, &file);
    assert!(taken >= Duration::from_secs(1), "4 MiB at 2 MiB/s in {taken:?}");
}

#[test]
fn huge_pages_by_size() {
    let Some(lab) = Lab::new("hugetlb", &[Controller::HugeTlb]) else {
        return;
    };
    let Some(size) = crate::support::huge_page_size() else {
        eprintln!("SKIPPED: this machine has no huge pages");
        return;
    };
    let limit = |size: &str| Limits {
        hugetlb: BTreeMap::from([(size.to_string(), 64 * MIB)]),
        ..Limits::default()
    };
    let group = lab.create("one", &limit(&size));
    let v1 = format!("hugetlb/hugetlb.{size}.limit_in_bytes");
    let v2 = format!("hugetlb.{size}.max");
    lab.expect("one", (&v1, &(64 * MIB).to_string()), (&v2, &(64 * MIB).to_string()));
    assert!(group.stats().expect("stats").hugetlb.contains_key(&size));
    let unknown = group.update(&limit("3MB")).expect_err("no such size");
    assert!(
        matches!(
            unknown,
            CgroupError::Unsupported {
                controller: "hugetlb",
                ..
            }
        ),
        "{unknown}"
    );
    let senseless = group.update(&limit("../x")).expect_err("no size at all");
    assert!(matches!(senseless, CgroupError::Invalid { .. }), "{senseless}");
}

#[test]
fn a_running_group_gets_what_it_had_no_folder_for() {
    let Some(lab) = Lab::new("late", &[Controller::HugeTlb]) else {
        return;
    };
    let Some(size) = crate::support::huge_page_size() else {
        return;
    };
    let group = lab.create("one", &Limits::default());
    let mut sleeper = crate::support::sleeper();
    group.add(sleeper.id()).expect("joins");
    let limits = Limits {
        hugetlb: BTreeMap::from([(size, 64 * MIB)]),
        ..Limits::default()
    };
    group.update(&limits).expect("updates");
    let joined = std::fs::read_to_string(format!("/proc/{}/cgroup", sleeper.id())).expect("its groups");
    let there = joined
        .lines()
        .filter(|line| line.starts_with("0::") || line.contains(":hugetlb:"))
        .any(|line| line.ends_with("/one"));
    assert!(there, "{joined}");
    group.kill_all().expect("kills");
    sleeper.wait().expect("ends");
}

#[test]
fn controllers_that_this_machine_lacks_are_named() {
    let Some(lab) = Lab::new("absent", &[]) else { return };
    let rdma = Limits {
        rdma: BTreeMap::from([(
            "mlx5_0".to_string(),
            RdmaLimit {
                handles: Some(1),
                objects: None,
            },
        )]),
        ..Limits::default()
    };
    let class = Limits {
        network: NetworkLimits {
            class_id: Some(0x0010_0001),
            priorities: BTreeMap::new(),
        },
        ..Limits::default()
    };
    for (controller, limits) in [(Controller::Rdma, rdma), (Controller::NetClass, class)] {
        let group = lab.create("one", &Limits::default());
        if lab.has(controller) {
            eprintln!("SKIPPED: this machine has {}", controller.name());
            continue;
        }
        let text = group.update(&limits).expect_err("not here").to_string();
        assert!(text.contains(controller.name()), "{text}");
    }
}

#[test]
fn files_of_version_2_by_name() {
    let Some(lab) = Lab::new("unified", &[]) else { return };
    let file = |name: &str, value: &str| Limits {
        unified: BTreeMap::from([(name.to_string(), value.to_string())]),
        ..Limits::default()
    };
    if !lab.has_unified() {
        let error = lab
            .try_create("one", &file("cgroup.max.depth", "3"))
            .expect_err("not mounted");
        assert!(matches!(error, CgroupError::Unsupported { .. }), "{error}");
        return;
    }
    let group = lab.create("one", &file("cgroup.max.depth", "3"));
    assert_eq!(lab.read_unified("one", "cgroup.max.depth"), "3");
    let unknown = group.update(&file("nothing.like.this", "1")).expect_err("no such file");
    assert!(matches!(unknown, CgroupError::Unsupported { .. }), "{unknown}");
    let escaping = group.update(&file("../cgroup.procs", "1")).expect_err("not a name");
    assert!(matches!(escaping, CgroupError::Invalid { .. }), "{escaping}");
}

#[test]
fn devices_open_shut_and_change_while_a_process_runs() {
    let Some(lab) = Lab::new("devices", &[Controller::Devices]) else {
        return;
    };
    let only = |rules: &[&str]| {
        let rules: Vec<DeviceRule> = rules.iter().filter_map(|text| DeviceRule::parse(text)).collect();
        Limits {
            devices: Some(DevicePolicy::only(&rules)),
            ..Limits::default()
        }
    };
    let group = lab.create("one", &only(&["c 1:3 rwm"]));
    let can_read = |device: &str| crate::support::can_read_within(&group, device);
    assert!(can_read("/dev/null"));
    assert!(!can_read("/dev/zero"));
    group.update(&only(&["c 1:3 rwm", "c 1:5 r"])).expect("opens one");
    assert!(can_read("/dev/null") && can_read("/dev/zero"));
    group.update(&only(&["c 1:5 r"])).expect("shuts one");
    assert!(!can_read("/dev/null") && can_read("/dev/zero"));
    let all_but = DevicePolicy::everything()
        .then(DeviceRule::parse("c 1:5 r").expect("rule"), false)
        .expect("no hole");
    let limits = Limits {
        devices: Some(all_but),
        ..Limits::default()
    };
    group.update(&limits).expect("the other way round");
    assert!(can_read("/dev/null") && !can_read("/dev/zero"));
    let open = Limits {
        devices: Some(DevicePolicy::everything()),
        ..Limits::default()
    };
    group.update(&open).expect("opens all");
    assert!(can_read("/dev/null") && can_read("/dev/zero"));
}
