//! Further processes in a running container.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use gantry_runtime::{ExecSession, ExecSpec, ExecStreams, Handle, HandleError};

use crate::support::{DEADLINE, Lab, can_run, eventually};

fn spec(script: &str) -> ExecSpec {
    ExecSpec {
        args: ["/bin/sh", "-c", script].map(str::to_string).to_vec(),
        ..ExecSpec::default()
    }
}

fn pipes(session: &mut ExecSession<'_>) -> (Option<OwnedFd>, OwnedFd, OwnedFd) {
    match session.streams.take() {
        Some(ExecStreams::Pipes { stdin, stdout, stderr }) => (stdin, stdout, stderr),
        other => panic!("pipes, not {other:?}"),
    }
}

fn read(fd: OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).expect("stream reads");
    text
}

fn run(handle: &Handle, spec: &ExecSpec) -> (i32, String) {
    let mut session = handle.exec(spec).unwrap_or_else(|error| panic!("exec: {error}"));
    let (_, stdout, stderr) = pipes(&mut session);
    let output = read(stdout) + &read(stderr);
    (session.wait_timeout(DEADLINE).expect("waits").expect("ends"), output)
}

#[test]
fn an_exec_runs_where_the_container_runs() {
    if !can_run() {
        return;
    }
    let (lab, handle) = Lab::start_idle();
    let (code, output) = run(
        &handle,
        &spec("echo out; echo err >&2; hostname; ps | grep -c 'sleep 100[0]'; exit 6"),
    );
    assert_eq!((code, output.as_str()), (6, "out\nbox\n1\nerr\n"));
    let (_, output) = run(
        &handle,
        &spec(
            "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done; \
                                          for n in cgroup ipc mnt net pid uts; do readlink /proc/1/ns/$n; done",
        ),
    );
    let names: Vec<&str> = output.lines().collect();
    assert_eq!(names[..6], names[6..]);
    let (_, output) = run(
        &handle,
        &spec("grep -E '^(CapEff|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp; cat /proc/self/cgroup"),
    );
    assert!(output.contains("CapEff:\t00000000a80425fb\nSeccomp:\t2\n"), "{output}");
    assert!(output.contains("permission denied"), "{output}");
    assert!(
        !output.contains(&lab.parent),
        "the control groups of the node show:\n{output}"
    );
}

#[test]
fn user_variables_and_folder_can_differ() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("echo ready; sleep 1000");
    lab.image.env = vec!["A=image".to_string(), "B=image".to_string()];
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    let mut differing = spec("id -u; id -g; pwd; echo $A $B $HOME; grep CapEff /proc/self/status");
    differing.user = Some("app".to_string());
    differing.cwd = Some(PathBuf::from("/home/app"));
    differing.env = vec!["B=exec".to_string()];
    let (code, output) = run(&handle, &differing);
    assert_eq!(
        (code, output.as_str()),
        (
            0,
            "1000\n1001\n/home/app\nimage exec /home/app\nCapEff:\t0000000000000000\n"
        )
    );
    let mut privileged = spec("mount -t tmpfs x /tmp && echo mounted");
    privileged.privileged = true;
    assert_eq!(run(&handle, &privileged), (0, "mounted\n".to_string()));
}

#[test]
fn standard_input_is_passed_and_ends() {
    if !can_run() {
        return;
    }
    let (_lab, handle) = Lab::start_idle();
    let mut session = handle
        .exec(&ExecSpec {
            stdin: true,
            ..spec("cat; echo end")
        })
        .expect("exec");
    let (stdin, stdout, _) = pipes(&mut session);
    File::from(stdin.expect("standard input"))
        .write_all(b"typed\n")
        .expect("writes");
    assert_eq!(read(stdout), "typed\nend\n");
    assert_eq!(session.wait().expect("ends"), 0);
}

