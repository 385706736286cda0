//! Real engines with this runtime underneath: Docker Engine (through containerd) and Podman, from the distribution's packages,
//! each with folders of the test's own. Skipped loudly where one is not installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::{Lab, PROGRAM, eventually, make_rootfs};

fn find(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"];
    let found = folders
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// Engines call a runtime by one path; the wrapper brings the shim's folder along.
fn wrapper(lab: &Lab) -> PathBuf {
    let path = lab.path("gantry-oci");
    let text = format!(
        "#!/bin/sh\nexport GANTRY_OCI_SHIM_DIR={}\nexec {PROGRAM} \"$@\"\n",
        std::env::temp_dir().join("gantry-oci-test-shim").display()
    );
    fs::write(&path, text).expect("wrapper");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

/// An image as `docker import` and `podman import` take it.
fn archive(lab: &Lab) -> PathBuf {
    let (root, path) = (lab.path("image"), lab.path("image.tar"));
    make_rootfs(&root);
    let status = Command::new("tar")
        .arg("-C")
        .arg(root)
        .arg("-cf")
        .arg(&path)
        .arg(".")
        .status();
    assert!(status.expect("tar runs").success());
    path
}

/// An engine's client with its options.
struct Engine {
    program: PathBuf,
    options: Vec<String>,
    /// Options of `run`.
    run: Vec<String>,
    daemon: Option<Child>,
}

impl Engine {
    fn output(&self, args: &[&str]) -> Output {
        Command::new(&self.program)
            .args(&self.options)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("the engine runs")
    }

    #[track_caller]
    fn succeed(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }

    fn run(&self, args: &[&str]) -> Output {
        let run: Vec<&str> = self.run.iter().map(String::as_str).collect();
        self.output(&[&["run", "--rm"], &run[..], args].concat())
    }

    #[track_caller]
    fn ran(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }

    #[track_caller]
    fn start(&self, name: &str, args: &[&str]) {
        let run: Vec<&str> = self.run.iter().map(String::as_str).collect();
        self.succeed(&[&["run", "--detach", "--name", name], &run[..], args].concat());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap_or(0));
            // Its containerd ends with it, and what it mounted is let go.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = daemon.wait();
        }
    }
}

fn docker(lab: &Lab) -> Option<Engine> {
    let (dockerd, program) = (find("dockerd")?, find("docker")?);
    find("containerd")?;
    let path = |name: &str| lab.path(name).display().to_string();
    let socket = format!("unix://{}", path("docker.sock"));
    let log = fs::File::create(lab.path("dockerd.log")).expect("log");
    let daemon = Command::new(dockerd)
        .args([
            "--data-root",
            &path("docker"),
            "--exec-root",
            &path("docker-run"),
            "--pidfile",
            &path("docker.pid"),
        ])
        .args([
            "--host",
            &socket,
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
        ])
        .arg("--exec-opt=native.cgroupdriver=cgroupfs")
        .args(["--cgroup-parent", &format!("/{}", lab.parent)])
        .arg(format!("--add-runtime=gantry={}", wrapper(lab).display()))
        .stdout(log.try_clone().expect("a copy"))
        .stderr(log)
        .spawn()
        .expect("dockerd starts");
    let engine = Engine {
        program,
        options: vec!["--host".to_string(), socket],
        run: ["--network=none", "--runtime=gantry"].map(str::to_string).to_vec(),
        daemon: Some(daemon),
    };
    eventually("dockerd to answer", || {
        engine.output(&["info"]).status.success().then_some(())
    });
    engine.succeed(&["import", &archive(lab).display().to_string(), "box"]);
    Some(engine)
}

fn podman(lab: &Lab) -> Option<Engine> {
    let program = find("podman")?;
    find("conmon")?;
    let path = |name: &str| lab.path(name).display().to_string();
    let options = [
        "--root",
        &path("podman"),
        "--runroot",
        &path("podman-run"),
        "--storage-driver",
        "vfs",
    ];
    let runtime = wrapper(lab).display().to_string();
    let further = ["--cgroup-manager", "cgroupfs", "--runtime", &runtime];
    // Podman's default limits need CAP_SYS_RESOURCE, which a build machine may lack.
    let parent = format!("--cgroup-parent=/{}", lab.parent);
    let run = [
        "--network=none",
        "--ulimit=nofile=1000:1000",
        "--ulimit=nproc=1000:1000",
        &parent,
    ];
    let engine = Engine {
        program,
        options: options.iter().chain(&further).map(|text| (*text).to_string()).collect(),
        run: run.map(str::to_string).to_vec(),
        daemon: None,
    };
    engine.succeed(&["import", &archive(lab).display().to_string(), "box"]);
    Some(engine)
}

