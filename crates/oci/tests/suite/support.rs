//! A root folder and bundles of the test's own, the program, and clean-up.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gantry_env::{Env, System};
use serde_json::{Value, json};

/// How long anything may take before the test has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_gantry-oci");
const BUSYBOX: &str = "/bin/busybox";

/// Waits for a condition, and says what was waited for when it does not come.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = System.monotonic();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let waited = System.monotonic().saturating_sub(start);
        assert!(waited.to_std() < DEADLINE, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A root with nothing but busybox.
pub fn make_rootfs(root: &Path) {
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "data", "root"] {
        fs::create_dir_all(root.join(folder)).expect("folder");
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox");
    let listed = Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .expect("busybox lists its names");
    for name in String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", root.join("bin").join(name)).expect("applet");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("passwd");
}

/// Containers of one test.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub parent: String,
}

impl Lab {
    /// None, loudly, where containers cannot be made.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: containers need root");
            return None;
        }
        if !Path::new(BUSYBOX).exists() {
            eprintln!("SKIPPED: {BUSYBOX} is missing: apt-get install busybox-static");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            folder: tempfile::tempdir().expect("temporary folder"),
            parent: format!("gantry-oci-test-{}-{number}", std::process::id()),
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command with this lab's root folder.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(args)
            .env("GANTRY_OCI_SHIM_DIR", std::env::temp_dir().join("gantry-oci-test-shim"))
            .stdin(Stdio::null());
        command
    }

    pub fn output<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Output {
        self.command(args).output().expect("the program runs")
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn succeed<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Standard error of a command that must fail.
    #[track_caller]
    pub fn fail<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> String {
        let output = self.output(args);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A document for a script, as `spec` writes it, in a bundle of its own; `change` makes it the test's.
    pub fn bundle(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.path(name);
        fs::create_dir_all(&bundle).expect("bundle");
        make_rootfs(&bundle.join("rootfs"));
        self.succeed(["spec".as_ref(), "--bundle".as_ref(), bundle.as_os_str()]);
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("config")).expect("a document");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{name}", self.parent));
        change(&mut config);
        fs::write(&path, config.to_string()).expect("config");
        bundle
    }

    /// Runs a document in the foreground: exit status and output.
    #[track_caller]
    pub fn run(&self, script: &str, change: impl FnOnce(&mut Value)) -> (i32, String) {
        let bundle = self.bundle("run", script, change);
        let output = self.output(["run".as_ref(), "--bundle".as_ref(), bundle.as_os_str(), "run".as_ref()]);
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let _ = fs::remove_dir_all(bundle);
        (output.status.code().unwrap_or(-1), text)
    }

    /// Creates a container of the bundle's name, its output in a file, and gives its process.
    #[track_caller]
    pub fn create(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> Created<'_> {
        let bundle = self.bundle(name, script, change);
        let log = self.path(&format!("{name}.out"));
        let file = fs::File::create(&log).expect("output file");
        let pid_file = self.path(&format!("{name}.pid"));
        let mut command = self.command(["create".as_ref(), "--bundle".as_ref(), bundle.as_os_str()]);
        command.arg("--pid-file").arg(&pid_file).arg(name);
        let errors = self.path(&format!("{name}.err"));
        let status = command
            .stdout(file)
            .stderr(fs::File::create(&errors).expect("error file"))
            .status()
            .expect("the program runs");
        assert!(status.success(), "{}", fs::read_to_string(&errors).unwrap_or_default());
        let pid = fs::read_to_string(pid_file)
            .expect("pid file")
            .parse()
            .expect("a number");
        Created {
            lab: self,
            name: name.to_string(),
            pid,
            log,
        }
    }

    pub fn status(&self, name: &str) -> String {
        let state: Value = serde_json::from_str(&self.succeed(["state", name])).expect("a document");
        state["status"].as_str().unwrap_or_default().to_string()
    }
}

/// A container that was created.
pub struct Created<'a> {
    lab: &'a Lab,
    pub name: String,
    pub pid: i32,
    log: PathBuf,
}

impl Created<'_> {
    pub fn wait_for_status(&self, status: &str) {
        eventually(status, || (self.lab.status(&self.name) == status).then_some(()));
    }

    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait_for_output(&self, text: &str) {
        eventually(text, || self.output().contains(text).then_some(()));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in self.succeed(["list", "--quiet"]).lines() {
            self.output(["delete", "--force", name]);
        }
        if let Ok(layout) = gantry_cgroup::Layout::detect()
            && let Err(error) = gantry_cgroup::Group::at(&layout, &self.parent, "").remove()
        {
            eprintln!("clean-up: {error}");
        }
    }
}

/// Starts a program with text for its standard input.
pub fn with_input(command: &mut Command, text: &str) -> Output {
    let mut child: Child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawns");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(text.as_bytes())
        .expect("writes");
    child.wait_with_output().expect("ends")
}
