//! The container's file system: root, mounts, files, and that none of it leads out.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use gantry_model::ByteSize;
use gantry_model::spec::Propagation;
use gantry_runtime::{DataFile, HostFile, LaunchError, ResolvedMount, ResolvedMountKind};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::support::{Lab, can_run, eventually};

fn bind(source: PathBuf, target: &str, read_only: bool) -> ResolvedMount {
    let kind = ResolvedMountKind::Bind {
        source,
        create_host_path: false,
        propagation: Propagation::Rprivate,
    };
    ResolvedMount {
        target: PathBuf::from(target),
        read_only,
        kind,
    }
}

fn volume(source: PathBuf, target: &str, copy_up: bool) -> ResolvedMount {
    ResolvedMount {
        target: PathBuf::from(target),
        read_only: false,
        kind: ResolvedMountKind::Volume { source, copy_up },
    }
}

fn tmpfs(target: &str, size: Option<ByteSize>, mode: Option<u32>) -> ResolvedMount {
    ResolvedMount {
        target: PathBuf::from(target),
        read_only: false,
        kind: ResolvedMountKind::Tmpfs { size, mode },
    }
}

#[test]
fn the_layer_is_never_written_and_a_read_only_root_not_at_all() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("echo changed > /data/from-image; rm /etc/not-executable; cat /data/from-image");
    assert_eq!(lab.run().1, "changed\n");
    assert_eq!(
        fs::read_to_string(lab.path("layer/data/from-image")).expect("layer"),
        "image data\n"
    );
    assert!(lab.path("layer/etc/not-executable").exists());

    let mut lab = Lab::script(
        "exec 2>&1; echo x > /data/new; echo $?; echo y > /scratch/new && echo z > /dev/shm/new && echo fine",
    );
    lab.container.read_only = true;
    lab.mounts = vec![tmpfs("/scratch", None, None)];
    let (_, output) = lab.run();
    assert!(
        output.contains("Read-only file system\n") && output.contains("1\nfine\n"),
        "{output}"
    );
}

#[test]
fn what_shows_or_changes_the_node_is_hidden_or_read_only() {
    if !can_run() {
        return;
    }
    let script = "wc -c < /proc/interrupts; wc -c < /proc/keys; ls /sys/firmware | wc -l; \
                  for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/mm/ksm/run /sys/fs/cgroup/x; do \
                  (echo 1 > $f) 2>/dev/null && echo wrote $f; done; \
                  mkdir /sys/fs/cgroup/memory/x 2>/dev/null && echo made a group; cat /proc/mounts";
    let (_, output) = Lab::script(script).run();
    assert!(output.starts_with("0\n0\n0\n"), "{output}");
    assert!(
        !output.contains("wrote") && !output.contains("made a group"),
        "{output}"
    );
    for line in [
        "sysfs /sys sysfs ro,",
        "proc /proc proc rw,nosuid,nodev,noexec",
        "shm",
        "mqueue /dev/mqueue mqueue",
    ] {
        assert!(output.contains(line), "{line} is not in\n{output}");
    }
    assert!(
        !output.contains("/dev/vda"),
        "a mount of the node is visible:\n{output}"
    );
}

#[test]
fn devices_are_there_and_others_do_not_work() {
    if !can_run() {
        return;
    }
    let script = "ls /dev; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo x > /dev/null; \
                  for l in stdout fd ptmx; do readlink /dev/$l; done; mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg; echo x > /dev/full; echo end";
    let (_, output) = Lab::script(script).run();
    let names: Vec<&str> = output.lines().take_while(|line| *line != "3").collect();
    let expected = [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(names, expected);
    assert!(
        output.contains("3\n3\n/proc/self/fd/1\n/proc/self/fd\npts/ptmx\n"),
        "{output}"
    );
    assert!(output.contains("/tmp/kmsg: Operation not permitted"), "{output}");
    assert!(output.contains("No space left on device"), "{output}");
}

#[test]
fn memory_mounts_have_their_size_and_mode() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "stat -c %a /scratch /big; head -c 2000000 /dev/zero > /scratch/x; wc -c < /scratch/x; df -k /dev/shm | tail -1",
    );
    lab.mounts = vec![
        tmpfs("/scratch", Some(ByteSize::mib(1)), Some(0o700)),
        tmpfs("/big", None, None),
    ];
    lab.container.shm_size = Some(ByteSize::mib(8));
    let (_, output) = lab.run();
    assert!(output.starts_with("700\n1777\n"), "{output}");
    assert!(output.contains("\n1048576\n"), "{output}");
    assert!(output.contains(" 8192 "), "{output}");
}

