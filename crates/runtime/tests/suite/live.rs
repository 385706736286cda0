//! What is done to a container from outside: pausing, limits, looking into it, copying, listening.

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use gantry_model::spec::{Resources, UserNamespace};
use gantry_model::{ByteSize, MilliCpu};
use gantry_runtime::{Attached, ChangeKind, CopyError, CopyIn, Handle, ResolvedMount, ResolvedMountKind, UserIds};

use crate::support::{DEADLINE, Lab, can_run, eventually};

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("i=0; while :; do i=$((i+1)); echo $i > /count; echo; sleep 0.001; done");
    let (launched, handle) = lab.start();
    let count = || fs::read_to_string(format!("/proc/{}/root/count", launched.pid)).unwrap_or_default();
    eventually("the first count", || (!count().trim().is_empty()).then_some(()));
    assert!(!handle.is_paused().expect("state"));
    handle.pause().expect("pauses");
    assert!(handle.is_paused().expect("state"));
    let stopped = lab.records().len();
    // The group says that it is frozen only once every process is.
    assert_eq!(lab.records().len(), stopped);
    handle.resume().expect("resumes");
    eventually("more output", || (lab.records().len() > stopped + 5).then_some(()));
    handle.pause().expect("pauses");
    handle.delete().expect("one that is paused can be deleted");
}

#[test]
fn a_pause_does_not_outlast_the_run_that_it_was_meant_for() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("echo again");
    let (_, handle) = lab.start();
    handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
    // As somebody does who has not heard of the end yet.
    handle.pause().expect("pauses an empty group");
    assert_eq!(lab.run().0.code, 0);
    let mut lab = Lab::script("echo started");
    lab.options.hold = true;
    let (_, handle) = lab.start();
    handle.pause().expect("pauses");
    handle.start().expect("starts");
    handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
}

#[test]
fn processes_and_figures_are_those_of_the_container() {
    if !can_run() {
        return;
    }
    let lab = Lab::script(
        "sleep 1000 & dd if=/dev/zero of=/file bs=1M count=4 2>/dev/null; cat /file > /dev/null; echo ready; wait",
    );
    let (launched, handle) = lab.start();
    lab.wait_for_output("ready");
    let processes = eventually("two processes", || {
        let processes = handle.processes().expect("processes");
        (processes.len() == 2).then_some(processes)
    });
    assert!(processes.contains(&(launched.pid as i32)));
    let stats = handle.stats().expect("stats");
    assert_eq!(stats.pids.current, 2);
    assert!(
        stats.memory.usage >= ByteSize::mib(4) && stats.memory.cache >= ByteSize::mib(4),
        "{:?}",
        stats.memory
    );
    assert!(stats.cpu.total_us > 0 && stats.memory.limit.is_none());
}

#[test]
fn limits_change_while_it_runs() {
    if !can_run() {
        return;
    }
    let (lab, handle) = Lab::start_idle();
    let resources = Resources {
        memory_limit: Some(ByteSize::mib(64)),
        cpu_limit: Some(MilliCpu(250)),
        pids_limit: Some(9),
        ..Resources::default()
    };
    handle.update(&resources).expect("updates");
    let read = |v1: &str, v2: &str| {
        fs::read_to_string(lab.cgroup_file(v1, v2))
            .expect(v1)
            .trim()
            .to_string()
    };
    assert_eq!(
        read("memory/memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert_eq!(read("pids/pids.max", "pids.max"), "9");
    assert!(["25000", "25000 100000"].contains(&read("cpu/cpu.cfs_quota_us", "cpu.max").as_str()));
}

fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).expect("reads");
    text
}

fn pipes(attached: Attached) -> (OwnedFd, OwnedFd) {
    match attached {
        Attached::Pipes { stdout, stderr } => (stdout, stderr),
        other @ Attached::Terminal(_) => panic!("pipes, not {other:?}"),
    }
}

#[test]
fn everybody_who_is_attached_gets_everything_and_the_log_too() {
    if !can_run() {
        return;
    }
    // More than fits into a pipe, so that the container has to wait for its readers.
    let mut lab = Lab::script(
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo problem >&2; printf 'no end'",
    );
    lab.options.hold = true;
    let (_, handle) = lab.start();
    let (first_out, first_error) = pipes(handle.attach().expect("attaches"));
    let (second_out, _second_error) = pipes(handle.attach().expect("attaches"));
    let leaver = handle.attach().expect("attaches");
    handle.start().expect("starts");
    drop(leaver);
    let second = std::thread::spawn(|| read_all(second_out));
    let text = read_all(first_out);
    assert_eq!(text.lines().count(), 20_001);
    assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 19999\nno end"));
    assert_eq!(read_all(first_error), "problem\n");
    assert_eq!(second.join().expect("thread"), text);
    handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
    assert_eq!(lab.records().len(), 20_002);
}