/// What anybody does with an engine; the answers are those of runc.
fn everyday(engine: &Engine) {
    assert_eq!(engine.ran(&["box", "echo", "hello"]), "hello");
    assert_eq!(engine.run(&["box", "sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(engine.run(&["box", "nothing-like-this"]).status.code(), Some(127));
    assert_eq!(engine.run(&["box", "/etc"]).status.code(), Some(126));
    assert_eq!(
        engine.ran(&["--user", "12:34", "--workdir", "/tmp", "box", "sh", "-c", "id -u; pwd"]),
        "12\n/tmp"
    );
    assert_eq!(
        engine.ran(&[
            "--hostname",
            "name",
            "--env",
            "A=b",
            "box",
            "sh",
            "-c",
            "hostname; echo $A"
        ]),
        "name\nb"
    );
    let refused = engine.ran(&[
        "--read-only",
        "--tmpfs",
        "/x",
        "box",
        "sh",
        "-c",
        "echo 1 > /x/1; echo 2 > /2 || echo ro",
    ]);
    assert_eq!(refused, "ro");
    let bound = engine.ran(&[
        "--volume",
        "/etc/hostname:/in/name:ro",
        "box",
        "sh",
        "-c",
        "test -s /in/name; echo $?",
    ]);
    assert!(bound == "0" || !Path::new("/etc/hostname").exists(), "{bound}");
    let capabilities = engine.ran(&[
        "--cap-drop",
        "ALL",
        "--cap-add",
        "KILL",
        "box",
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    assert!(capabilities.ends_with("0000000000000020"), "{capabilities}");
    assert!(
        !engine
            .run(&["box", "mount", "-t", "tmpfs", "x", "/tmp"])
            .status
            .success(),
        "the engine's filter is kept"
    );
    assert_eq!(
        engine.ran(&[
            "--privileged",
            "box",
            "sh",
            "-c",
            "mount -t tmpfs x /tmp && echo mounted"
        ]),
        "mounted"
    );
    assert_eq!(engine.ran(&["--tty", "box", "tty"]), "/dev/pts/0");
    assert_eq!(
        engine.ran(&[
            "--pid=host",
            "--ipc=host",
            "--uts=host",
            "box",
            "sh",
            "-c",
            "test -d /proc/2 && echo seen"
        ]),
        "seen"
    );
    let killed = engine.run(&[
        "--memory",
        "16m",
        "box",
        "sh",
        "-c",
        "x=$(head -c 60000000 /dev/zero | tr '\\0' x)",
    ]);
    assert_eq!(
        killed.status.code(),
        Some(137),
        "{}",
        String::from_utf8_lossy(&killed.stderr)
    );
}

/// One container through all it can live through.
fn long_life(engine: &Engine) {
    engine.start(
        "long",
        &[
            "--memory",
            "64m",
            "--pids-limit",
            "50",
            "box",
            "sh",
            "-c",
            "trap 'exit 3' TERM; while :; do sleep 0.01; done",
        ],
    );
    assert_eq!(
        engine.succeed(&[
            "exec",
            "--env",
            "A=b",
            "long",
            "sh",
            "-c",
            "echo $A; hostname >/dev/null"
        ]),
        "b"
    );
    assert_eq!(
        engine.output(&["exec", "long", "sh", "-c", "exit 5"]).status.code(),
        Some(5)
    );
    let missing = engine.output(&["exec", "long", "nothing-like-this"]);
    // Docker 20.10 says 126, later ones and Podman 127; with runc as well.
    assert!(matches!(missing.status.code(), Some(126 | 127)), "{missing:?}");
    let said = String::from_utf8_lossy(&missing.stderr).into_owned() + &String::from_utf8_lossy(&missing.stdout);
    assert!(said.contains("executable file not found in $PATH"), "{said}");
    assert_eq!(engine.succeed(&["exec", "--tty", "long", "tty"]), "/dev/pts/0");
    assert!(engine.succeed(&["top", "long"]).contains("trap"));
    assert!(engine.succeed(&["stats", "--no-stream", "long"]).contains("long"));
    let status = || engine.succeed(&["inspect", "--format", "{{.State.Status}}", "long"]);
    engine.succeed(&["pause", "long"]);
    assert_eq!(status(), "paused");
    engine.succeed(&["unpause", "long"]);
    assert_eq!(status(), "running");
    engine.succeed(&["update", "--memory", "128m", "--memory-swap", "256m", "long"]);
    engine.succeed(&["stop", "--time", "10", "long"]);
    assert_eq!(
        engine.succeed(&["inspect", "--format", "{{.State.ExitCode}}", "long"]),
        "3"
    );
    engine.succeed(&["start", "long"]);
    assert_eq!(status(), "running");
    engine.succeed(&["kill", "long"]);
    eventually("the kill to show", || (status() == "exited").then_some(()));
    engine.succeed(&["rm", "--force", "long"]);
}

#[test]
fn docker_runs_containers_with_it() {
    let Some(lab) = Lab::new() else { return };
    let Some(engine) = docker(&lab) else { return };
    everyday(&engine);
    long_life(&engine);
    assert_ne!(
        engine.ran(&["--init", "box", "sh", "-c", "echo $$"]),
        "1",
        "an init of Docker's is process 1"
    );
}

#[test]
fn podman_runs_containers_with_it() {
    let Some(lab) = Lab::new() else { return };
    let Some(engine) = podman(&lab) else { return };
    everyday(&engine);
    long_life(&engine);
    let mapped = engine.ran(&[
        "--uidmap",
        "0:100000:65536",
        "box",
        "sh",
        "-c",
        "cat /proc/self/uid_map; touch /x && echo made",
    ]);
    assert!(mapped.contains("100000") && mapped.contains("made"), "{mapped}");
}
