//! The real binary: exit codes and messages of `gantry check` and of wrong command lines, none of which needs a cluster.

use std::path::Path;
use std::process::{Command, Output};

fn gantry(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gantry"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn project(manifest: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("compose.yaml"), manifest).expect("written");
    std::fs::write(folder.path().join("password"), "hunter2").expect("written");
    folder
}

const VALID: &str = "\
name: shop
services:
  web:
    image: web:${TAG:-v1}
    secrets: [password]
    deploy: {replicas: 3}
secrets:
  password: {file: ./password}
";

#[test]
fn a_valid_manifest_ends_with_0_and_a_summary() {
    let folder = project(VALID);
    let output = gantry(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with("shop is valid: 1 service"),
        "{}",
        stdout(&output)
    );
    assert!(stdout(&output).contains("1 secret"), "{}", stdout(&output));
}

#[test]
fn the_model_is_shown_without_the_content_of_secrets() {
    let folder = project(VALID);
    for format in ["json", "yaml"] {
        let output = gantry(folder.path(), &["check", "-f", "compose.yaml", "-o", format]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("<7 bytes>"), "{text}");
        // "hunter2" and its base 64.
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        assert!(text.contains("web:v1"), "{text}");
    }
}

#[test]
fn options_and_env_files_reach_the_manifest() {
    let folder = project(VALID);
    std::fs::write(folder.path().join("other.env"), "TAG=v7\n").expect("written");
    let arguments = ["check", "-p", "blog", "--env-file", "other.env", "-o", "json"];
    let output = gantry(folder.path(), &arguments);
    assert!(stdout(&output).contains("web:v7"), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("\"namespace\": \"blog\""),
        "{}",
        stdout(&output)
    );
    let output = gantry(folder.path(), &["check", "-p", "blog", "-o", "name"]);
    assert_eq!(stdout(&output), "blog\n");
}

#[test]
fn a_wrong_manifest_ends_with_1_and_says_where() {
    let folder = project("services:\n  web:\n    image: web\n    replicas: 3\n    ports: [\"99999:80\"]\n");
    let output = gantry(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    assert!(text.contains("compose.yaml:"), "{text}");
    assert!(text.contains("error"), "{text}");
    let output = gantry(folder.path(), &["check", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("\"diagnostics\""), "{}", stdout(&output));
}

#[test]
fn a_missing_manifest_ends_with_1_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = gantry(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("help: name the manifest with -f FILE"),
        "{}",
        stderr(&output)
    );
    let output = gantry(folder.path(), &["check", "-f", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("error: nowhere.yaml: cannot be read"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [
        &["launch"] as &[&str],
        &["ps", "--colour"],
        &["service", "scale", "web"],
        &["service", "update", "web"],
        &["node", "update", "alpha", "--label-add", "=x"],
        &["logs", "web", "--tail", "-1"],
        &["logs", "web", "--since", "yesterday"],
        &["cluster", "token", "create", "boss"],
        &["apply", "--timeout", "5m"],
        &["ps", "-o", "xml"],
        &["exec", "web"],
    ] {
        let output = gantry(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("error:"), "{arguments:?}");
    }
}

#[test]
fn without_a_context_the_way_to_one_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let context = folder.path().join("none");
    let output = gantry(folder.path(), &["ps", "--context", context.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("gantry cluster init"), "{}", stderr(&output));
}

#[test]
fn a_cluster_is_made_once_and_its_admin_can_be_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, context) = (folder.path().join("data"), folder.path().join("context"));
    let (data, context) = (data.to_str().expect("text"), context.to_str().expect("text"));
    let arguments = [
        "cluster",
        "init",
        "--data-dir",
        data,
        "--context",
        context,
        "--advertise",
        "127.0.0.1:1",
    ];
    let output = gantry(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("gantry agent --join 127.0.0.1:1 --token GNTRY-1-agent-"),
        "{}",
        stdout(&output)
    );
    let output = gantry(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1), "a second time");
    let output = gantry(folder.path(), &["cluster", "status", "--context", context]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.starts_with("error: server 127.0.0.1:1: connection refused\nhelp: "),
        "{text}"
    );
}

#[test]
fn shells_get_their_completion() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish"] {
        let output = gantry(folder.path(), &["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("gantry"), "{shell}");
    }
}
