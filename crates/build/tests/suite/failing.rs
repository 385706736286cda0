//! What goes wrong is said with its place, and leaves nothing behind.

use std::fs;

use gantry_build::Cancel;
use gantry_model::Class;
use gantry_model::build::BuildEvent;

use crate::support::{Lab, can_run};

#[test]
fn a_failing_command_names_its_line_and_status() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    let (built, seen) = lab.try_build("FROM busybox\n\nRUN echo before; echo oh >&2; exit 3\nRUN echo never\n");
    let problem = built.expect_err("it fails");
    assert_eq!(problem.object, "Dockerfile:3");
    assert!(problem.reason.contains("exit code: 3"), "{problem}");
    let failed = seen.events.iter().find_map(|event| match event {
        BuildEvent::Failed { exit_code, .. } => *exit_code,
        _ => None,
    });
    assert_eq!(failed, Some(3));
    let streams: Vec<u8> = seen
        .events
        .iter()
        .filter_map(|event| match event {
            BuildEvent::Log { stream, .. } => Some(*stream),
            _ => None,
        })
        .collect();
    assert!(streams.contains(&1) && streams.contains(&2), "{streams:?}");
    assert!(!seen.log().contains("never"));
    let (built, _) = lab.try_build("FROM busybox\nRUN [\"/no/such/program\"]\n");
    assert!(built.expect_err("it fails").reason.contains("/no/such/program"));
    assert_eq!(
        fs::read_dir(lab.folder.path().join("build/mounts"))
            .expect("folder")
            .count(),
        0
    );
}

#[test]
fn what_is_missing_is_named() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    for (dockerfile, object, word) in [
        ("FROM busybox\nCOPY none /\n", "Dockerfile:2", "\"/none\""),
        (
            "FROM busybox AS a\nFROM busybox\nCOPY --from=a /none /\n",
            "Dockerfile:3",
            "stage a",
        ),
        ("FROM nowhere:1\n", "image nowhere:1", "nowhere"),
        ("FROM busybox\nRUM true\n", "Dockerfile:2", "RUM"),
        (
            "FROM busybox\nRUN --mount=type=bind,source=none,target=/x true\n",
            "Dockerfile:2",
            "none",
        ),
    ] {
        let (built, _) = lab.try_build(dockerfile);
        let problem = built.expect_err(dockerfile);
        assert!(
            problem.object == object && problem.to_string().contains(word),
            "{dockerfile}: {problem}"
        );
    }
    let mut lab = lab;
    lab.request.spec.platforms = vec!["linux/s390x".to_string()];
    let (built, _) = lab.try_build("FROM scratch\nCOPY <<EOF /x\nx\nEOF\n");
    built.expect("nothing of it runs");
    let (built, _) = lab.try_build("FROM busybox\nRUN true\n");
    assert!(built.expect_err("it cannot run").remedy.contains("--node"));
}

#[test]
fn a_cancelled_build_kills_its_command() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    let cancel = Cancel::new().expect("event");
    let mut person = lab.person();
    let on_log = cancel.clone();
    person.on_event = Box::new(move |event| {
        if matches!(event, BuildEvent::Log { .. }) {
            on_log.set();
        }
    });
    let (built, _) = lab.build_as("FROM busybox\nRUN echo ready; sleep 987654\n", person, &cancel);
    assert_eq!(built.expect_err("nobody waits").class, Class::Unavailable);
    let running = fs::read_dir("/proc").expect("proc").flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.windows(6).any(|part| part == b"987654")
    });
    assert!(!running);
    // What was made before is cache for the next build, and nothing is locked.
    lab.build("FROM busybox\nRUN echo fine\n");
}

#[test]
fn a_full_disk_is_said_and_leaves_a_store_that_works() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let point = folder.path().join("small");
    fs::create_dir(&point).expect("folder");
    let options = Some("size=24m");
    nix::mount::mount(
        Some("tmpfs"),
        &point,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        options,
    )
    .expect("mounts");
    {
        let inner = tempfile::tempdir_in(&point).expect("folder");
        let lab = Lab::in_folder(inner, format!("gantry-build-test-{}-full", std::process::id()));
        lab.write("a", "a");
        let busybox = fs::read("/bin/busybox").expect("busybox");
        fs::write(lab.context().join("busybox"), busybox).expect("file");
        let (built, _) = lab.try_build(
            "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"dd\", \"if=/dev/zero\", \"of=/big\", \"bs=1M\", \"count=64\"]\n",
        );
        let problem = built.expect_err("there is no room");
        assert_eq!(problem.object, "Dockerfile:3", "{problem}");
        // The room is free again.
        let built = lab.build("FROM scratch\nCOPY a /a\n");
        assert_eq!(built.read("a"), "a");
    }
    nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).expect("unmounts");
}
