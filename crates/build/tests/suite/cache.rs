//! Which steps work again, and which do not.

use std::fs::{self, File};
use std::time::{Duration, UNIX_EPOCH};

use gantry_model::DurationMs;

use crate::support::{Lab, can_run};

const DOCKERFILE: &str = "FROM busybox\nRUN echo one > /one\nCOPY early /early\nRUN echo two > /two\nCOPY late /late\nRUN echo three > /three\n";

fn lab() -> Lab {
    let lab = Lab::with_busybox();
    lab.write("early/a", "a");
    lab.write("late/b", "b");
    lab
}

#[test]
fn a_second_build_does_nothing_and_sends_nothing() {
    if !can_run() {
        return;
    }
    let lab = lab();
    let first = lab.build(DOCKERFILE);
    assert_eq!(first.seen.worked().len(), 5, "{:?}", first.seen.steps());
    assert_eq!(first.seen.sent.len(), 2);
    let second = lab.build(DOCKERFILE);
    assert_eq!(second.seen.worked(), Vec::<String>::new());
    assert_eq!(second.seen.sent.len(), 0);
    assert_eq!(second.result, first.result);
}

#[test]
fn a_touched_file_is_the_same_file_and_a_changed_one_is_not() {
    if !can_run() {
        return;
    }
    let lab = lab();
    lab.build(DOCKERFILE);
    let late = lab.context().join("late/b");
    let file = File::options().write(true).open(&late).expect("opens");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000))
        .expect("touches");
    assert_eq!(lab.build(DOCKERFILE).seen.worked(), Vec::<String>::new());
    fs::write(&late, "changed").expect("writes");
    let built = lab.build(DOCKERFILE);
    assert_eq!(built.seen.worked(), ["COPY late /late", "RUN echo three > /three"]);
    assert_eq!(built.seen.sent.len(), 1);
    assert_eq!(built.read("late/b"), "changed");
    // A new file in a folder that nothing copies is none of the build's business.
    lab.write("elsewhere/c", "c");
    assert_eq!(lab.build(DOCKERFILE).seen.worked(), Vec::<String>::new());
}

#[test]
fn modes_count_and_unused_arguments_do_not() {
    if !can_run() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let mut lab = lab();
    let dockerfile = "FROM busybox\nCOPY late /late\nARG USED=1\nRUN echo $USED > /used\n";
    lab.build(dockerfile);
    fs::set_permissions(lab.context().join("late/b"), fs::Permissions::from_mode(0o755)).expect("mode");
    assert_eq!(lab.build(dockerfile).seen.worked().len(), 2);
    lab.request
        .spec
        .args
        .insert("UNUSED".to_string(), Some("x".to_string()));
    assert_eq!(lab.build(dockerfile).seen.worked(), Vec::<String>::new());
    lab.request.spec.args.insert("USED".to_string(), Some("2".to_string()));
    let built = lab.build(dockerfile);
    assert_eq!(built.seen.worked().len(), 1);
    assert_eq!(built.read("used"), "2\n");
}

#[test]
fn without_the_cache_the_same_inputs_make_the_same_image() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    lab.request.spec.no_cache = true;
    lab.request.source_date_epoch = Some(1_700_000_000);
    let dockerfile = format!(
        "{DOCKERFILE}RUN mkdir -p /d/e && date > /dev/null && ln -s e /d/f && touch /d/e/g\nWORKDIR /place/here\nCMD [\"/bin/sh\"]\n"
    );
    let first = lab.build(&dockerfile);
    // Later by more than what times are rounded to.
    let start = std::fs::metadata(lab.context())
        .expect("context")
        .modified()
        .expect("time");
    while start.elapsed().expect("forward") < Duration::from_millis(1100) {
        std::thread::yield_now();
    }
    let second = lab.build(&dockerfile);
    assert_eq!(second.seen.worked().len(), 7);
    assert_eq!(second.result, first.result);
    assert_eq!(first.document.created.as_deref(), Some("2023-11-14T22:13:20Z"));
}

#[test]
fn the_cache_survives_a_restart_and_can_be_pruned() {
    if !can_run() {
        return;
    }
    let lab = lab();
    let first = lab.build(DOCKERFILE);
    let usage = lab.builder.usage().expect("usage");
    assert_eq!((usage.records.len(), usage.contents > 0), (6, true));
    assert_eq!(
        lab.builder
            .prune(DurationMs::secs(3600), false)
            .expect("prunes")
            .removed
            .len(),
        0
    );
    assert_eq!(lab.builder.prune(DurationMs(0), true).expect("prunes").removed.len(), 6);
    assert_eq!(lab.build(DOCKERFILE).seen.worked(), Vec::<String>::new());
    assert_eq!(
        lab.builder.prune(DurationMs(0), false).expect("prunes").removed.len(),
        6
    );
    assert_eq!(lab.build(DOCKERFILE).seen.worked().len(), 5);
    assert_eq!(lab.build(DOCKERFILE).seen.worked(), Vec::<String>::new());
    assert!(first.path("three").is_some());
}

#[test]
fn stages_that_the_target_does_not_need_are_left_out() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    let dockerfile = "FROM busybox AS one\nRUN echo 1 > /one\nFROM busybox AS never\nRUN false\nFROM busybox AS last\nCOPY --from=one /one /copied\n";
    let built = lab.build(dockerfile);
    assert_eq!(built.read("copied"), "1\n");
    assert_eq!(built.seen.worked().len(), 2);
    lab.request.spec.target = Some("one".to_string());
    let built = lab.build(dockerfile);
    assert_eq!(built.seen.worked(), Vec::<String>::new());
    assert!(built.path("copied").is_none());
}

#[test]
fn stages_that_do_not_need_each_other_work_side_by_side() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    lab.request.spec.no_cache = true;
    // Each waits until the other has begun: a queue would wait for ever.
    let stage = |name: &str, other: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,target=/shared touch /shared/{name}; n=0; while [ ! -e /shared/{other} ]; do \
             sleep 0.01; n=$((n+1)); if [ $n -gt 2000 ]; then exit 1; fi; done; echo {name} > /{name}\n"
        )
    };
    let dockerfile = format!(
        "{}{}FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
        stage("a", "b"),
        stage("b", "a")
    );
    let built = lab.build(&dockerfile);
    assert_eq!(
        (built.read("a"), built.read("b")),
        ("a\n".to_string(), "b\n".to_string())
    );
}
