//! A Docker Engine of the test's own, and a Debian root made by debootstrap.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use gantry_model::Digest;
use serde_json::Value;

use crate::support::Lab;

/// The client of the engine's own version: later ones need a plugin to build.
const CLIENT: &str = "/usr/bin/docker";
const START_ATTEMPTS: u32 = 300;

pub struct Docker {
    folder: tempfile::TempDir,
    process: Child,
}

pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn is_there(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {program} is missing: apt-get install docker.io debootstrap");
    }
    found
}

impl Docker {
    pub fn start() -> Option<Self> {
        if !is_there("dockerd") || !is_there(CLIENT) {
            return None;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let log = fs::File::create(folder.path().join("log")).expect("log");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let process = Command::new("dockerd")
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip-masq=false",
                "--exec-opt=native.cgroupdriver=cgroupfs",
            ])
            .arg(format!("--cgroup-parent=/{}", groups()))
            .args([
                "--data-root",
                &path("data"),
                "--exec-root",
                &path("exec"),
                "--pidfile",
                &path("pid"),
            ])
            .args(["--host", &format!("unix://{}", path("sock"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file twice"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let mut docker = Self { folder, process };
        for _ in 0..START_ATTEMPTS {
            if docker
                .command()
                .arg("version")
                .output()
                .is_ok_and(|output| output.status.success())
            {
                return Some(docker);
            }
            assert!(
                docker.process.try_wait().expect("dockerd").is_none(),
                "dockerd ended: {}",
                docker.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("dockerd does not answer: {}", docker.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(CLIENT);
        command.env("DOCKER_CONFIG", self.folder.path().join("config"));
        command
            .arg("--host")
            .arg(format!("unix://{}", self.folder.path().join("sock").display()));
        command
    }

    pub fn import(&self, root: &Path, name: &str) {
        run(self.command().arg("import").arg(root).arg(name));
    }

    pub fn build(&self, context: &Path, name: &str, buildkit: bool) {
        let mut command = self.command();
        command.env("DOCKER_BUILDKIT", if buildkit { "1" } else { "0" });
        run(command.args(["build", "--network=host", "-t", name]).arg(context));
    }

    pub fn save(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.tar"));
        run(self.command().args(["save", "-o"]).arg(&path).arg(name));
        path
    }

    pub fn document(&self, lab: &Lab, config: Digest) -> Value {
        let mut text = Vec::new();
        lab.store
            .open_blob(config)
            .expect("blob")
            .read_to_end(&mut text)
            .expect("reads");
        serde_json::from_slice(&text).expect("JSON")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM lets it stop containerd too.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("is there until waited for");
        self.process.wait().expect("dockerd ends");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = self.folder.path().display().to_string();
        for point in mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|point| point.starts_with(&own))
        {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("control groups").flatten();
        for group in hierarchies
            .map(|entry| entry.path().join(groups()))
            .chain([Path::new("/sys/fs/cgroup").join(groups())])
        {
            remove_groups(&group);
        }
    }
}

/// Parent of the control groups that the engine makes, and leaves behind.
fn groups() -> String {
    format!("gantry-build-peer-{}", std::process::id())
}

fn remove_groups(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups(&entry.path());
    }
    // One in use shows as a leftover, which is what it is.
    let _ = fs::remove_dir(group);
}

/// A tar of a minimal Debian that installs packages from the node's mirror; made once and kept in the cache.
pub fn debian() -> Option<PathBuf> {
    if !is_there("debootstrap") {
        return None;
    }
    let cache = std::env::var_os("GANTRY_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/gantry")))?;
    let tar = cache.join("debian-root.tar");
    if tar.exists() {
        return Some(tar);
    }
    fs::create_dir_all(&cache).expect("cache");
    let Some((mirror, suite, sources)) = mirror() else {
        eprintln!("SKIPPED: no source of Debian packages in /etc/apt/sources.list.d");
        return None;
    };
    let folder = tempfile::tempdir_in(&cache).expect("folder");
    let root = folder.path().join("root");
    run(Command::new("debootstrap")
        .args(["--variant=minbase", &suite])
        .arg(&root)
        .arg(mirror));
    let list = folder.path().join("sources");
    fs::write(&list, sources).expect("sources");
    let script = format!(
        "cd {root} && rm -rf etc/apt/sources.list etc/apt/sources.list.d var/cache/apt/archives/*.deb var/lib/apt/lists/* var/log/*.log dev/* && \
         mkdir -p etc/apt/sources.list.d && cp {sources} etc/apt/sources.list.d/debian.sources && cp -a /etc/apt/apt.conf.d/. etc/apt/apt.conf.d/ && \
         mkdir -p usr/share/keyrings && cp -a /usr/share/keyrings/. usr/share/keyrings/ && rm -f etc/apt/apt.conf.d/20packagekit etc/apt/apt.conf.d/50appstream && \
         tar --numeric-owner --sort=name -cf {tar}.new . && mv {tar}.new {tar}",
        root = root.display(),
        sources = list.display(),
        tar = tar.display()
    );
    run(Command::new("sh").args(["-ec", &script]));
    Some(tar)
}

/// Address and suite of the machine's first source of Debian packages, and the text of all of them.
fn mirror() -> Option<(String, String, String)> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    for entry in fs::read_dir("/etc/apt/sources.list.d").ok()?.flatten() {
        texts.push(fs::read_to_string(entry.path()).unwrap_or_default());
    }
    let mut first = None;
    let mut kept = Vec::new();
    for stanza in texts.iter().flat_map(|text| text.split("\n\n")) {
        let field = |name: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()).map(str::to_string)
        };
        let (Some(mirror), Some(suite)) = (field("URIs:"), field("Suites:")) else {
            continue;
        };
        let release = suite.split('-').next().unwrap_or_default();
        if Path::new("/usr/share/debootstrap/scripts").join(release).exists() {
            kept.push(stanza.trim().to_string());
            first.get_or_insert((mirror, suite));
        }
    }
    let (mirror, suite) = first?;
    Some((mirror, suite, kept.join("\n\n") + "\n"))
}
