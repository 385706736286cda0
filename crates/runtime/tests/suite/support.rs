//! A container of the test's own: a root with nothing but busybox, a control group parent nobody else uses, and clean-up.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gantry_cgroup::Layout;
use gantry_env::{Env, System};
use gantry_model::phase::Exit;
use gantry_model::spec::{ContainerSpec, Resources};
use gantry_runtime::logs::{Range, Reader, Stream};
use gantry_runtime::{
    Handle, ImageDefaults, LaunchError, LaunchInput, LaunchPlan, Launched, LogSettings, Network, install_shim, launch,
    prepare,
};

/// How long anything may take before the test has failed: an emulated machine is some twenty times slower.
pub const DEADLINE: Duration = Duration::from_secs(60);

const BUSYBOX: &str = "/bin/busybox";

/// Whether containers can be started here at all; says so loudly when not.
pub fn can_run() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: starting containers needs root");
        return false;
    }
    if !Path::new(BUSYBOX).exists() {
        eprintln!("SKIPPED: {BUSYBOX} is missing: apt-get install busybox-static");
        return false;
    }
    true
}

/// Runs another test of this very program in a process of its own, which finds `variable` set; what it said.
pub fn run_apart(test: &str, variable: &str) -> String {
    let outcome = std::process::Command::new(std::env::current_exe().expect("test program"))
        .args(["--exact", test, "--nocapture"])
        .env(variable, "1")
        .output()
        .expect("runs");
    let told = format!(
        "{}{}",
        String::from_utf8_lossy(&outcome.stdout),
        String::from_utf8_lossy(&outcome.stderr)
    );
    assert!(outcome.status.success(), "{told}");
    told
}

/// Waits for a condition, and says what was waited for when it does not come.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = System.monotonic();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let waited = System.monotonic().saturating_sub(start);
        assert!(waited.to_std() < DEADLINE, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let folder = std::env::temp_dir().join("gantry-runtime-test-shim");
        install_shim(&folder).expect("the shim installs")
    })
}

/// A layer with busybox, a few accounts, and links that try to lead out.
fn make_layer(layer: &Path) {
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "data", "root", "home/app"] {
        fs::create_dir_all(layer.join(folder)).expect("layer folder");
    }
    fs::copy(BUSYBOX, layer.join("bin/busybox")).expect("busybox");
    let listed = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .expect("busybox lists its names");
    for name in String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", layer.join("bin").join(name)).expect("applet");
    }
    fs::write(
        layer.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n",
    )
    .expect("passwd");
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1001:\nlogs:x:50:app\n").expect("group");
    fs::write(layer.join("data/from-image"), "image data\n").expect("data");
    fs::write(layer.join("etc/not-executable"), "x").expect("file");
    for (name, content) in [("etc/bad-script", "#!/bin/nope -x\n"), ("etc/no-program", "nothing\n")] {
        fs::write(layer.join(name), content).expect("file");
        fs::set_permissions(layer.join(name), fs::Permissions::from_mode(0o755)).expect("mode");
    }
    symlink("nowhere", layer.join("etc/dangling")).expect("link");
}

/// A test's folder, control group parent, and container.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub layout: Layout,
    pub container: ContainerSpec,
    pub resources: Resources,
    pub image: ImageDefaults,
    pub parent: String,
    pub network: Network,
    pub mounts: Vec<gantry_runtime::ResolvedMount>,
    pub host_files: Vec<gantry_runtime::HostFile>,
    pub data_files: Vec<gantry_runtime::DataFile>,
    pub options: gantry_runtime::LaunchOptions,
}

