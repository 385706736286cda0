//! `config.json` and credential helpers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use gantry_distribution::DockerConfig;
use gantry_model::build::RegistryAuth;
use serde_json::{Value, json};
use tempfile::TempDir;

fn basic(user: &str, password: &str) -> RegistryAuth {
    RegistryAuth::Basic {
        user: user.into(),
        password: password.into(),
    }
}

fn with(document: &Value) -> (TempDir, DockerConfig) {
    let dir = TempDir::new().expect("a temporary folder");
    let path = dir.path().join("config.json");
    fs::write(&path, document.to_string()).expect("a file in it");
    (dir, DockerConfig::at(path))
}

fn read(config: &DockerConfig) -> Value {
    serde_json::from_slice(&fs::read(config.path()).expect("the file")).expect("JSON")
}

#[tokio::test]
async fn what_docker_wrote_is_read() {
    // base64 of "user:pass:word".
    let (_dir, config) = with(&json!({"auths": {
        "https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNzOndvcmQ="},
        "https://old.example/v1/": {"auth": "", "username": "u", "password": "p"},
        "token.example:5000": {"auth": "dXNlcjpwYXNz", "identitytoken": "refresh"},
        "empty.example": {},
    }}));
    let get = async |registry: &str| config.credential(registry).await.expect(registry);
    assert_eq!(get("docker.io").await, Some(basic("user", "pass:word")));
    assert_eq!(get("old.example").await, Some(basic("u", "p")));
    assert_eq!(
        get("token.example:5000").await,
        Some(RegistryAuth::Identity("refresh".into()))
    );
    assert_eq!(get("empty.example").await, None);
    assert_eq!(get("token.example").await, None, "another port is another registry");
}

#[tokio::test]
async fn login_and_logout_leave_the_rest_alone() {
    let (_dir, config) = with(&json!({"psFormat": "table", "auths": {"other": {"auth": "YTpi"}}}));
    config
        .login("docker.io", &basic("me", "secret"))
        .await
        .expect("written");
    config
        .login("r:5000", &RegistryAuth::Identity("t".into()))
        .await
        .expect("written");
    let mode = fs::metadata(config.path()).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let document = read(&config);
    assert_eq!(document["psFormat"], "table");
    assert_eq!(document["auths"]["https://index.docker.io/v1/"]["auth"], "bWU6c2VjcmV0");
    assert_eq!(
        config.credential("r:5000").await.expect("read"),
        Some(RegistryAuth::Identity("t".into()))
    );
    assert!(config.logout("docker.io").await.expect("written"));
    assert!(!config.logout("docker.io").await.expect("nothing to do"));
    assert_eq!(config.credential("docker.io").await.expect("read"), None);
    assert_eq!(config.credential("other").await.expect("read"), Some(basic("a", "b")));
}

#[tokio::test]
async fn a_broken_file_is_named_and_not_overwritten() {
    let dir = TempDir::new().expect("a temporary folder");
    let path = dir.path().join("config.json");
    fs::write(&path, "{\"auths\": ").expect("a file in it");
    let config = DockerConfig::at(&path);
    let error = config
        .login("r", &basic("a", "b"))
        .await
        .expect_err("no JSON")
        .to_string();
    assert!(error.contains("config.json"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("the file"), "{\"auths\": ");
}

/// A helper that keeps what it is given in a file beside itself.
const HELPER: &str = r#"#!/bin/sh
file="$(dirname "$0")/kept"
case "$1" in
    store) cat >"$file" ;;
    get)
        read -r server
        if [ -f "$file" ] && grep -q "\"$server\"" "$file"; then cat "$file"; else echo "credentials not found in native keychain"; exit 1; fi ;;
    erase) if [ -f "$file" ]; then rm "$file"; else echo "credentials not found in native keychain"; exit 1; fi ;;
esac
"#;

/// The test in a process of its own, whose PATH has the helper: a process has one environment for all its threads.
fn in_own_process(test: &str, bin: &Path) {
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("PATH", path)
        .output()
        .expect("this program runs");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && words.contains("1 passed"),
        "{words}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn helpers_keep_and_give_credentials() {
    let dir = TempDir::new().expect("a temporary folder");
    let helper = dir.path().join("docker-credential-kept");
    fs::write(&helper, HELPER).expect("a file in it");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("its mode");
    in_own_process("credentials::with_a_helper_in_the_path", dir.path());
}

#[tokio::test]
#[ignore = "runs within helpers_keep_and_give_credentials, which puts the helper into PATH"]
async fn with_a_helper_in_the_path() {
    let (_dir, config) = with(&json!({"credsStore": "kept", "credHelpers": {"special:5000": "not-there"}}));
    assert_eq!(config.credential("docker.io").await.expect("the helper runs"), None);
    config
        .login("docker.io", &basic("me", "secret"))
        .await
        .expect("the helper keeps it");
    let document = read(&config);
    assert_eq!(
        document["auths"],
        json!({"https://index.docker.io/v1/": {}}),
        "no password in the file"
    );
    assert_eq!(
        config.credential("docker.io").await.expect("the helper runs"),
        Some(basic("me", "secret"))
    );
    assert!(config.logout("docker.io").await.expect("the helper forgets it"));
    assert_eq!(config.credential("docker.io").await.expect("the helper runs"), None);
    let error = config
        .credential("special:5000")
        .await
        .expect_err("no such program")
        .to_string();
    assert!(
        error.contains("docker-credential-not-there") && error.contains("no such program"),
        "{error}"
    );
}