#[test]
fn a_terminal_is_attached_to_and_detaching_leaves_it_running() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("stty size; while read line; do echo got $line; done");
    lab.container.tty = true;
    lab.options.hold = true;
    lab.options.console_size = Some((31, 97));
    let (_, handle) = lab.start();
    let Attached::Terminal(output) = handle.attach().expect("attaches") else {
        panic!("a terminal")
    };
    handle.start().expect("starts");
    let mut input = File::from(handle.stdin().expect("input"));
    std::io::Write::write_all(&mut input, b"one\n").expect("types");
    let mut output = File::from(output);
    let mut seen = String::new();
    while !seen.contains("got one") {
        let mut chunk = [0; 256];
        let length = output.read(&mut chunk).expect("reads");
        assert_ne!(length, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    assert!(seen.contains("31 97"), "{seen}");
    drop(output);
    std::io::Write::write_all(&mut input, b"two\n").expect("types");
    lab.wait_for_output("got two");
}

#[test]
fn changes_are_told_as_added_changed_and_deleted() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "echo x > /new; echo y >> /etc/group; rm /etc/not-executable; mkdir /made; touch /made/in; rm -r /data; mkdir /data; \
         touch /data/fresh; chmod 700 /home; echo ready; sleep 1000",
    );
    fs::create_dir(lab.path("layer/data/sub")).expect("folder");
    lab.mounts = vec![ResolvedMount {
        target: PathBuf::from("/mnt/memory"),
        read_only: false,
        kind: ResolvedMountKind::Tmpfs { size: None, mode: None },
    }];
    lab.host_files = vec![gantry_runtime::HostFile::hosts("box", &[], &[])];
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    let expected = [
        ("/data", ChangeKind::Changed),
        ("/data/fresh", ChangeKind::Added),
        ("/data/from-image", ChangeKind::Deleted),
        ("/data/sub", ChangeKind::Deleted),
        ("/etc", ChangeKind::Changed),
        ("/etc/group", ChangeKind::Changed),
        ("/etc/not-executable", ChangeKind::Deleted),
        ("/home", ChangeKind::Changed),
        ("/made", ChangeKind::Added),
        ("/made/in", ChangeKind::Added),
        ("/new", ChangeKind::Added),
    ];
    let told = |handle: &Handle| -> Vec<(String, ChangeKind)> {
        let changes = handle.changes().expect("changes");
        changes
            .into_iter()
            .map(|change| (change.path.display().to_string(), change.kind))
            .collect()
    };
    let expected: Vec<(String, ChangeKind)> = expected
        .iter()
        .map(|(path, kind)| ((*path).to_string(), *kind))
        .collect();
    assert_eq!(told(&handle), expected);
    handle.kill_all().expect("kills");
    assert_eq!(told(&lab.open()), expected, "of one that has ended as well");
}

/// A stream with a folder, files, a link, a hard link, with owners and modes.
fn stream() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, content: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == tar::EntryType::Directory {
            0o750
        } else {
            0o4711
        });
        header.set_uid(33);
        header.set_gid(44);
        header.set_mtime(1_000_000_000);
        if link.is_empty() {
            builder.append_data(&mut header, name, content).expect("entry");
        } else {
            builder.append_link(&mut header, name, link).expect("entry");
        }
    };
    add("in", tar::EntryType::Directory, b"", "");
    add("in/file", tar::EntryType::Regular, b"content", "");
    add("in/link", tar::EntryType::Symlink, b"", "file");
    add("in/twin", tar::EntryType::Link, b"", "in/file");
    builder.into_inner().expect("stream")
}

fn listing(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let entries = archive.entries().expect("stream");
    entries
        .map(|entry| {
            let mut entry = entry.expect("entry");
            let header = entry.header().clone();
            let mut content = String::new();
            entry.read_to_string(&mut content).expect("content");
            format!(
                "{} {:?} {:o} {}:{} {} {:?} {content}",
                entry.path().expect("path").display(),
                header.entry_type(),
                header.mode().expect("mode"),
                header.uid().expect("uid"),
                header.gid().expect("gid"),
                header.mtime().expect("time"),
                entry.link_name().expect("link").unwrap_or_default(),
            )
        })
        .collect()
}

const LISTED: [&str; 4] = [
    "in Directory 750 33:44 1000000000 \"\" ",
    "in/file Regular 4711 33:44 1000000000 \"\" content",
    "in/link Symlink 777 33:44 1000000000 \"file\" ",
    "in/twin Link 4711 33:44 1000000000 \"in/file\" ",
];

fn copies_both_ways(handle: &Handle) {
    handle
        .copy_in(Path::new("/tmp"), Cursor::new(stream()), CopyIn::default())
        .expect("copies in");
    let mut out = Vec::new();
    handle.copy_out(Path::new("/tmp/in"), &mut out).expect("copies out");
    assert_eq!(listing(&out), LISTED);
    let found = handle.stat_path(Path::new("/tmp/in/link")).expect("stat");
    assert_eq!((found.name.as_str(), found.link), ("link", Some(PathBuf::from("file"))));
    assert_eq!(handle.stat_path(Path::new("/tmp/in/file")).expect("stat").size, 7);
    // Again over what is there.
    let owned = CopyIn {
        owner: Some((0, 0)),
        ..CopyIn::default()
    };
    handle
        .copy_in(Path::new("/tmp"), Cursor::new(stream()), owned)
        .expect("copies in again");
    let mut out = Vec::new();
    handle
        .copy_out(Path::new("/tmp/in/file"), &mut out)
        .expect("copies out");
    assert_eq!(listing(&out), ["file Regular 4711 0:0 1000000000 \"\" content"]);
    let missing = handle.copy_out(Path::new("/nope"), Vec::new());
    assert!(matches!(missing, Err(CopyError::NotFound { .. })), "{missing:?}");
    let no_folder = handle.copy_in(Path::new("/etc/passwd"), Cursor::new(stream()), CopyIn::default());
    assert!(matches!(no_folder, Err(CopyError::NotAFolder { .. })), "{no_folder:?}");
}

