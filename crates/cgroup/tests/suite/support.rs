//! A parent group of the test's own, what its files say, and clean-up.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use gantry_cgroup::{CgroupError, Controller, Device, Group, Layout, Limits};

/// Groups of one test.
pub struct Lab {
    pub layout: Layout,
    pub parent: String,
}

impl Lab {
    /// None, loudly, where groups cannot be made or one of the controllers is missing.
    pub fn new(test: &str, needed: &[Controller]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: control groups need root");
            return None;
        }
        let lab = Self {
            layout: Layout::detect().expect("control groups"),
            parent: format!("gantry-test-{test}-{}", std::process::id()),
        };
        for controller in needed {
            if !lab.has(*controller) {
                eprintln!("SKIPPED: this machine has no {} controller", controller.name());
                return None;
            }
        }
        Some(lab)
    }

    pub fn has(&self, controller: Controller) -> bool {
        self.is_v1(controller) || self.unified_controllers().contains(&name_in_unified(controller))
    }

    pub fn is_v1(&self, controller: Controller) -> bool {
        self.layout
            .v1_mounts()
            .values()
            .any(|controllers| controllers.contains(&controller))
    }

    fn unified_controllers(&self) -> Vec<String> {
        let mount = unified_mount().unwrap_or_default();
        let listed = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let core = if unified_mount().is_some() {
            "freezer devices cpuacct"
        } else {
            ""
        };
        listed
            .split_whitespace()
            .chain(core.split_whitespace())
            .map(str::to_string)
            .collect()
    }

    pub fn has_unified(&self) -> bool {
        unified_mount().is_some()
    }

    pub fn group(&self, name: &str) -> Group {
        Group::at(&self.layout, &self.parent, name)
    }

    pub fn try_create(&self, name: &str, limits: &Limits) -> Result<Group, CgroupError> {
        Group::create(&self.layout, &self.parent, name, limits)
    }

    pub fn create(&self, name: &str, limits: &Limits) -> Group {
        self.try_create(name, limits).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the file says in the version this machine has; `v1` is `controller/file`.
    pub fn read(&self, name: &str, v1: &str, v2: &str) -> String {
        let own = v1.split_once('/').map(|(controller, file)| {
            let mounts = self.layout.v1_mounts();
            let mount = mounts
                .iter()
                .find(|(_, controllers)| controllers.iter().any(|own| own.name() == controller));
            mount.map(|(mount, _)| mount.join(&self.parent).join(name).join(file))
        });
        match own.flatten() {
            Some(path) => std::fs::read_to_string(path).unwrap_or_default().trim().to_string(),
            None => self.read_unified(name, v2),
        }
    }

    pub fn read_unified(&self, name: &str, file: &str) -> String {
        let path = unified_mount()
            .unwrap_or_default()
            .join(&self.parent)
            .join(name)
            .join(file);
        std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
    }

    /// Fails unless the file says so; swap files are only there where swap is counted.
    #[track_caller]
    pub fn expect(&self, name: &str, (v1, in_v1): (&str, &str), (v2, in_v2): (&str, &str)) {
        let controller = v1.split('/').next().unwrap_or_default();
        let is_v1 = Controller::ALL
            .into_iter()
            .any(|own| own.name() == controller && self.is_v1(own));
        let (file, expected) = if is_v1 { (v1, in_v1) } else { (v2, in_v2) };
        assert_eq!(self.read(name, v1, v2), expected, "{file} of {name}");
    }

    /// Brings this process back to where tests start.
    pub fn leave(&self) {
        for mount in self.layout.v1_mounts().into_keys().chain(unified_mount()) {
            let joined = std::fs::read_to_string(mount.join(&self.parent).join("all/cgroup.procs"));
            if joined.is_ok_and(|processes| !processes.is_empty()) {
                std::fs::write(mount.join("cgroup.procs"), "0").expect("leaves");
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let group = Group::at(&self.layout, &self.parent, "");
        let outcome = group.kill_all().and_then(|()| group.remove());
        if let Err(error) = outcome {
            eprintln!("clean-up: {error}");
        }
    }
}

fn name_in_unified(controller: Controller) -> String {
    if controller == Controller::Io {
        "io"
    } else {
        controller.name()
    }
    .to_string()
}

fn unified_mount() -> Option<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mount table");
    let line = table.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// A whole block device of this machine.
pub fn some_disk() -> Option<Device> {
    let entries = std::fs::read_dir("/sys/block").ok()?.flatten();
    let nodes = entries.map(|entry| Path::new("/dev").join(entry.file_name()));
    nodes.into_iter().find_map(|node| Device::of(&node).ok())
}

/// A size of huge pages as control groups spell it.
pub fn huge_page_size() -> Option<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let kilobytes = names.filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok());
    kilobytes.min().map(|size| {
        if size >= 1 << 20 {
            format!("{}GB", size >> 20)
        } else {
            format!("{}MB", size >> 10)
        }
    })
}

pub fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().expect("spawns")
}

/// Whether a process of the group can read the device.
pub fn can_read_within(group: &Group, device: &str) -> bool {
    let mut child = Command::new("sh")
        .args(["-c", "read go; exec head -c 1 \"$0\"", device])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("spawns");
    group.add(child.id()).expect("joins");
    let mut input = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut input, b"go\n").expect("writes");
    child.wait().expect("ends").success()
}
