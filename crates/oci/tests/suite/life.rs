//! The life cycle of the specification: what each command does in each state, and what it says when it cannot.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Lab, eventually};

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create(
        "web",
        "echo started; trap 'exit 7' TERM; while :; do sleep 0.01; done",
        |_| {},
    );
    assert_eq!(lab.status("web"), "created");
    assert_eq!(container.output(), "", "nothing of it ran yet");
    let state: Value = serde_json::from_str(&lab.succeed(["state", "web"])).expect("a document");
    assert_eq!((&state["id"], &state["pid"]), (&json!("web"), &json!(container.pid)));
    assert_eq!(state["bundle"], json!(lab.path("web")));
    assert!(
        state["ociVersion"]
            .as_str()
            .is_some_and(|version| version.starts_with("1."))
    );

    lab.succeed(["start", "web"]);
    assert_eq!(lab.status("web"), "running");
    container.wait_for_output("started");
    assert!(lab.fail(["start", "web"]).contains("running"));
    assert!(lab.fail(["delete", "web"]).contains("running"));
    lab.succeed(["kill", "web", "SIGTERM"]);
    container.wait_for_status("stopped");
    assert!(lab.fail(["kill", "web", "KILL"]).contains("container not running"));
    assert!(lab.fail(["start", "web"]).contains("stopped"));
    lab.succeed(["delete", "web"]);
    assert!(lab.fail(["state", "web"]).contains("does not exist"));
    assert!(lab.fail(["delete", "web"]).contains("does not exist"));
    lab.succeed(["delete", "--force", "web"]);
}

#[test]
fn one_that_was_never_started_can_be_deleted() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create("idle", "echo ran", |_| {});
    lab.succeed(["delete", "idle"]);
    eventually("the process to end", || (!process_lives(container.pid)).then_some(()));
    assert_eq!(container.output(), "");
    assert!(!lab.path("state/idle").exists());
}

/// Not one that only waits for its parent.
fn process_lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn one_that_runs_is_deleted_by_force() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create("busy", "trap '' TERM; sleep 1000 & sleep 1000", |_| {});
    lab.succeed(["start", "busy"]);
    lab.succeed(["delete", "--force", "busy"]);
    assert!(!process_lives(container.pid));
}

#[test]
fn an_id_is_taken_once_and_is_a_name() {
    let Some(lab) = Lab::new() else { return };
    lab.create("one", "true", |_| {});
    let bundle = lab.path("one");
    let again = lab.fail([
        "create".as_ref(),
        "--bundle".as_ref(),
        bundle.as_os_str(),
        "one".as_ref(),
    ]);
    assert!(again.contains("exists"), "{again}");
    for id in ["../x", "a/b", "..", ""] {
        let refused = lab.fail(["create".as_ref(), "--bundle".as_ref(), bundle.as_os_str(), id.as_ref()]);
        assert!(
            refused.contains("invalid container id") || refused.contains("required"),
            "{refused}"
        );
    }
    assert!(lab.fail(["start", "two"]).contains("does not exist"));
    assert!(lab.fail(["kill", "one", "SIGNOPE"]).contains("SIGNOPE"));
}

