//! The docker CLI with a daemon of its own, in both directions.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::image::Image;
use crate::registry::{PASSWORD, Registry, USER};
use crate::{Side, files, have, run};

const START_ATTEMPTS: usize = 600;
const START_PAUSE: Duration = Duration::from_millis(100);

/// A daemon without network, in a temporary folder; stopped when dropped.
struct Docker {
    dir: TempDir,
    process: Child,
}

impl Docker {
    fn start() -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let log = std::fs::File::create(dir.path().join("log")).expect("a file in it");
        let process = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false"])
            .arg(format!("--data-root={}", dir.path().join("data").display()))
            .arg(format!("--exec-root={}", dir.path().join("exec").display()))
            .arg(format!("--pidfile={}", dir.path().join("pid").display()))
            .arg(format!("--host=unix://{}", dir.path().join("sock").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file twice"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let mut docker = Self { dir, process };
        docker.wait();
        docker
    }

    fn wait(&mut self) {
        for _ in 0..START_ATTEMPTS {
            let answers = self
                .command()
                .arg("version")
                .output()
                .is_ok_and(|output| output.status.success());
            if answers {
                return;
            }
            let ended = self.process.try_wait().expect("it is our child");
            assert!(ended.is_none(), "dockerd ended: {}", self.log());
            std::thread::sleep(START_PAUSE);
        }
        panic!("dockerd does not answer: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .arg("--host")
            .arg(format!("unix://{}", self.dir.path().join("sock").display()))
            .env("DOCKER_CONFIG", self.config_dir());
        command
    }

    fn config_dir(&self) -> impl AsRef<Path> + AsRef<std::ffi::OsStr> {
        self.dir.path().join("config")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM, so that it stops its containerd and unmounts what it mounted.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pulls_what_we_push_and_we_pull_what_it_pushes() {
    if !have(&["dockerd", "docker"]) {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let side = Side::new(&registry);
    let image = Image::new(21, &[1_500_000, 800]);
    let name = registry.reference("ours:v1");
    let pushed = side.push(&image, &name).await.expect("pushed");

    let docker = Docker::start();
    run(docker
        .command()
        .args(["login", "--username", USER, "--password", PASSWORD, &registry.name()]));
    run(docker.command().args(["pull", &name.to_string()]));
    let inspected = run(docker.command().args(["image", "inspect", &name.to_string()])).stdout;
    let inspected: Value = serde_json::from_slice(&inspected).expect("JSON");
    assert_eq!(
        inspected[0]["Id"],
        image.blobs[0].0.to_string(),
        "the image's id is its configuration"
    );
    let pinned = format!("{}/ours@{}", registry.name(), pushed.digest);
    assert_eq!(inspected[0]["RepoDigests"][0], pinned);

    let theirs = registry.reference("theirs:v1");
    run(docker.command().args(["tag", &name.to_string(), &theirs.to_string()]));
    run(docker.command().args(["push", &theirs.to_string()]));
    // With the credentials that docker login wrote.
    let config =
        gantry_distribution::DockerConfig::at(Path::new(docker.config_dir().as_ref() as &Path).join("config.json"));
    let mut fresh = Side::new(&registry);
    fresh.keychain = config
        .keychain([registry.name().as_str()])
        .await
        .expect("what docker wrote");
    let pulled = fresh.pull(&theirs).await.expect("pulled");
    let folders = fresh.store.unpack(pulled.image).expect("unpacked");
    assert_eq!(files(&folders[1]), [("file-0".to_string(), 1_500_000)]);
    assert_eq!(files(&folders[0]), [("file-1".to_string(), 800)]);
}
