//! Whether the kernel runs programs of another processor: by itself, or by an interpreter that is registered with it
//! (Documentation/admin-guide/binfmt-misc.rst).

use std::fs;
use std::path::Path;

use gantry_dockerfile::Platform;

const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Whether commands of a platform run on a machine of another one.
pub(crate) fn is_there(own: &gantry_image::Platform, wanted: &Platform) -> bool {
    if wanted.os != own.os {
        return false;
    }
    // The kernels of 64 bits run what has 32 without help; arm only on some processors, which is left to the interpreter.
    (own.architecture == "amd64" && wanted.architecture == "386") || is_registered(Path::new(REGISTERED), wanted)
}

/// By the names that QEMU's packages give. Only an interpreter that the kernel opened when it was registered (flag F) is found
/// from within a container.
fn is_registered(folder: &Path, wanted: &Platform) -> bool {
    let processor = match wanted.architecture.as_str() {
        "amd64" => "x86_64",
        "386" => "i386",
        "arm64" => "aarch64",
        other => other,
    };
    let Ok(text) = fs::read_to_string(folder.join(format!("qemu-{processor}"))) else {
        return false;
    };
    let has_flag = |line: &str| line.strip_prefix("flags:").is_some_and(|flags| flags.contains('F'));
    text.lines().next() == Some("enabled") && text.lines().any(has_flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_counts_if_it_is_enabled_and_found_from_everywhere() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let arm = Platform::new("linux", "arm64", "");
        assert!(!is_registered(folder.path(), &arm));
        for (text, expected) in [
            (
                "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OCF\noffset 0\n",
                true,
            ),
            (
                "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OC\noffset 0\n",
                false,
            ),
            ("disabled\ninterpreter /usr/bin/qemu-aarch64\nflags: F\n", false),
        ] {
            fs::write(folder.path().join("qemu-aarch64"), text).expect("file");
            assert_eq!(is_registered(folder.path(), &arm), expected, "{text}");
        }
        let own = gantry_image::Platform::parse("linux/amd64");
        assert!(is_there(&own, &Platform::new("linux", "386", "")));
        assert!(!is_there(&own, &Platform::new("windows", "amd64", "")));
    }
}
