//! Capability names, Docker's default set, and what a spec makes of it.

use gantry_model::{Class, Problem};

/// Names by number (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default set (`oci/caps/defaults.go` of moby).
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability that has a name here.
pub(crate) const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of a name, with or without `CAP_`, in any case.
#[must_use]
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).map(|number| 1 << number)
}

fn bits(names: &[String]) -> Result<u64, Problem> {
    names.iter().filter(|name| !is_all(name)).try_fold(0, |set, name| {
        let unknown = || {
            Problem::new(Class::Invalid, "", format!("there is no capability '{name}'"))
                .remedy("write names of capabilities(7) without CAP_, such as NET_ADMIN, or ALL")
        };
        bit(name).map(|bit| set | bit).ok_or_else(unknown)
    })
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

/// The set of a container, by Docker's rules: adding ALL and dropping some, or dropping ALL and adding some, or both lists
/// applied to the default.
pub(crate) fn resolve(add: &[String], drop: &[String]) -> Result<u64, Problem> {
    let (added, dropped) = (bits(add)?, bits(drop)?);
    let default = DEFAULT
        .iter()
        .filter_map(|name| bit(name))
        .fold(0, |set, bit| set | bit);
    Ok(if add.iter().any(|name| is_all(name)) {
        ALL & !dropped
    } else if drop.iter().any(|name| is_all(name)) {
        added
    } else {
        default & !dropped | added
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    #[test]
    fn sets_follow_dockers_rules() {
        let set = |add: &[&str], drop: &[&str]| resolve(&names(add), &names(drop));
        assert_eq!(set(&[], &[]), Ok(0xa804_25fb));
        assert_eq!(set(&["NET_ADMIN"], &["CAP_CHOWN"]), Ok(0xa804_25fb & !1 | 1 << 12));
        assert_eq!(set(&["net_bind_service"], &["ALL"]), Ok(1 << 10));
        assert_eq!(set(&["ALL"], &["SYS_ADMIN"]), Ok(ALL & !(1 << 21)));
        assert!(set(&["FLY"], &[]).is_err_and(|problem| problem.reason.contains("'FLY'")));
    }
}
