//! Creation apart from start, hooks, and containers without a shim.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use gantry_runtime::plan::{HookPlan, HooksPlan, LaunchPlan, UnattendedExecPlan};
use gantry_runtime::{
    HandleError, LaunchError, PassedFds, Progress, State, Unattended, exec_unattended, launch, launch_with,
};
use nix::sys::prctl;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe};

use crate::support::{DEADLINE, Lab, can_run, eventually, run_apart, shim};

#[test]
fn a_created_container_is_complete_and_runs_only_when_started() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("echo ran; hostname");
    lab.options.hold = true;
    let (launched, handle) = lab.start();
    assert!(launched.is_held);
    assert_eq!(handle.state().expect("state"), State::Created { pid: launched.pid });
    // It has its root already.
    assert!(fs::exists(format!("/proc/{}/root/etc/not-executable", launched.pid)).expect("proc"));
    assert_eq!(lab.output(), "");
    let refused = handle.exec(&gantry_runtime::ExecSpec {
        args: vec!["true".to_string()],
        ..Default::default()
    });
    assert!(
        matches!(refused, Err(HandleError::Refused(_))),
        "nothing runs in it before its own process"
    );
    let started = handle.start().expect("starts");
    assert!(started >= launched.started_at);
    assert_eq!(handle.wait_timeout(DEADLINE).expect("waits").expect("ends").code, 0);
    assert_eq!(lab.output(), "ran\nbox\n");
    assert!(matches!(handle.start(), Err(HandleError::Ended { .. })));
}

#[test]
fn a_created_container_can_be_killed_and_deleted() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("echo ran");
    lab.options.hold = true;
    let (_, handle) = lab.start();
    handle.signal(nix::libc::SIGKILL).expect("signal");
    assert_eq!(handle.wait_timeout(DEADLINE).expect("waits").expect("ends").code, 137);
    assert_eq!(lab.output(), "");
    let (launched, handle) = lab.start();
    handle.delete().expect("deletes");
    assert!(!lab.bundle().exists());
    assert!(!fs::exists(format!("/proc/{}/root/bin", launched.pid)).unwrap_or(false));
}

#[test]
fn a_created_container_whose_shim_died_is_gone_too() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("echo ran");
    lab.options.hold = true;
    let (launched, handle) = lab.start();
    let shim = Pid::from_raw(launched.shim_pid as i32);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("kill");
    assert_eq!(handle.wait_timeout(DEADLINE).expect("waits").expect("ends").code, 137);
    drop(handle);
    assert!(matches!(lab.open().state().expect("state"), State::Exited(_)));
    assert!(matches!(lab.open().start(), Err(HandleError::Ended { .. })));
    assert_eq!(lab.output(), "");
}

#[test]
fn what_cannot_be_executed_is_known_at_creation() {
    if !can_run() {
        return;
    }
    for (command, code) in [
        ("/bin/nope", 127),
        ("nope", 127),
        ("/etc/not-executable", 126),
        ("/etc", 126),
    ] {
        let mut lab = Lab::new();
        lab.options.hold = true;
        lab.container.command = Some(vec![command.to_string()]);
        let error = lab.try_start().map(|(launched, _)| launched).expect_err(command);
        assert_eq!(error.exit_code(), code, "{error}");
    }
}

/// A hook that appends its name, the state that it is told, and where it runs to a file.
fn hook(lab: &Lab, name: &str, file: &str) -> HookPlan {
    let script =
        format!("printf '%s %s ' {name} $(readlink /proc/self/ns/mnt) >> {file}; cat >> {file}; echo >> {file}");
    HookPlan {
        path: lab.path("layer/bin/busybox"),
        args: ["sh", "-c", &script].map(str::to_string).to_vec(),
        env: vec!["PATH=/bin:/usr/bin".to_string()],
        timeout_s: Some(10),
    }
}