#[test]
fn a_terminal_has_a_size_and_control() {
    if !can_run() {
        return;
    }
    let (_lab, handle) = Lab::start_idle();
    let mut session = handle
        .exec(&ExecSpec {
            tty: true,
            ..spec("read go; tty; stty size; echo $TERM; exit 4")
        })
        .expect("exec");
    session.resize(33, 101).expect("resize");
    let Some(ExecStreams::Terminal(terminal)) = session.streams.take() else {
        panic!("a terminal")
    };
    let mut terminal = File::from(terminal);
    terminal.write_all(b"go\n").expect("types");
    assert_eq!(session.wait_timeout(DEADLINE).expect("waits"), Some(4));
    let mut output = Vec::new();
    // EIO is the end of a terminal.
    let _ = terminal.read_to_end(&mut output);
    let output = String::from_utf8_lossy(&output).replace('\r', "");
    assert_eq!(output, "go\n/dev/pts/0\n33 101\nxterm\n");
    let mut session = handle
        .exec(&ExecSpec {
            tty: true,
            ..spec("sleep 1000")
        })
        .expect("exec");
    let Some(ExecStreams::Terminal(terminal)) = session.streams.take() else {
        panic!("a terminal")
    };
    let mut terminal = File::from(terminal);
    terminal.write_all(&[3]).expect("types control-C");
    assert_eq!(session.wait_timeout(DEADLINE).expect("waits"), Some(130));
    drop(terminal);
}

#[test]
fn what_cannot_be_executed_is_named() {
    if !can_run() {
        return;
    }
    let (_lab, handle) = Lab::start_idle();
    for (program, code) in [("/nope", 127), ("nope", 127), ("/etc/not-executable", 126)] {
        let refused = handle.exec(&ExecSpec {
            args: vec![program.to_string()],
            ..ExecSpec::default()
        });
        let Err(HandleError::Refused(failure)) = refused else {
            panic!("{program}: {refused:?}")
        };
        assert_eq!(failure.exit_code(), code, "{failure}");
    }
    handle.signal(nix::libc::SIGKILL).expect("signal");
    handle.wait().expect("ends");
    assert!(matches!(handle.exec(&spec("true")), Err(HandleError::Ended { .. })));
}

#[test]
fn a_timeout_can_kill_all_that_an_exec_started_and_nothing_else() {
    if !can_run() {
        return;
    }
    let (lab, handle) = Lab::start_idle();
    let mut session = handle
        .exec(&spec("setsid sleep 2000 & sleep 2000 & echo started; sleep 2000"))
        .expect("exec");
    let (_, stdout, _) = pipes(&mut session);
    let mut first = [0; 8];
    File::from(stdout).read_exact(&mut first).expect("reads");
    assert_eq!(session.wait_timeout(Duration::from_millis(10)).expect("waits"), None);
    session.kill().expect("kills");
    assert_eq!(session.wait_timeout(DEADLINE).expect("waits"), Some(137));
    eventually("the exec's processes to go", || {
        (run(&handle, &spec("ps | grep -c 'sleep 200[0]'")).1 == "0\n").then_some(())
    });
    assert_eq!(run(&handle, &spec("ps | grep -c 'sleep 100[0]'")).1, "1\n");
    let groups = || {
        let procs = lab.cgroup_file("freezer/cgroup.procs", "cgroup.procs");
        let entries = fs::read_dir(procs.parent().expect("group")).expect("group");
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("exec-"))
            .count()
    };
    assert!(
        groups() <= 1,
        "groups of ended execs are removed; that of the killed one goes with the container"
    );
}

#[test]
fn an_exec_ends_with_its_container() {
    if !can_run() {
        return;
    }
    let (_lab, handle) = Lab::start_idle();
    let session = handle.exec(&spec("sleep 2000")).expect("exec");
    handle.signal(nix::libc::SIGKILL).expect("signal");
    assert_eq!(session.wait_timeout(DEADLINE).expect("waits"), Some(137));
    assert_eq!(
        handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
        Some(137)
    );
}
