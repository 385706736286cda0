//! Start, end, adoption, deletion: what happens to a container whatever happens to its agent.

use std::fs;
use std::time::Duration;

use crate::many::is_gone;
use crate::support::{DEADLINE, Lab, can_run, eventually};
use gantry_runtime::logs::Stream;
use gantry_runtime::{HandleError, LaunchError, State};

#[test]
fn a_container_starts_runs_and_its_exit_status_is_told() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("echo out; echo err >&2; exit 7");
    let (launched, handle) = lab.start();
    assert!(launched.pid > 1 && launched.shim_pid > 1);
    let exit = handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
    assert_eq!((exit.code, exit.oom_killed), (7, false));
    assert!(exit.at >= launched.started_at);
    assert_eq!(handle.state().expect("state"), State::Exited(exit));
    let mut records = lab.records();
    records.sort_by_key(|(stream, _)| *stream == Stream::Stderr);
    assert_eq!(
        records,
        [(Stream::Stdout, "out".to_string()), (Stream::Stderr, "err".to_string())]
    );
}

#[test]
fn signals_arrive_and_the_first_process_may_handle_them() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    assert!(matches!(handle.state().expect("state"), State::Running { .. }));
    assert_eq!(handle.wait_timeout(Duration::from_millis(1)).expect("waits"), None);
    handle.signal(nix::libc::SIGTERM).expect("signal");
    assert_eq!(
        handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
        Some(3)
    );
    assert!(lab.output().contains("got it"));

    let lab = Lab::script("echo ready; sleep 1000");
    let (_, handle) = lab.start();
    lab.wait_for_output("ready");
    handle.signal(nix::libc::SIGKILL).expect("signal");
    assert_eq!(
        handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
        Some(137)
    );
    assert!(
        handle.signal(nix::libc::SIGTERM).is_ok(),
        "one that has ended takes any signal"
    );
}

#[test]
fn failures_name_the_step_and_leave_nothing_running() {
    if !can_run() {
        return;
    }
    for (command, message, code) in [
        ("/bin/nope", "exec /bin/nope: no such file or directory", 127),
        ("nope", "exec nope: not found in PATH", 127),
        (
            "/etc/not-executable",
            "exec /etc/not-executable: permission denied: the file is not executable (its mode is 0644)",
            126,
        ),
        ("/etc", "exec /etc: is a directory", 126),
        (
            "/etc/bad-script",
            "exec /etc/bad-script: the file is there, but /bin/nope is not",
            127,
        ),
        (
            "/etc/dangling",
            "exec /etc/dangling: the symbolic link leads nowhere",
            127,
        ),
        (
            "/etc/no-program",
            "exec /etc/no-program: exec format error: neither built for this processor nor a script with #!",
            126,
        ),
    ] {
        let mut lab = Lab::new();
        lab.container.command = Some(vec![command.to_string()]);
        let error = lab.try_start().map(|(launched, _)| launched).expect_err(command);
        assert_eq!((error.to_string().as_str(), error.exit_code()), (message, code));
        let procs = lab.cgroup_file("pids/cgroup.procs", "cgroup.procs");
        assert_eq!(fs::read_to_string(procs).expect("group"), "");
        assert!(matches!(lab.open().state(), Err(HandleError::NotFound { .. })));
    }
    let mut lab = Lab::script("true");
    lab.container.user = Some(gantry_model::spec::User {
        user: "stranger".into(),
        group: None,
    });
    let error = lab.try_start().map(|(launched, _)| launched).expect_err("unknown user");
    assert!(
        matches!(&error, LaunchError::Step(failure) if failure.reason.contains("'stranger'")),
        "{error}"
    );
}

