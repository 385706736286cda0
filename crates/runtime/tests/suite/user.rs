//! Containers with user ids of their own.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use gantry_env::{Env, System};
use gantry_model::spec::{Propagation, User, UserNamespace};
use gantry_runtime::{
    DataFile, ExecSpec, ExecStreams, HostFile, LaunchError, Network, ResolvedMount, ResolvedMountKind, UserIds,
};

use crate::many::precise_us;
use crate::support::{DEADLINE, Lab, can_run};

const FIRST: u32 = 300_000;

fn lab(script: &str) -> Lab {
    let mut lab = Lab::script(script);
    lab.container.userns = UserNamespace::Auto { size: None };
    lab.options.user_ids = Some(UserIds {
        first: FIRST,
        count: 65_536,
    });
    lab
}

fn owner(path: &std::path::Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid())
}

#[test]
fn root_inside_is_somebody_else_outside() {
    if !can_run() {
        return;
    }
    let script = "id -u; id -g; stat -c '%u %g' / /bin/busybox /etc/passwd /tmp /dev/null /dev /dev/shm /proc/self/status; \
                  touch /made; mkdir -p /deep/er; chown 1000:1001 /deep/er; chmod 4755 /made; \
                  stat -c '%u %g %a' /made /deep/er; echo changed >> /etc/passwd; stat -c '%u' /etc/passwd; \
                  cat /proc/self/uid_map; echo ready; sleep 1000";
    let lab = lab(script);
    let (launched, handle) = lab.start();
    lab.wait_for_output("ready");
    let output = lab.output();
    assert_eq!(
        output.split_whitespace().collect::<Vec<_>>().join(" "),
        format!(
            "0 0 {} 0 0 4755 1000 1001 755 0 0 {FIRST} 65536 ready",
            "0 0 ".repeat(8).trim()
        ),
        "{output}"
    );
    assert_eq!(owner(&PathBuf::from(format!("/proc/{}", launched.pid))), (FIRST, FIRST));
    let status = fs::read_to_string(format!("/proc/{}/status", launched.pid)).expect("status");
    assert!(
        status.contains(&format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\n")),
        "{status}"
    );
    // On disk the image's ids, so that the next start may have another range.
    assert_eq!(owner(&lab.bundle().join("upper/made")), (0, 0));
    assert_eq!(owner(&lab.bundle().join("upper/deep/er")), (1000, 1001));
    assert_eq!(owner(&lab.path("layer/etc/passwd")), (0, 0), "layers stay as they are");
    drop(handle);
}

#[test]
fn a_container_with_its_own_ids_is_nobody_on_the_node() {
    if !can_run() {
        return;
    }
    // Everything that stands between it and the node is taken away, but for its ids: all capabilities, no filter, the node's
    // processes, and the node's root in its reach.
    let mut lab = lab(
        "exec 2>&1; cat /host/secret; cat /proc/1/root/etc/shadow; echo x > /host/new; chown 0 /host/open; mount -t tmpfs x /host; \
         date -s 2000-01-01; hostname other; kill -0 1; mknod /tmp/disk b 8 0; echo 1 > /proc/sys/kernel/panic; \
         chroot /proc/1/root /bin/true; nsenter -t 1 -m true; echo end",
    );
    lab.container.cap_add = vec!["ALL".to_string()];
    lab.container.seccomp_unconfined = true;
    lab.container.system_paths_unconfined = true;
    lab.container.pid = gantry_model::spec::NamespaceMode::Host;
    lab.container.uts = gantry_model::spec::NamespaceMode::Host;
    lab.network = Network::Host;
    let host = lab.path("host");
    fs::create_dir(&host).expect("folder");
    fs::write(host.join("secret"), "s3cret").expect("file");
    fs::set_permissions(host.join("secret"), fs::Permissions::from_mode(0o600)).expect("mode");
    fs::write(host.join("open"), "").expect("file");
    // As an escape would find it: not mapped.
    let mut plan = lab.prepare().expect("plan");
    let bind = ResolvedMount {
        target: PathBuf::from("/host"),
        read_only: false,
        kind: ResolvedMountKind::Bind {
            source: host.clone(),
            create_host_path: false,
            propagation: Propagation::Rprivate,
        },
    };
    lab.mounts = vec![bind];
    let with_bind = lab.prepare().expect("plan");
    plan.mounts = with_bind.mounts;
    for mount in &mut plan.mounts {
        mount.idmap = None;
    }
    gantry_runtime::launch(crate::support::shim(), &plan).expect("launches");
    let before = System.now();
    lab.open().wait_timeout(DEADLINE).expect("waits").expect("ends");
    let output = lab.output();
    assert!(output.ends_with("end\n"), "{output}");
    assert!(
        !output.contains("s3cret") && !output.contains("root:*") && !output.contains("root:x"),
        "{output}"
    );
    let refusals = output.lines().filter(|line| {
        let line = line.to_lowercase();
        line.contains("denied") || line.contains("not permitted") || line.contains("can't")
    });
    // All but the kill, whose refusal the shell words differently, and the mount, which stays in its own namespace.
    assert!(refusals.count() >= 9, "{output}");
    assert!(!host.join("new").exists());
    assert_eq!(owner(&host.join("open")), (0, 0));
    assert!(System.now() >= before, "the clock of the node was not set");
    assert_ne!(nix::unistd::gethostname().expect("name"), "other");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&*host.to_string_lossy()));
}