impl Lab {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().expect("temporary folder");
        make_layer(&folder.path().join("layer"));
        Self {
            folder,
            layout: Layout::detect().expect("control groups"),
            container: ContainerSpec::default(),
            resources: Resources::default(),
            image: ImageDefaults::default(),
            parent: format!("gantry-test-{}-{number}", std::process::id()),
            network: Network::Empty,
            mounts: Vec::new(),
            host_files: Vec::new(),
            data_files: Vec::new(),
            options: gantry_runtime::LaunchOptions::default(),
        }
    }

    /// A lab whose container runs a shell script.
    pub fn script(script: &str) -> Self {
        let mut lab = Self::new();
        lab.container.command = Some(["/bin/sh", "-c", script].map(str::to_string).to_vec());
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn bundle(&self) -> PathBuf {
        self.path("bundle")
    }

    pub fn prepare(&self) -> Result<LaunchPlan, LaunchError> {
        prepare(&self.input(), &self.layout)
    }

    /// Only its root.
    pub fn lay_out(&self) -> Result<(), LaunchError> {
        gantry_runtime::lay_out(&self.input(), &self.layout)
    }

    fn input(&self) -> LaunchInput<'_> {
        LaunchInput {
            id: "replica".to_string(),
            bundle: self.bundle(),
            layers: vec![self.path("layer")],
            container: &self.container,
            image: &self.image,
            resources: &self.resources,
            hostname: "box".to_string(),
            network: self.network.clone(),
            mounts: self.mounts.clone(),
            host_files: self.host_files.clone(),
            data_files: self.data_files.clone(),
            cgroup_parent: self.parent.clone(),
            log: LogSettings::at(self.path("log")),
            options: self.options.clone(),
        }
    }

    /// The first process's plan, as an exec would take it over.
    pub fn prepare_process(&self) -> gantry_runtime::plan::ProcessPlan {
        let text = fs::read_to_string(self.bundle().join("process.json")).expect("record");
        serde_json::from_str(&text).expect("record reads")
    }

    pub fn try_start(&self) -> Result<(Launched, Handle), LaunchError> {
        let launched = launch(shim(), &self.prepare()?)?;
        Ok((launched, self.open()))
    }

    pub fn start(&self) -> (Launched, Handle) {
        self.try_start()
            .unwrap_or_else(|error| panic!("the container starts: {error}"))
    }

    pub fn open(&self) -> Handle {
        Handle::open(&self.bundle(), &self.layout).expect("the container can be adopted")
    }

    /// Starts, waits for the end, and gives exit and output.
    pub fn run(&self) -> (Exit, String) {
        let (_, handle) = self.start();
        let exit = handle.wait_timeout(DEADLINE).expect("waits").expect("ends in time");
        (exit, self.output())
    }

    /// Starts a script that sleeps for ever, once it has said so.
    pub fn start_idle() -> (Self, Handle) {
        let lab = Self::script("echo ready; sleep 1000");
        let (_, handle) = lab.start();
        lab.wait_for_output("ready");
        (lab, handle)
    }

    /// Everything logged so far on either stream, line by line.
    pub fn output(&self) -> String {
        self.records().into_iter().map(|(_, text)| text + "\n").collect()
    }

    pub fn records(&self) -> Vec<(Stream, String)> {
        let mut reader = Reader::open(&self.path("log"), Range::default()).expect("log");
        let mut records = Vec::new();
        while let Some(record) = reader.next_record().expect("log reads") {
            records.push((
                record.stream,
                String::from_utf8_lossy(&record.text).trim_end_matches('\r').to_string(),
            ));
        }
        records
    }

    pub fn wait_for_output(&self, text: &str) {
        eventually(text, || self.output().contains(text).then_some(()));
    }

    /// The file of a controller for this lab's container, in either version.
    pub fn cgroup_file(&self, v1: &str, v2: &str) -> PathBuf {
        let unified = Path::new("/sys/fs/cgroup").join(&self.parent).join("replica").join(v2);
        let (controller, file) = v1.split_once('/').expect("controller/file");
        let own = Path::new("/sys/fs/cgroup")
            .join(controller)
            .join(&self.parent)
            .join("replica")
            .join(file);
        if own.exists() { own } else { unified }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Ok(handle) = Handle::open(&self.bundle(), &self.layout)
            && let Err(error) = handle.delete()
        {
            eprintln!("clean-up: {error}");
        }
        for name in ["replica", "shims", ""] {
            // The shim may need a moment to end after its container.
            let group = gantry_cgroup::Group::at(&self.layout, &self.parent, name);
            if let Err(error) = group.remove() {
                eprintln!("clean-up: {error}");
            }
        }
    }
}