#[test]
fn run_passes_streams_and_exit_status_on() {
    let Some(lab) = Lab::new() else { return };
    let (code, output) = lab.run("echo out; echo err >&2; exit 42", |_| {});
    assert_eq!((code, output.as_str()), (42, "out\nerr\n"));
    let (code, _) = lab.run("kill -9 $$; sleep 1", |config| {
        // As process 1 it could not kill itself.
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    assert_eq!(code, 137);
    let bundle = lab.bundle("echo", "cat", |_| {});
    let mut command = lab.command(["run".as_ref(), "--bundle".as_ref(), bundle.as_os_str(), "echo".as_ref()]);
    let output = crate::support::with_input(&mut command, "through\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through\n");
    assert_eq!(lab.succeed(["list", "--quiet"]), "", "what has run is deleted");
}

#[test]
fn a_program_that_cannot_be_executed_is_found_at_create_and_nothing_stays() {
    let Some(lab) = Lab::new() else { return };
    let cases = [
        ("nothing-like-this", "executable file not found in $PATH"),
        ("/no/such/program", "no such file or directory"),
        ("/etc", "permission denied"),
    ];
    for (program, expected) in cases {
        let bundle = lab.bundle("wrong", "", |config| config["process"]["args"] = json!([program]));
        let log = lab.path("log.json");
        let said = lab.fail(
            [
                "--log".as_ref(),
                log.as_os_str(),
                "--log-format".as_ref(),
                "json".as_ref(),
                "create".as_ref(),
            ]
            .into_iter()
            .chain(["--bundle".as_ref(), bundle.as_os_str(), "wrong".as_ref()]),
        );
        assert!(said.contains(expected) && said.contains(program), "{said}");
        let text = fs::read_to_string(&log).expect("log");
        let line: Value = serde_json::from_str(text.lines().next_back().expect("a line")).expect("a document");
        assert_eq!(line["level"], "error");
        assert!(
            line["msg"].as_str().is_some_and(|message| message.contains(expected)),
            "{line}"
        );
        assert_eq!(lab.succeed(["list", "--quiet"]), "");
        fs::remove_dir_all(bundle).expect("removes");
    }
}

#[test]
fn further_processes_share_the_container() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create("main", "echo up; sleep 1000", |_| {});
    lab.succeed(["start", "main"]);
    container.wait_for_output("up");
    let said = lab.succeed([
        "exec",
        "--env",
        "NAME=value",
        "--cwd",
        "/tmp",
        "main",
        "sh",
        "-c",
        "echo $NAME; pwd; hostname",
    ]);
    assert_eq!(said, "value\n/tmp\ngantry\n");
    assert_eq!(
        lab.output(["exec", "main", "sh", "-c", "exit 3"]).status.code(),
        Some(3)
    );
    assert_eq!(lab.succeed(["exec", "--user", "12:34", "main", "id", "-u"]), "12\n");
    assert!(
        lab.fail(["exec", "main", "nothing-like-this"])
            .contains("executable file not found in $PATH")
    );

    let process = lab.path("process.json");
    let document = json!({"args": ["sleep", "500"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]});
    fs::write(&process, document.to_string()).expect("process");
    let pid_file = lab.path("exec.pid");
    // It has the streams of its caller, so a pipe would not end before it does.
    let mut exec = lab.command(["exec", "--detach", "--process"]);
    exec.arg(&process).arg("--pid-file").arg(&pid_file).arg("main");
    let status = exec.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("the program runs").success());
    let pid: i32 = fs::read_to_string(&pid_file)
        .expect("pid file")
        .parse()
        .expect("a number");
    let listed: Vec<i32> = serde_json::from_str(&lab.succeed(["ps", "--format", "json", "main"])).expect("a list");
    assert!(listed.contains(&pid) && listed.contains(&container.pid), "{listed:?}");
    let table = lab.succeed(["ps", "main"]);
    assert!(
        table.contains("sleep 500") && table.lines().count() == listed.len() + 1,
        "{table}"
    );
    lab.succeed(["kill", "--all", "main", "KILL"]);
    container.wait_for_status("stopped");
    eventually("the exec to end", || (!process_lives(pid)).then_some(()));
    assert!(lab.fail(["exec", "main", "true"]).contains("stopped"));
}

#[test]
fn a_paused_container_stands_still() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create(
        "still",
        "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done",
        |_| {},
    );
    lab.succeed(["start", "still"]);
    container.wait_for_output("3\n");
    lab.succeed(["pause", "still"]);
    assert_eq!(lab.status("still"), "paused");
    let before = container.output();
    assert!(lab.fail(["exec", "still", "true"]).contains("--ignore-paused"));
    assert!(lab.fail(["pause", "still"]).contains("paused"));
    assert_eq!(container.output(), before);
    lab.succeed(["resume", "still"]);
    eventually("it goes on", || (container.output().len() > before.len()).then_some(()));
    lab.succeed(["pause", "still"]);
    lab.succeed(["kill", "still", "KILL"]);
    container.wait_for_status("stopped");
}

#[test]
fn lists_show_every_container() {
    let Some(lab) = Lab::new() else { return };
    assert_eq!(lab.succeed(["list", "--format", "json"]), "[]\n");
    lab.create("b", "true", |_| {});
    lab.create("a", "true", |config| {
        config["annotations"] = json!({"com.example": "1"})
    });
    assert_eq!(lab.succeed(["list", "-q"]), "a\nb\n");
    let listed: Value = serde_json::from_str(&lab.succeed(["list", "--format", "json"])).expect("a document");
    assert_eq!(listed[0]["annotations"]["com.example"], "1");
    let table = lab.succeed(["list"]);
    assert!(table.starts_with("ID") && table.contains("created"), "{table}");
}

#[test]
fn what_is_not_supported_is_refused_with_a_remedy() {
    let Some(lab) = Lab::new() else { return };
    assert!(lab.fail(["--systemd-cgroup", "list"]).contains("cgroupfs"));
    assert!(lab.fail(["checkpoint", "x"]).contains("not supported"));
    let features: Value = serde_json::from_str(&lab.succeed(["features"])).expect("a document");
    assert_eq!(features["ociVersionMax"], "1.2.0");
    assert!(lab.succeed(["--version"]).contains("spec: 1.2.0"));
}