#[test]
fn binds_reach_the_node_unless_read_only() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "cat /a/in /file; echo out > /a/out; (echo no > /b/out) 2>&1; (echo no > /b/sub/out) 2>&1; echo end",
    );
    let source = lab.path("source");
    fs::create_dir_all(source.join("sub")).expect("folder");
    fs::write(source.join("in"), "inside\n").expect("file");
    lab.mounts = vec![
        bind(source.clone(), "/a", false),
        bind(source.clone(), "/b", true),
        bind(source.join("in"), "/file", false),
    ];
    let (_, output) = lab.run();
    assert!(
        output.starts_with("inside\ninside\n") && output.ends_with("end\n"),
        "{output}"
    );
    assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
    assert_eq!(
        fs::read_to_string(source.join("out")).expect("written through"),
        "out\n"
    );
    lab.mounts = vec![bind(lab.path("nowhere"), "/a", false)];
    let refused = lab.try_start().map(|(launched, _)| launched);
    assert!(matches!(refused, Err(LaunchError::Invalid(problem)) if problem.reason.contains("nowhere does not exist")));
}

#[test]
fn a_new_volume_is_filled_from_the_image_once() {
    if !can_run() {
        return;
    }
    let mut lab =
        Lab::script("cat /data/from-image; ls -ln /data; readlink /data/sub/link; echo kept > /data/from-image");
    let data = lab.path("layer/data");
    fs::create_dir(data.join("sub")).expect("folder");
    symlink("/etc/passwd", data.join("sub/link")).expect("link");
    fs::hard_link(data.join("from-image"), data.join("twin")).expect("hard link");
    nix::unistd::chown(&data.join("sub"), Some(1000.into()), Some(1001.into())).expect("chown");
    fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o2750)).expect("chmod");
    nix::unistd::chown(&data, Some(7.into()), Some(8.into())).expect("chown");
    let volume_folder = lab.path("volume");
    fs::create_dir(&volume_folder).expect("volume");
    lab.mounts = vec![volume(volume_folder.clone(), "/data", true)];
    let (_, output) = lab.run();
    assert!(
        output.starts_with("image data\n") && output.contains("/etc/passwd\n"),
        "{output}"
    );
    let copy = fs::metadata(volume_folder.join("sub")).expect("copied");
    assert_eq!((copy.uid(), copy.gid(), copy.mode() & 0o7777), (1000, 1001, 0o2750));
    let top = fs::metadata(&volume_folder).expect("volume");
    assert_eq!((top.uid(), top.gid()), (7, 8));
    let (file, twin) = (
        fs::metadata(volume_folder.join("from-image")),
        fs::metadata(volume_folder.join("twin")),
    );
    assert_eq!(file.expect("copied").ino(), twin.expect("copied").ino());
    assert_eq!(
        fs::read_to_string(data.join("from-image")).expect("layer"),
        "image data\n"
    );
    let (_, output) = lab.run();
    assert!(
        output.contains("kept\n"),
        "a volume with content is not filled again:\n{output}"
    );

    let mut lab = Lab::script("ls /data | wc -l");
    fs::create_dir(lab.path("volume")).expect("volume");
    lab.mounts = vec![volume(lab.path("volume"), "/data", false)];
    assert_eq!(lab.run().1, "0\n");
}

#[test]
fn configs_secrets_and_host_files_are_placed() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "cat /run/secrets/token /etc/app/config; stat -c '%a %u %g' /run/secrets/token; (echo x > /run/secrets/token) 2>&1; \
         cat /etc/hosts | tail -2; echo extra >> /etc/hosts && tail -1 /etc/hosts; cat /etc/resolv.conf; \
         grep -c /run/secrets/token /proc/mounts; grep /run/secrets/token /proc/mounts",
    );
    fs::create_dir_all(lab.path("layer/etc")).expect("folder");
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        lab.path("layer/etc/resolv.conf"),
    )
    .expect("link");
    let file = |target: &str, content: &str, uid, mode| DataFile {
        target: PathBuf::from(target),
        content: content.as_bytes().to_vec(),
        uid,
        gid: 7,
        mode,
    };
    lab.data_files = vec![
        file("/run/secrets/token", "s3cret\n", 1000, 0o400),
        file("/etc/app/config", "a=b\n", 0, 0o444),
    ];
    let address = "10.1.2.3".parse().expect("address");
    let extra = [("db".to_string(), "10.9.9.9".parse().expect("address"))];
    lab.host_files = vec![
        HostFile::hosts("box", &[address], &extra),
        HostFile {
            target: PathBuf::from("/etc/resolv.conf"),
            content: b"nameserver 10.0.0.1\n".to_vec(),
        },
    ];
    let (_, output) = lab.run();
    assert!(output.starts_with("s3cret\na=b\n400 1000 7\n"), "{output}");
    assert!(output.contains("Read-only file system"), "{output}");
    assert!(
        output.contains("10.9.9.9\tdb\n10.1.2.3\tbox\nextra\nnameserver 10.0.0.1\n1\n"),
        "{output}"
    );
    assert!(
        output.contains("tmpfs /run/secrets/token tmpfs ro,nosuid,nodev,noexec"),
        "{output}"
    );
    let on_disk = |path: &Path| fs::read(path).is_ok_and(|text| text.windows(6).any(|part| part == b"s3cret"));
    for name in [
        "process.json",
        "container.json",
        "state.json",
        "upper/run/secrets/token",
        "shim.log",
    ] {
        assert!(!on_disk(&lab.bundle().join(name)), "the secret is in {name}");
    }
}

