//! Containers with a terminal, with an open standard input, with a first process of ours.

use std::fs::File;
use std::io::Write;

use crate::support::{DEADLINE, Lab, can_run, eventually};

#[test]
fn a_terminal_is_logged_and_typed_into() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("read line; tty; echo $TERM; echo got $line; stty size; echo to console > /dev/console");
    lab.container.tty = true;
    let (_, handle) = lab.start();
    handle.resize(40, 120).expect("resize");
    File::from(handle.stdin().expect("standard input"))
        .write_all(b"typed\n")
        .expect("types");
    assert_eq!(
        handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
        Some(0)
    );
    assert_eq!(
        lab.output(),
        "typed\n/dev/pts/0\nxterm\ngot typed\n40 120\nto console\n"
    );
}

#[test]
fn an_open_standard_input_ends_when_told_to() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("cat; echo end");
    lab.container.stdin_open = true;
    let (_, handle) = lab.start();
    let mut stdin = File::from(handle.stdin().expect("standard input"));
    stdin.write_all(b"one\n").expect("writes");
    drop(stdin);
    lab.wait_for_output("one");
    handle.close_stdin().expect("closes");
    assert_eq!(
        handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
        Some(0)
    );
    assert_eq!(lab.output(), "one\nend\n");
    let lab = Lab::script("cat; echo end");
    let (_, handle) = lab.start();
    assert!(handle.stdin().is_err());
    handle
        .wait_timeout(DEADLINE)
        .expect("waits")
        .expect("without it, input is at its end");
}

#[test]
fn a_first_process_of_ours_reaps_and_passes_signals_on() {
    if !can_run() {
        return;
    }
    let script = "trap 'echo term; exit 12' TERM; echo pid $$; (sh -c 'sleep 0.05' & ); (sh -c 'exit 1' & ); echo ready; \
                  while :; do sleep 0.01; done";
    let mut lab = Lab::script(script);
    lab.container.init = true;
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    assert!(!lab.output().contains("pid 1\n"), "{}", lab.output());
    let zombies = gantry_runtime::ExecSpec {
        args: ["sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"]
            .map(str::to_string)
            .to_vec(),
        ..Default::default()
    };
    eventually("orphans to be reaped", || {
        let mut session = handle.exec(&zombies).expect("exec");
        let Some(gantry_runtime::ExecStreams::Pipes { stdout, .. }) = session.streams.take() else {
            panic!("pipes")
        };
        let counts = std::io::read_to_string(File::from(stdout)).expect("reads");
        session.wait().expect("ends");
        (counts == "0\n").then_some(())
    });
    handle.signal(nix::libc::SIGTERM).expect("signal");
    assert_eq!(
        handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
        Some(12)
    );

    let mut lab = Lab::new();
    lab.container.init = true;
    lab.container.command = Some(vec!["/nope".to_string()]);
    let error = lab
        .try_start()
        .map(|(launched, _)| launched)
        .expect_err("nothing to execute");
    assert_eq!(error.to_string(), "exec /nope: no such file or directory");
}
