//! Hooks: which run when and where, what they are told, and what a failure does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::Lab;

const MOMENTS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A program on the node that adds its moment and what it was told to a file.
fn program(lab: &Lab) -> PathBuf {
    let path = lab.path("hook.sh");
    let log = lab.path("hooks.log");
    let text = format!(
        "#!/bin/sh\nprintf '%s %s ' \"$1\" \"$MARK\" >> {0}\ncat >> {0}\necho >> {0}\n",
        log.display()
    );
    fs::write(&path, text).expect("program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

fn hook(path: &Path, moment: &str) -> Value {
    json!({"path": path, "args": ["hook", moment], "env": [format!("MARK=at-{moment}"), "PATH=/bin:/usr/bin"]})
}

/// All but the one that runs in the container's own root.
fn on_the_node(path: &Path) -> Value {
    let moments = MOMENTS.iter().filter(|moment| **moment != "startContainer");
    moments
        .map(|moment| ((*moment).to_string(), json!([hook(path, moment)])))
        .collect()
}

fn told(lab: &Lab) -> Vec<(String, Value)> {
    let text = fs::read_to_string(lab.path("hooks.log")).unwrap_or_default();
    let line = |line: &str| {
        let (moment, rest) = line.split_once(' ')?;
        let (mark, document) = rest.split_once(' ')?;
        assert_eq!(mark, format!("at-{moment}"));
        Some((moment.to_string(), serde_json::from_str(document).expect("a state")))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn each_runs_at_its_moment_and_is_told_the_state() {
    let Some(lab) = Lab::new() else { return };
    let path = program(&lab);
    let container = lab.create("hooked", "cat /data/seen; sleep 1000", |config| {
        config["hooks"] = on_the_node(&path);
        config["hooks"]["startContainer"] =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo from inside > /data/seen"]}]);
        config["annotations"] = json!({"who": "test"});
    });
    let moments = |told: &[(String, Value)]| told.iter().map(|(moment, _)| moment.clone()).collect::<Vec<_>>();
    assert_eq!(moments(&told(&lab)), ["prestart", "createRuntime", "createContainer"]);
    assert!(!lab.path("hooked/rootfs/data/seen").exists(), "not started yet");
    lab.succeed(["start", "hooked"]);
    assert_eq!(moments(&told(&lab)).last().map(String::as_str), Some("poststart"));
    container.wait_for_output("from inside");
    lab.succeed(["kill", "hooked", "KILL"]);
    container.wait_for_status("stopped");
    lab.succeed(["delete", "hooked"]);
    let told = told(&lab);
    assert_eq!(
        moments(&told),
        ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    );
    for (moment, state) in &told {
        assert_eq!(
            (&state["id"], &state["annotations"]["who"]),
            (&json!("hooked"), &json!("test")),
            "{moment}"
        );
        assert_eq!(state["bundle"], json!(lab.path("hooked")), "{moment}");
        let status = state["status"].as_str().unwrap_or_default();
        let expected = match moment.as_str() {
            "poststart" => "running",
            "poststop" => "stopped",
            _ => "creating",
        };
        assert!(
            status == expected || (status == "created" && expected == "creating"),
            "{moment}: {status}"
        );
    }
    assert_eq!(told[1].1["pid"], json!(container.pid));
}

#[test]
fn one_that_fails_before_the_start_undoes_the_container() {
    let Some(lab) = Lab::new() else { return };
    let path = program(&lab);
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let _ = fs::remove_file(lab.path("hooks.log"));
        let bundle = lab.bundle("failing", "true", |config| {
            config["hooks"] = on_the_node(&path);
            config["hooks"][moment] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no good >&2; exit 9"]}]);
        });
        let said = lab.fail([
            "create".as_ref(),
            "--bundle".as_ref(),
            bundle.as_os_str(),
            "failing".as_ref(),
        ]);
        assert!(said.contains("/bin/sh") && said.contains("no good"), "{said}");
        assert_eq!(lab.succeed(["list", "-q"]), "");
        assert_eq!(
            told(&lab).last().map(|(moment, _)| moment.clone()).as_deref(),
            Some("poststop")
        );
        fs::remove_dir_all(bundle).expect("removes");
    }
}

#[test]
fn one_that_fails_in_the_container_stops_the_start() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create("failing", "echo ran", |config| {
        config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    });
    let said = lab.fail(["start", "failing"]);
    assert!(said.contains("/bin/false"), "{said}");
    container.wait_for_status("stopped");
    assert_eq!(container.output(), "");
}

#[test]
fn one_that_fails_afterwards_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create("fine", "echo ran; sleep 1000", |config| {
        config["hooks"] = json!({"poststart": [{"path": "/bin/false"}], "poststop": [{"path": "/bin/false"}]});
    });
    lab.succeed(["start", "fine"]);
    container.wait_for_output("ran");
    assert_eq!(lab.status("fine"), "running");
    lab.succeed(["delete", "--force", "fine"]);
    assert_eq!(lab.succeed(["list", "-q"]), "");
}

#[test]
fn one_that_takes_too_long_is_killed() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("slow", "true", |config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]});
    });
    let said = lab.fail([
        "create".as_ref(),
        "--bundle".as_ref(),
        bundle.as_os_str(),
        "slow".as_ref(),
    ]);
    assert!(said.contains("/bin/sleep") && said.contains("1 s"), "{said}");
}
