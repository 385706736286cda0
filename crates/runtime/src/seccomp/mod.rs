//! The filter of system calls: Docker's default profile, for the capabilities of a container.
//!
//! `allowed.txt` says which calls are allowed, one table per architecture says which number a name has there. Arguments decide
//! over three calls: `clone` (no new namespaces), `socket` (no vsock), `personality` (only harmless ones).

mod profile;
mod program;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use gantry_model::Problem;
use gantry_shim::plan::SeccompPlan;
use gantry_sys::seccomp::pack;

use crate::capability;
pub use profile::plan as seccomp_plan;
use program::{Architecture, ArgumentTest, Verdict};

const ALLOWED: &str = include_str!("allowed.txt");

/// `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [(u32, &str); 2] = [
    (0xc000_003e, include_str!("x86_64.txt")),
    (0x4000_0003, include_str!("i386.txt")),
];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [(u32, &str); 1] = [(0xc000_00b7, include_str!("aarch64.txt"))];

/// Flags of `clone(2)` that make namespaces: ipc, mount, net, pid, user, uts, cgroup.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// `AF_VSOCK`: reaches the machine's hypervisor past any network namespace.
const VSOCK: u32 = 40;
/// Linux, with and without UNAME26, BSD-free; and the question which it is.
const PERSONALITIES: &[u32] = &[0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The filter of a container: a profile of its own, or Docker's default one.
pub(crate) fn plan(profile: Option<&str>, capabilities: u64) -> Result<SeccompPlan, Problem> {
    match profile {
        Some(text) => profile::plan(text, capabilities),
        None => Ok(SeccompPlan {
            program: filter(capabilities),
            flags: 0,
        }),
    }
}

/// The packed filter for a set of capabilities. Compiled once per set.
pub(crate) fn filter(capabilities: u64) -> Vec<u64> {
    static COMPILED: Mutex<BTreeMap<u64, Vec<u64>>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    compiled
        .entry(capabilities)
        .or_insert_with(|| compile(capabilities))
        .clone()
}

fn compile(capabilities: u64) -> Vec<u64> {
    let architectures: Vec<Architecture> = ARCHITECTURES
        .iter()
        .map(|(audit, table)| Architecture {
            audit: *audit,
            verdicts: verdicts(&numbers(table), capabilities),
            beyond: Verdict::NO_SUCH_CALL,
            rules: Vec::new(),
        })
        .collect();
    program::assemble(&architectures).into_iter().map(pack).collect()
}

fn numbers(table: &str) -> BTreeMap<&str, u32> {
    table
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, number)| Some((name, number.parse().ok()?)))
        .collect()
}

/// One verdict for each number from 0 to the highest that the table knows.
fn verdicts(numbers: &BTreeMap<&str, u32>, capabilities: u64) -> Vec<Verdict> {
    let count = numbers.values().max().map_or(0, |highest| *highest as usize + 1);
    let mut verdicts = vec![Verdict::DENY; count];
    let mut set = |name: &str, verdict: Verdict| {
        if let Some(number) = numbers.get(name) {
            verdicts[*number as usize] = verdict;
        }
    };
    set("clone", Verdict::Test(ArgumentTest::AllOfMaskClear(CLONE_NAMESPACES)));
    // What the C library takes for "an old kernel", so that it falls back to clone, whose flags can be tested.
    set("clone3", Verdict::NO_SUCH_CALL);
    set("socket", Verdict::Test(ArgumentTest::Not(VSOCK)));
    set("personality", Verdict::Test(ArgumentTest::OneOf(PERSONALITIES)));
    let mut applies = false;
    for line in ALLOWED.lines().filter(|line| !line.starts_with('#')) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            applies = section == "ALWAYS" || capability::bit(section).is_some_and(|bit| capabilities & bit != 0);
        } else if applies {
            line.split_whitespace().for_each(|name| set(name, Verdict::Allow));
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::program::run;
    use super::*;
    use gantry_sys::seccomp::unpack;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;
    const KILL: u32 = 0x8000_0000;

    fn outcome(capabilities: u64, architecture: usize, name: &str, argument: u32) -> u32 {
        let (audit, table) = ARCHITECTURES[architecture];
        let number = numbers(table)[name];
        let program: Vec<_> = compile(capabilities).into_iter().map(unpack).collect();
        run(&program, number, audit, [argument.into(), 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_default_set_gets_dockers_profile() {
        let default = capability::resolve(&[], &[]).expect("no names to be wrong");
        for architecture in 0..ARCHITECTURES.len() {
            for (name, argument, expected) in [
                ("read", 0, ALLOW),
                ("chroot", 0, ALLOW),
                ("ptrace", 0, ALLOW),
                ("mount", 0, EPERM),
                ("unshare", 0, EPERM),
                ("io_uring_setup", 0, EPERM),
                ("keyctl", 0, EPERM),
                ("reboot", 0, EPERM),
                ("clone", 0x11, ALLOW),
                ("clone", 0x1000_0011, EPERM),
                ("clone3", 0, ENOSYS),
                ("personality", 0xffff_ffff, ALLOW),
                ("personality", 4, EPERM),
                ("socket", 2, ALLOW),
                ("socket", 40, EPERM),
            ] {
                assert_eq!(
                    outcome(default, architecture, name, argument),
                    expected,
                    "{name} {argument:#x}"
                );
            }
        }
    }

    #[test]
    fn capabilities_open_what_they_are_for() {
        for (name, argument) in [("mount", 0), ("clone", 0x1000_0011), ("clone3", 0), ("reboot", 0)] {
            assert_eq!(outcome(capability::ALL, 0, name, argument), ALLOW, "{name}");
        }
    }

    #[test]
    fn every_call_gets_its_own_verdict() {
        let default = capability::resolve(&[], &[]).expect("no names to be wrong");
        let program: Vec<_> = compile(default).into_iter().map(unpack).collect();
        for (audit, table) in ARCHITECTURES {
            let verdicts = verdicts(&numbers(table), default);
            for (number, verdict) in verdicts.iter().enumerate() {
                let expected = match verdict {
                    Verdict::Allow => ALLOW,
                    Verdict::Errno(errno) => 0x0005_0000 | u32::from(*errno),
                    Verdict::Test(_) | Verdict::Return(_) | Verdict::Rules(_) => continue,
                };
                assert_eq!(run(&program, number as u32, audit, [0; 6]), expected, "call {number}");
            }
            assert_eq!(
                run(&program, verdicts.len() as u32, audit, [0; 6]),
                ENOSYS,
                "a call of a later kernel"
            );
            assert_eq!(run(&program, 0x4000_0000, audit, [0; 6]), ENOSYS, "x32");
        }
        assert_eq!(run(&program, 0, 0x1234, [0; 6]), KILL, "a foreign architecture");
        assert!(program.len() < 2000, "{} instructions", program.len());
    }

    #[test]
    fn every_name_in_the_profile_exists_somewhere() {
        let tables = [
            include_str!("x86_64.txt"),
            include_str!("i386.txt"),
            include_str!("aarch64.txt"),
        ]
        .map(numbers);
        let lines = ALLOWED.lines().filter(|line| !line.starts_with(['#', '[']));
        for name in lines.flat_map(str::split_whitespace) {
            assert!(tables.iter().any(|table| table.contains_key(name)), "{name}");
        }
    }
}