#[test]
fn an_exit_while_nobody_is_connected_is_recorded() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("read line < /tmp/go; exit 5");
    fs::create_dir_all(lab.path("layer/tmp")).expect("folder");
    nix::unistd::mkfifo(&lab.path("layer/tmp/go"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let (launched, handle) = lab.start();
    drop(handle);
    let inside = format!("/proc/{}/root/tmp/go", launched.pid);
    fs::write(inside, "go\n").expect("writes into the container");
    eventually("the exit record", || {
        lab.bundle().join("exit.json").exists().then_some(())
    });
    eventually("the shim to end", || is_gone(launched.shim_pid).then_some(()));
    let handle = lab.open();
    assert!(handle.exit_fd().is_none());
    assert_eq!(handle.wait().expect("record").code, 5);
}

#[test]
fn a_container_outlives_the_process_that_launched_it() {
    if !can_run() {
        return;
    }
    // The launcher is a copy of this very test program that runs only the helper below, and is killed.
    let lab = Lab::script("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done");
    let plan = serde_json::to_string(&lab.prepare().expect("plan")).expect("plan encodes");
    let plan_file = lab.path("plan.json");
    fs::write(&plan_file, plan).expect("plan");
    let mut agent = std::process::Command::new(std::env::current_exe().expect("test program"))
        .args(["--exact", "life::helper_launches_and_hangs", "--nocapture"])
        .env("GANTRY_TEST_PLAN", &plan_file)
        .spawn()
        .expect("spawns");
    lab.wait_for_output("ready");
    agent.kill().expect("kill -9 of the agent");
    agent.wait().expect("agent is gone");
    let handle = lab.open();
    assert!(matches!(handle.state().expect("state"), State::Running { .. }));
    handle.signal(nix::libc::SIGTERM).expect("signal");
    assert_eq!(
        handle.wait_timeout(DEADLINE).expect("waits").map(|exit| exit.code),
        Some(9)
    );
}

#[test]
fn helper_launches_and_hangs() {
    let Some(plan) = std::env::var_os("GANTRY_TEST_PLAN") else {
        return;
    };
    let text = fs::read_to_string(plan).expect("plan");
    let plan: gantry_runtime::LaunchPlan = serde_json::from_str(&text).expect("plan decodes");
    let folder = std::env::temp_dir().join("gantry-runtime-test-shim");
    let shim = gantry_runtime::install_shim(&folder).expect("shim");
    gantry_runtime::launch(&shim, &plan).expect("launches");
    std::thread::sleep(DEADLINE);
}

#[test]
fn a_killed_shim_takes_its_container_along() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("echo ready; sleep 1000");
    let (launched, handle) = lab.start();
    lab.wait_for_output("ready");
    let shim = nix::unistd::Pid::from_raw(launched.shim_pid as i32);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("kill");
    let exit = handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
    assert_eq!(exit.code, 137);
    let procs = lab.cgroup_file("pids/cgroup.procs", "cgroup.procs");
    assert_eq!(fs::read_to_string(procs).expect("group"), "");
}

#[test]
fn a_restart_keeps_the_writable_layer_and_deletion_leaves_nothing() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("cat /kept 2>/dev/null; echo again >> /kept");
    assert_eq!(lab.run().1, "");
    assert_eq!(lab.run().1, "again\n");
    let group = lab.cgroup_file("pids/pids.max", "pids.max");
    assert!(group.exists());
    let bundle = lab.bundle();
    lab.open().delete().expect("deletes");
    assert!(!group.exists() && !bundle.exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mount table");
    assert!(!mounts.contains(&*bundle.to_string_lossy()));
    assert!(matches!(
        gantry_runtime::Handle::open(&bundle, &lab.layout),
        Err(HandleError::NotFound { .. })
    ));
}

#[test]
fn a_bundle_never_runs_two_containers() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("echo ready; sleep 1000");
    let plan = lab.prepare().expect("plan");
    let folder = std::env::temp_dir().join("gantry-runtime-test-shim");
    let shim = gantry_runtime::install_shim(&folder).expect("shim");
    gantry_runtime::launch(&shim, &plan).expect("launches");
    lab.wait_for_output("ready");
    let refused = lab.prepare().expect_err("still runs");
    assert!(refused.to_string().contains("still runs"), "{refused}");
    let refused = gantry_runtime::launch(&shim, &plan).expect_err("a plan made before");
    assert!(refused.to_string().contains("another shim"), "{refused}");
    assert!(matches!(lab.open().state().expect("state"), State::Running { .. }));
}

#[test]
fn deletion_kills_what_still_runs() {
    if !can_run() {
        return;
    }
    let lab = Lab::script("sleep 1000 & sleep 1000 & echo ready; wait");
    let (launched, handle) = lab.start();
    lab.wait_for_output("ready");
    handle.delete().expect("deletes");
    assert!(!fs::exists(format!("/proc/{}/root/bin", launched.pid)).unwrap_or(false));
    assert!(!lab.bundle().exists());
}