#[test]
fn hooks_run_in_their_order_and_place() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("cat /told");
    let on_node = lab.path("hooks");
    let file = on_node.display().to_string();
    lab.options.hold = true;
    lab.options.hooks = HooksPlan {
        prestart: vec![hook(&lab, "prestart", &file)],
        create_runtime: vec![hook(&lab, "createRuntime", &file)],
        create_container: vec![hook(&lab, "createContainer", &file)],
        start_container: vec![HookPlan {
            path: PathBuf::from("/bin/busybox"),
            ..hook(&lab, "startContainer", "/told")
        }],
        poststart: vec![hook(&lab, "poststart", &file)],
        poststop: Vec::new(),
        bundle: Some(PathBuf::from("/some/bundle")),
        annotations: [("a".to_string(), "b".to_string())].into(),
    };
    let (_, handle) = lab.start();
    let lines = || -> Vec<String> {
        let text = fs::read_to_string(&on_node).unwrap_or_default();
        text.lines().map(str::to_string).collect()
    };
    let created = lines();
    assert_eq!(created.len(), 3, "{created:?}");
    let own = fs::read_link("/proc/self/ns/mnt")
        .expect("namespace")
        .display()
        .to_string();
    for (line, (name, is_on_node)) in
        created
            .iter()
            .zip([("prestart", true), ("createRuntime", true), ("createContainer", false)])
    {
        assert!(line.starts_with(&format!("{name} ")), "{line}");
        assert_eq!(line.contains(&own), is_on_node, "{line}");
        for part in [
            r#""status":"creating""#,
            r#""bundle":"/some/bundle""#,
            r#""annotations":{"a":"b"}"#,
            r#""id":"replica""#,
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
    handle.start().expect("starts");
    assert_eq!(handle.wait_timeout(DEADLINE).expect("waits").expect("ends").code, 0);
    assert!(lab.output().starts_with("startContainer "), "{}", lab.output());
    assert!(lines()[3].starts_with("poststart ") && lines()[3].contains(r#""status":"running""#));
}

#[test]
fn hooks_for_the_end_have_run_when_it_is_heard_of() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("exit 4");
    let on_node = lab.path("hooks");
    lab.options.hooks.poststop = vec![hook(&lab, "poststop", &on_node.display().to_string())];
    let (exit, _) = lab.run();
    let told = fs::read_to_string(&on_node).expect("the hook has run");
    assert!(
        exit.code == 4 && told.starts_with("poststop ") && told.contains(r#""status":"stopped""#),
        "{told}"
    );
}

#[test]
fn a_hook_that_fails_or_hangs_ends_the_creation() {
    if !can_run() {
        return;
    }
    for (script, word, timeout_s) in [
        ("echo out of luck >&2; exit 3", "out of luck", None),
        ("sleep 1000", "longer than 1 s", Some(1)),
    ] {
        let mut lab = Lab::script("echo ran");
        lab.options.hooks.create_runtime = vec![HookPlan {
            path: lab.path("layer/bin/busybox"),
            args: ["sh", "-c", script].map(str::to_string).to_vec(),
            env: Vec::new(),
            timeout_s,
        }];
        let error = lab.try_start().map(|(launched, _)| launched).expect_err(script);
        assert!(
            matches!(&error, LaunchError::Step(step) if step.reason.contains(word)),
            "{error}"
        );
        let procs = lab.cgroup_file("pids/cgroup.procs", "cgroup.procs");
        assert_eq!(fs::read_to_string(procs).expect("group"), "");
    }
}

/// Containers without a shim become children of this process, and so do the orphans of every test in it: those that nobody
/// waits for stay as zombies. Hence a process of its own.
fn adopt_orphans() {
    prctl::set_child_subreaper(true).expect("subreaper");
}

/// Set in the process of a test that adopts orphans.
const REAPER_VARIABLE: &str = "GANTRY_TEST_REAPER";

fn is_reaper() -> bool {
    std::env::var_os(REAPER_VARIABLE).is_some()
}

fn exit_code(pid: u32) -> i32 {
    match waitpid(Pid::from_raw(pid as i32), None).expect("a child") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

fn unattended(lab: &Lab, hold: bool) -> LaunchPlan {
    let mut plan = lab.prepare().expect("plan");
    plan.attendance = None;
    plan.hold = hold;
    plan
}

/// Standard streams, with the end to read the output from.
fn streams() -> (PassedFds, OwnedFd) {
    let (read, write) = pipe().expect("pipe");
    let null: OwnedFd = File::open("/dev/null").expect("null").into();
    let error = write.try_clone().expect("duplicate");
    let fds = PassedFds {
        stdio: Some([null, write, error]),
        further: Vec::new(),
    };
    (fds, read)
}

fn text_of(fd: OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).expect("reads");
    text
}

#[test]
fn a_container_without_a_shim_is_its_reapers_child_and_has_its_streams() {
    if can_run() {
        run_apart("create::helper_is_the_reaper_of_one_with_streams", REAPER_VARIABLE);
    }
}

#[test]
fn helper_is_the_reaper_of_one_with_streams() {
    if !is_reaper() {
        return;
    }
    adopt_orphans();
    let lab = Lab::script("echo to the pipe; exit 5");
    let plan = unattended(&lab, true);
    let (fds, output) = streams();
    let launched = launch_with(shim(), &plan, fds).expect("launches");
    assert_eq!((launched.shim_pid, launched.is_held), (0, true));
    let container = Unattended::open(&lab.bundle()).expect("opens");
    assert_eq!(
        (container.pid(), container.progress()),
        (launched.pid, Progress::Created)
    );
    container.start().expect("starts");
    assert_eq!(text_of(output), "to the pipe\n");
    assert_eq!(exit_code(launched.pid), 5);
    assert_eq!(container.progress(), Progress::Stopped);
    assert!(matches!(container.start(), Err(HandleError::Ended { .. })));
    assert!(matches!(container.signal(15), Err(HandleError::Ended { .. })));
}

#[test]
fn a_container_without_a_shim_takes_signals_and_further_processes() {
    if can_run() {
        run_apart("create::helper_is_the_reaper_of_one_with_signals", REAPER_VARIABLE);
    }
}

#[test]
fn helper_is_the_reaper_of_one_with_signals() {
    if !is_reaper() {
        return;
    }
    adopt_orphans();
    let lab = Lab::script("trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done");
    let (fds, output) = streams();
    let launched = launch_with(shim(), &unattended(&lab, false), fds).expect("launches");
    let container = Unattended::open(&lab.bundle()).expect("opens");
    assert_eq!(container.progress(), Progress::Running);
    let mut process = lab.prepare_process();
    process.args = [
        "sh",
        "-c",
        "hostname; readlink /proc/self/ns/pid; echo given <&3; read line <&3; echo $line; exit 6",
    ]
    .map(str::to_string)
    .to_vec();
    process.passed_fds = 1;
    let (mut fds, exec_output) = streams();
    let file = lab.path("given");
    fs::write(&file, "from three\n").expect("file");
    fds.further.push(File::open(&file).expect("file").into());
    let plan = UnattendedExecPlan {
        container_pid: launched.pid as i32,
        procs: Vec::new(),
        process,
    };
    let exec = exec_unattended(shim(), "replica", plan, fds).expect("execs");
    let text = text_of(exec_output);
    let own = fs::read_link("/proc/self/ns/pid")
        .expect("namespace")
        .display()
        .to_string();
    assert!(
        text.starts_with("box\npid:[") && !text.contains(&own) && text.ends_with("given\nfrom three\n"),
        "{text}"
    );
    assert_eq!(exit_code(exec.pid), 6);
    let mut ready = [0; 6];
    let mut output = File::from(output);
    output.read_exact(&mut ready).expect("reads");
    container.signal(nix::libc::SIGTERM).expect("signal");
    assert_eq!(exit_code(launched.pid), 4);

    let held = launch(shim(), &unattended(&lab, true)).expect("launches again");
    let container = Unattended::open(&lab.bundle()).expect("opens");
    container.signal(nix::libc::SIGTERM).expect("signal");
    assert_eq!(exit_code(held.pid), 137, "one that waits cannot handle a signal");
    eventually("the end", || (container.progress() == Progress::Stopped).then_some(()));
}