#[test]
fn volumes_binds_files_and_memory_have_the_ids_inside() {
    if !can_run() {
        return;
    }
    let mut lab = lab(
        "stat -c '%u %g' /volume /volume/from-image /bind/file /run/secrets/token /etc/hosts /memory; \
         echo new > /volume/new; chown 33 /volume/new; cat /run/secrets/token; echo more >> /etc/hosts && echo appended; \
         echo hello > /dev/stdout",
    );
    let (volume, bind) = (lab.path("volume"), lab.path("bind"));
    fs::create_dir(&volume).expect("folder");
    fs::create_dir(&bind).expect("folder");
    fs::write(bind.join("file"), "").expect("file");
    nix::unistd::chown(&bind.join("file"), Some(1000.into()), Some(1001.into())).expect("chown");
    nix::unistd::chown(&lab.path("layer/data/from-image"), Some(7.into()), Some(8.into())).expect("chown");
    fs::rename(lab.path("layer/data"), lab.path("layer/volume")).expect("rename");
    let mount = |target: &str, kind| ResolvedMount {
        target: PathBuf::from(target),
        read_only: false,
        kind,
    };
    lab.mounts = vec![
        mount(
            "/volume",
            ResolvedMountKind::Volume {
                source: volume.clone(),
                copy_up: true,
            },
        ),
        mount(
            "/bind",
            ResolvedMountKind::Bind {
                source: bind.clone(),
                create_host_path: false,
                propagation: Propagation::Rprivate,
            },
        ),
        mount(
            "/memory",
            ResolvedMountKind::TmpfsWith {
                options: vec!["uid=5".to_string(), "gid=6".to_string()],
            },
        ),
    ];
    lab.data_files = vec![DataFile {
        target: PathBuf::from("/run/secrets/token"),
        content: b"s3cret\n".to_vec(),
        uid: 0,
        gid: 9,
        mode: 0o400,
    }];
    lab.host_files = vec![HostFile::hosts("box", &[], &[])];
    let (_, output) = lab.run();
    assert_eq!(output, "0 0\n7 8\n1000 1001\n0 9\n0 0\n5 6\ns3cret\nappended\nhello\n");
    assert_eq!(owner(&volume.join("from-image")), (7, 8));
    assert_eq!(owner(&volume.join("new")), (33, 0));
}

