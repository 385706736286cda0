//! Small images to run: the distribution's static BusyBox, a program of this machine, its nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of the page that a web server of a test sends slowly.
const SLOW_BYTES: usize = 64 * 1024;

/// Makes a root filesystem with BusyBox and its applets in `folder` and returns the tar.
///
/// # Panics
/// When BusyBox or tar are missing: `deploy/setup` installs them.
#[must_use]
pub fn busybox_rootfs(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    for part in ["bin", "etc", "tmp", "www", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(part)).expect("a folder of the root filesystem");
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("BusyBox is installed");
    let applets = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .expect("BusyBox runs");
    for applet in String::from_utf8_lossy(&applets.stdout)
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n",
    )
    .expect("passwd");
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n").expect("group");
    let tar = folder.join("busybox.tar");
    pack(&root, &tar);
    tar
}

/// Makes a root filesystem in `folder` with one program of this machine as `/program`, and the libraries it needs.
///
/// # Panics
/// When `ldd` cannot tell those.
#[must_use]
pub fn program_rootfs(folder: &Path, program: &Path) -> PathBuf {
    let root = folder.join("program-root");
    add_program(&root, program, "program");
    root
}

/// Makes a root filesystem in `folder` with nginx, BusyBox, and the program that makes load as `/load`; returns its tar.
///
/// # Panics
/// When one of them is missing: `deploy/setup` installs them.
#[must_use]
pub fn web_rootfs(folder: &Path, load: &Path) -> PathBuf {
    let _ = busybox_rootfs(folder);
    let root = folder.join("root");
    add_program(&root, Path::new("/usr/sbin/nginx"), "usr/sbin/nginx");
    add_program(&root, load, "load");
    for part in ["var/log/nginx", "var/lib/nginx", "run"] {
        std::fs::create_dir_all(root.join(part)).expect("a folder of the root filesystem");
    }
    std::fs::write(root.join("www/index.html"), "served\n").expect("a page");
    std::fs::write(root.join("www/slow"), vec![b'x'; SLOW_BYTES]).expect("a page");
    let tar = folder.join("web.tar");
    pack(&root, &tar);
    tar
}

fn add_program(root: &Path, program: &Path, name: &str) {
    let target = root.join(name);
    std::fs::create_dir_all(target.parent().expect("a file has a folder")).expect("a folder for the program");
    std::fs::copy(program, target).expect("the program can be copied");
    let libraries = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&libraries.stdout).into_owned();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().expect("an absolute path has a parent"))
            .expect("a folder for a library");
        std::fs::copy(library, target).expect("a library can be copied");
    }
}

fn pack(root: &Path, tar: &Path) {
    let made = Command::new("tar")
        .arg("-C")
        .arg(root)
        .arg("-cf")
        .arg(tar)
        .arg(".")
        .status();
    assert!(
        made.is_ok_and(|status| status.success()),
        "tar makes the root filesystem"
    );
}