#[test]
fn files_are_copied_into_and_out_of_a_container_that_was_never_started() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("cat /tmp/in/file /data/from-image");
    lab.lay_out().expect("its root");
    lab.lay_out().expect("again");
    assert_eq!(lab.open().changes().expect("compares"), []);
    copies_both_ways(&lab.open());
    let changed: Vec<PathBuf> = lab
        .open()
        .changes()
        .expect("compares")
        .into_iter()
        .map(|change| change.path)
        .collect();
    assert!(changed.contains(&PathBuf::from("/tmp/in/file")), "{changed:?}");
    let groups = lab.cgroup_file("pids/pids.max", "pids.max");
    assert!(!groups.exists(), "nothing runs, so nothing is limited");
    assert_eq!(lab.run().1, "contentimage data\n", "it starts with what was copied in");
    lab.lay_out().expect("one that has ended");
    let (_, handle) = lab.start();
    handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
    lab.open().delete().expect("deletes");
    lab.lay_out().expect("its root");
    lab.open().delete().expect("deletes what was never started");
    assert!(!lab.bundle().exists());
}

#[test]
fn files_are_copied_into_and_out_of_a_container_that_runs_or_has_ended() {
    if !can_run() {
        return;
    }
    let (_lab, handle) = Lab::start_idle();
    copies_both_ways(&handle);
    let mut lab = Lab::script("cat /tmp/in/file 2>/dev/null; ls /volume; true");
    let volume = lab.path("volume");
    fs::create_dir(&volume).expect("folder");
    lab.mounts = vec![ResolvedMount {
        target: PathBuf::from("/volume"),
        read_only: false,
        kind: ResolvedMountKind::Volume {
            source: volume.clone(),
            copy_up: false,
        },
    }];
    lab.run();
    copies_both_ways(&lab.open());
    lab.open()
        .copy_in(Path::new("/volume"), Cursor::new(stream()), CopyIn::default())
        .expect("copies into a volume");
    assert_eq!(fs::metadata(volume.join("in/file")).expect("in the volume").uid(), 33);
    let refused = lab
        .open()
        .copy_in(Path::new("/dev/shm"), Cursor::new(stream()), CopyIn::default());
    assert!(refused.is_err(), "memory of a container that has ended is gone");
    assert_eq!(
        lab.run().1,
        "contentin\n",
        "it finds at the next start what was copied in"
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&*lab.folder.path().to_string_lossy()));
}

#[test]
fn owners_are_those_inside_where_ids_are_mapped() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("echo ready; sleep 1000");
    lab.container.userns = UserNamespace::Auto { size: None };
    lab.options.user_ids = Some(UserIds {
        first: 500_000,
        count: 65_536,
    });
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    copies_both_ways(&handle);
    assert_eq!(
        fs::metadata(lab.bundle().join("upper/tmp/in")).expect("on disk").uid(),
        0
    );
    handle.kill_all().expect("kills");
    handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
    copies_both_ways(&lab.open());
}

#[test]
fn no_stream_and_no_link_leads_out_of_the_root() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("echo ready; sleep 1000");
    let victim = lab.path("victim");
    fs::create_dir(&victim).expect("folder");
    fs::write(victim.join("secret"), "s3cret").expect("file");
    symlink(&victim, lab.path("layer/evil")).expect("link");
    symlink("../../../../../../../../../../../..", lab.path("layer/tmp/up")).expect("link");
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    let out = |path: &str| handle.copy_out(Path::new(path), Vec::new());
    assert!(out("/evil/secret").is_err() && out("/tmp/up/evil/secret").is_err());
    let entry = |name: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // As an attacker would write it: the safe interface refuses such names.
        let place = &mut header.as_old_mut().name;
        place[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &b"x"[..]).expect("entry");
        builder.into_inner().expect("stream")
    };
    let into =
        |folder: &str, name: &str| handle.copy_in(Path::new(folder), Cursor::new(entry(name)), CopyIn::default());
    assert!(matches!(into("/tmp", "../escaped"), Err(CopyError::Escapes { .. })));
    into("/tmp", "/absolute").expect("below the folder, as tar does");
    assert!(handle.stat_path(Path::new("/tmp/absolute")).is_ok());
    // The link leads to a path that the container has not: made inside it, not on the node.
    into("/tmp", "up/evil/through").expect("inside the root");
    let names: Vec<_> = fs::read_dir(&victim)
        .expect("folder")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(names, ["secret"]);
}