#[test]
fn users_execs_terminals_and_init_work_inside() {
    if !can_run() {
        return;
    }
    let mut lab = lab("id -u; tty; echo ready; read line; echo $line");
    lab.container.user = Some(User {
        user: "app".into(),
        group: None,
    });
    lab.container.tty = true;
    lab.container.init = true;
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    assert!(lab.output().starts_with("1000\n/dev/pts/0\n"), "{}", lab.output());
    let mut session = handle
        .exec(&ExecSpec {
            args: [
                "sh",
                "-c",
                "id -u; touch /from-exec; stat -c %u /from-exec; cat /proc/self/uid_map; head -1 /proc/1/status",
            ]
            .map(str::to_string)
            .to_vec(),
            user: Some("root".to_string()),
            ..ExecSpec::default()
        })
        .expect("exec");
    let Some(ExecStreams::Pipes { stdout, .. }) = session.streams.take() else {
        panic!("pipes")
    };
    let mut text = String::new();
    File::from(stdout).read_to_string(&mut text).expect("reads");
    assert_eq!(session.wait().expect("ends"), 0, "{text}");
    assert!(
        text.starts_with("0\n0\n") && text.contains(&FIRST.to_string()),
        "{text}"
    );
    handle.signal(nix::libc::SIGKILL).expect("signal");
    handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
}

#[test]
fn one_that_may_mount_does_so_in_its_own_namespace() {
    if !can_run() {
        return;
    }
    let mut lab = lab("mount -t tmpfs mine /tmp && echo mounted; umount /proc/keys 2>&1; echo ready; sleep 1000");
    lab.container.cap_add = vec!["SYS_ADMIN".to_string()];
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    assert!(lab.output().starts_with("mounted\n"), "{}", lab.output());
    assert!(
        lab.output().contains("can't unmount /proc/keys"),
        "what hides the node cannot be taken away: {}",
        lab.output()
    );
    let mut session = handle
        .exec(&ExecSpec {
            args: ["sh", "-c", "grep -c '^mine /tmp' /proc/mounts"]
                .map(str::to_string)
                .to_vec(),
            ..ExecSpec::default()
        })
        .expect("exec");
    let Some(ExecStreams::Pipes { stdout, .. }) = session.streams.take() else {
        panic!("pipes")
    };
    assert_eq!(
        std::io::read_to_string(File::from(stdout)).expect("reads"),
        "1\n",
        "an exec sees it"
    );
    session.wait().expect("ends");
}

#[test]
fn another_range_at_the_next_start_finds_the_same_files() {
    if !can_run() {
        return;
    }
    let mut lab = lab("cat /kept 2>/dev/null && stat -c %u /kept; echo kept > /kept; chown 33 /kept");
    assert_eq!(lab.run().1, "");
    lab.options.user_ids = Some(UserIds {
        first: 900_000,
        count: 1000,
    });
    assert_eq!(lab.run().1, "kept\n33\n");
    lab.options.user_ids = None;
    let refused = lab.try_start().map(|(launched, _)| launched);
    assert!(matches!(refused, Err(LaunchError::Invalid(_))));
    lab.container.privileged = true;
    let refused = lab.try_start().map(|(launched, _)| launched);
    assert!(matches!(refused, Err(LaunchError::Invalid(problem)) if problem.reason.contains("privileged")));
}

/// Not a test of speed, which other tests running at the same time would spoil, but the figures to decide by:
/// `cargo test -p gantry-runtime --test suite user::start_times -- --nocapture --ignored`.
#[test]
#[ignore = "measures"]
fn start_times_with_and_without() {
    if !can_run() {
        return;
    }
    for (name, is_own) in [
        ("node's ids", false),
        ("own ids", true),
        ("node's ids", false),
        ("own ids", true),
    ] {
        let mut lab = lab("true");
        lab.container.command = Some(vec!["/bin/true".to_string()]);
        if !is_own {
            lab.container.userns = UserNamespace::Node;
        }
        let mut times: Vec<i64> = (0..60)
            .map(|_| {
                let start = precise_us();
                let plan = lab.prepare().expect("plan");
                gantry_runtime::launch(crate::support::shim(), &plan).expect("launches");
                let time = precise_us() - start;
                lab.open().wait_timeout(DEADLINE).expect("waits").expect("ends");
                time
            })
            .collect();
        times.sort_unstable();
        eprintln!(
            "{name}: p10 {} us, median {} us, p90 {} us",
            times[6], times[30], times[54]
        );
    }
}