#[test]
fn links_in_the_image_do_not_lead_mounts_out_of_the_root() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("cat /evil/mounted/in /etc/config; ls /");
    let victim = lab.path("victim");
    fs::create_dir(&victim).expect("folder");
    let source = lab.path("source");
    fs::create_dir(&source).expect("folder");
    fs::write(source.join("in"), "bound\n").expect("file");
    symlink(&victim, lab.path("layer/evil")).expect("absolute link");
    fs::remove_dir_all(lab.path("layer/proc")).expect("folder");
    symlink(
        format!("../../../../../../..{}", victim.display()),
        lab.path("layer/up"),
    )
    .expect("relative link");
    lab.mounts = vec![bind(source, "/evil/mounted", false), tmpfs("/up/memory", None, None)];
    let config = DataFile {
        target: PathBuf::from("/etc/config"),
        content: b"config\n".to_vec(),
        uid: 0,
        gid: 0,
        mode: 0o444,
    };
    symlink(victim.join("config"), lab.path("layer/etc/config")).expect("link");
    lab.data_files = vec![config];
    let (exit, output) = lab.run();
    assert_eq!(
        (exit.code, output.starts_with("bound\nconfig\n")),
        (0, true),
        "{output}"
    );
    assert_eq!(fs::read_dir(&victim).expect("folder").count(), 0);
}

/// A mount of the node, gone with the value.
struct NodeMount(PathBuf);

impl NodeMount {
    fn tmpfs(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("folder");
        mount(Some("test"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount");
        Self(path)
    }
}

impl Drop for NodeMount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn later_mounts_of_the_node_are_seen_only_where_asked_for() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "echo ready; while [ ! -e /slave/later/mark ]; do sleep 0.01; done; ls /private/later /shared/later",
    );
    let shared = NodeMount::tmpfs(lab.path("shared"));
    mount(None::<&str>, &shared.0, None::<&str>, MsFlags::MS_SHARED, None::<&str>).expect("share");
    fs::create_dir(shared.0.join("later")).expect("folder");
    let with = |target: &str, propagation| ResolvedMount {
        target: PathBuf::from(target),
        read_only: false,
        kind: ResolvedMountKind::Bind {
            source: shared.0.clone(),
            create_host_path: false,
            propagation,
        },
    };
    lab.mounts = vec![
        with("/private", Propagation::Rprivate),
        with("/slave", Propagation::Rslave),
        with("/shared", Propagation::Rshared),
    ];
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    let later = NodeMount::tmpfs(shared.0.join("later"));
    fs::write(later.0.join("mark"), "").expect("mark");
    assert_eq!(
        handle
            .wait_timeout(crate::support::DEADLINE)
            .expect("waits")
            .map(|exit| exit.code),
        Some(0)
    );
    let output = lab.output();
    assert!(output.contains("/private/later:\n\n/shared/later:\nmark"), "{output}");
}

#[test]
fn output_is_logged_line_by_line_and_rotated() {
    if !can_run() {
        return;
    }
    let lab =
        Lab::script("i=0; while [ $i -lt 3000 ]; do echo line $i of the output; i=$((i+1)); done; printf 'no end'");
    let mut plan = lab.prepare().expect("plan");
    let attendance = plan.attendance.as_mut().expect("a shim");
    attendance.log.size_max = 40_000;
    attendance.log.files_max = 10;
    let folder = std::env::temp_dir().join("gantry-runtime-test-shim");
    let shim = gantry_runtime::install_shim(&folder).expect("shim");
    gantry_runtime::launch(&shim, &plan).expect("launches");
    assert_eq!(
        lab.open()
            .wait_timeout(crate::support::DEADLINE)
            .expect("waits")
            .map(|exit| exit.code),
        Some(0)
    );
    let records = lab.records();
    assert_eq!(records.len(), 3001);
    assert!(
        records
            .iter()
            .take(3000)
            .enumerate()
            .all(|(number, (_, text))| *text == format!("line {number} of the output"))
    );
    assert_eq!(records[3000].1, "no end");
    assert!(lab.path("log.3").exists() && fs::metadata(lab.path("log")).expect("log").len() <= 40_000);
    let long = Lab::script("head -c 40000 /dev/zero | tr '\\0' x; echo");
    long.run();
    let lengths: Vec<usize> = long.records().iter().map(|(_, text)| text.len()).collect();
    assert_eq!(lengths, [16_384, 16_384, 7_232]);
    eventually("the log", || lab.path("log").exists().then_some(()));
}
