//! Profiles in JSON: Docker's format, with rules by capability, kernel and architecture, and that of the OCI runtime
//! specification, which is the same without those.

use std::collections::BTreeMap;

use gantry_model::{Class, Problem};
use gantry_shim::plan::SeccompPlan;
use gantry_sys::seccomp::pack;
use serde::Deserialize;

use super::program::{Architecture, Comparison, Condition, Rule, RuleList, Verdict, assemble};
use super::{ARCHITECTURES, numbers};
use crate::capability;

/// `BPF_MAXINSNS`: the kernel takes no longer programs.
const INSTRUCTIONS_MAX: usize = 4096;

/// `SECCOMP_RET_*`.
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
/// EPERM, when a profile does not say.
const ERRNO_DEFAULT: u32 = 1;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchitectureMap>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Calls>,
    listener_path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Name in profiles, name in Docker's `arches`, value in `linux/audit.h`.
const NAMES: &[(&str, &str, u32)] = &[
    ("SCMP_ARCH_X86_64", "amd64", 0xc000_003e),
    ("SCMP_ARCH_X86", "x86", 0x4000_0003),
    ("SCMP_ARCH_AARCH64", "arm64", 0xc000_00b7),
];

/// `SECCOMP_FILTER_FLAG_*` of `linux/seccomp.h`.
const FLAGS: &[(&str, u32)] = &[
    ("SECCOMP_FILTER_FLAG_TSYNC", 1),
    ("SECCOMP_FILTER_FLAG_LOG", 2),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 32),
];

/// The filter of a profile, for a process with these capabilities.
///
/// # Errors
/// When it does not read, or asks for what cannot be done.
pub fn plan(text: &str, capabilities: u64) -> Result<SeccompPlan, Problem> {
    let profile: Profile =
        serde_json::from_str(text).map_err(|error| invalid(format!("the seccomp profile does not read: {error}")))?;
    if profile.listener_path.is_some() {
        return Err(invalid(
            "seccomp listeners (`listenerPath`) are not supported".to_string(),
        ));
    }
    let native = ARCHITECTURES[0].0;
    let mut wanted = wanted(&profile, native);
    wanted.push(native);
    let architectures = ARCHITECTURES
        .iter()
        .filter(|(audit, _)| wanted.contains(audit))
        .map(|(audit, table)| architecture(&profile, *audit, table, capabilities))
        .collect::<Result<Vec<_>, _>>()?;
    let program: Vec<u64> = assemble(&architectures).into_iter().map(pack).collect();
    if program.len() > INSTRUCTIONS_MAX {
        let reason = format!(
            "the seccomp profile takes {} instructions, the kernel {INSTRUCTIONS_MAX}",
            program.len()
        );
        return Err(invalid(reason));
    }
    Ok(SeccompPlan {
        program,
        flags: flags(&profile.flags)?,
    })
}

fn invalid(reason: String) -> Problem {
    Problem::new(Class::Invalid, "", reason).remedy("compare it with Docker's default profile")
}

fn flags(names: &[String]) -> Result<u32, Problem> {
    names.iter().try_fold(0, |all, name| {
        let known = FLAGS.iter().find(|(known, _)| known == name);
        known
            .map(|(_, flag)| all | flag)
            .ok_or_else(|| invalid(format!("there is no seccomp flag '{name}'")))
    })
}

fn wanted(profile: &Profile, native: u32) -> Vec<u32> {
    let audit = |name: &String| NAMES.iter().find(|(known, ..)| known == name).map(|(.., audit)| *audit);
    let mut wanted: Vec<u32> = profile.architectures.iter().filter_map(audit).collect();
    for map in &profile.arch_map {
        if audit(&map.architecture) == Some(native) {
            wanted.extend(map.sub_architectures.iter().flatten().filter_map(audit));
        }
    }
    wanted
}

fn architecture(profile: &Profile, audit: u32, table: &str, capabilities: u64) -> Result<Architecture, Problem> {
    let default = outcome(&profile.default_action, profile.default_errno_ret)?;
    let numbers = numbers(table);
    let mut by_number: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for calls in &profile.syscalls {
        if !applies(calls, capabilities) {
            continue;
        }
        let outcome = outcome(&calls.action, calls.errno_ret)?;
        let rules = rules(calls, outcome)?;
        // Names of other architectures and of later kernels are left out, as runc does.
        for number in calls
            .names
            .iter()
            .chain(&calls.name)
            .filter_map(|name| numbers.get(name.as_str()))
        {
            by_number.entry(*number).or_default().extend(rules.iter().cloned());
        }
    }
    let count = numbers.values().max().map_or(0, |highest| *highest as usize + 1);
    let mut lists = Vec::new();
    let mut verdicts = vec![Verdict::Return(default); count];
    for (number, rules) in by_number {
        verdicts[number as usize] = verdict(rules, default, &mut lists);
    }
    Ok(Architecture {
        audit,
        verdicts,
        // A call that nobody knew when the profile was written is absent rather than forbidden: programs fall back.
        beyond: if default >> 16 == ERRNO >> 16 {
            Verdict::NO_SUCH_CALL
        } else {
            Verdict::Return(default)
        },
        rules: lists,
    })
}

/// A rule without conditions goes before those with.
fn verdict(rules: Vec<Rule>, default: u32, lists: &mut Vec<RuleList>) -> Verdict {
    if let Some(rule) = rules.iter().rfind(|rule| rule.conditions.is_empty()) {
        return Verdict::Return(rule.outcome);
    }
    lists.push(RuleList {
        rules,
        otherwise: default,
    });
    Verdict::Rules(lists.len() - 1)
}

/// Conditions on one argument twice are alternatives, as libseccomp cannot have both in one rule.
fn rules(calls: &Calls, outcome: u32) -> Result<Vec<Rule>, Problem> {
    let arguments = calls.args.as_deref().unwrap_or_default();
    let conditions = arguments.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let is_repeated =
        |condition: &Condition| conditions.iter().filter(|other| other.index == condition.index).count() > 1;
    if conditions.iter().any(is_repeated) {
        let alone = |condition| Rule {
            conditions: vec![condition],
            outcome,
        };
        return Ok(conditions.into_iter().map(alone).collect());
    }
    Ok(vec![Rule { conditions, outcome }])
}

fn condition(argument: &Argument) -> Result<Condition, Problem> {
    if argument.index > 5 {
        return Err(invalid(format!("a system call has no argument {}", argument.index)));
    }
    let (comparison, value) = match argument.op.as_str() {
        "SCMP_CMP_EQ" => (Comparison::Equal, argument.value),
        "SCMP_CMP_NE" => (Comparison::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Comparison::Less, argument.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, argument.value),
        "SCMP_CMP_GT" => (Comparison::Greater, argument.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, argument.value),
        "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual(argument.value), argument.value_two),
        other => return Err(invalid(format!("there is no seccomp comparison '{other}'"))),
    };
    Ok(Condition {
        index: argument.index,
        comparison,
        value,
    })
}

/// What the kernel is told.
fn outcome(action: &str, errno: Option<u32>) -> Result<u32, Problem> {
    let data = || errno.unwrap_or(ERRNO_DEFAULT) & 0xffff;
    Ok(match action {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | data(),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data(),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => {
            return Err(invalid(
                "the seccomp action SCMP_ACT_NOTIFY is not supported".to_string(),
            ));
        }
        other => return Err(invalid(format!("there is no seccomp action '{other}'"))),
    })
}

/// Every capability of `includes` is there, none of `excludes`; likewise for kernel and architecture, as in Docker.
fn applies(calls: &Calls, capabilities: u64) -> bool {
    let has = |name: &String| capability::bit(name).is_some_and(|bit| capabilities & bit != 0);
    let native = NAMES
        .iter()
        .find(|(.., audit)| *audit == ARCHITECTURES[0].0)
        .map_or("", |(_, name, _)| *name);
    let is_native = |names: &[String]| names.iter().any(|name| name == native);
    let is_included = calls.includes.as_ref().is_none_or(|filter| {
        filter.caps.iter().all(has)
            && (filter.arches.is_empty() || is_native(&filter.arches))
            && filter.min_kernel.as_deref().is_none_or(runs_at_least)
    });
    let is_excluded = calls.excludes.as_ref().is_some_and(|filter| {
        filter.caps.iter().any(has)
            || is_native(&filter.arches)
            || filter.min_kernel.as_deref().is_some_and(runs_at_least)
    });
    is_included && !is_excluded
}

fn runs_at_least(version: &str) -> bool {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    kernel_version(&release.unwrap_or_default()) >= kernel_version(version)
}

/// The first two numbers.
fn kernel_version(text: &str) -> (u32, u32) {
    let mut numbers = text
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::program::run;
    use super::*;
    use gantry_sys::seccomp::unpack;

    fn told(profile: &str, capabilities: u64, call: &str, arguments: [u64; 6]) -> u32 {
        let plan = plan(profile, capabilities).unwrap_or_else(|problem| panic!("{problem:?}"));
        let program: Vec<_> = plan.program.into_iter().map(unpack).collect();
        let (audit, table) = ARCHITECTURES[0];
        run(&program, numbers(table)[call], audit, arguments)
    }

    fn with_argument(op: &str, value: u64, value_two: u64) -> String {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[{{"names":["read"],
            "action":"SCMP_ACT_ALLOW","args":[{{"index":2,"value":{value},"valueTwo":{value_two},"op":"{op}"}}]}}]}}"#
        )
    }

    #[test]
    fn every_comparison_looks_at_all_bits() {
        let edge = 0x1_0000_0005_u64;
        let values = [0, 5, 0xffff_ffff, edge - 1, edge, edge + 1, 0x2_0000_0000, u64::MAX];
        for value in values {
            let holds = [
                ("SCMP_CMP_EQ", value == edge),
                ("SCMP_CMP_NE", value != edge),
                ("SCMP_CMP_LT", value < edge),
                ("SCMP_CMP_LE", value <= edge),
                ("SCMP_CMP_GT", value > edge),
                ("SCMP_CMP_GE", value >= edge),
            ];
            for (op, holds) in holds {
                let expected = if holds { ALLOW } else { ERRNO | 38 };
                let profile = with_argument(op, edge, 0);
                assert_eq!(
                    told(&profile, 0, "read", [0, 0, value, 0, 0, 0]),
                    expected,
                    "{value:#x} {op}"
                );
            }
            let masked = with_argument("SCMP_CMP_MASKED_EQ", 0x1_0000_0001, 0x1_0000_0000);
            let expected = if value & 0x1_0000_0001 == 0x1_0000_0000 {
                ALLOW
            } else {
                ERRNO | 38
            };
            assert_eq!(
                told(&masked, 0, "read", [0, 0, value, 0, 0, 0]),
                expected,
                "{value:#x} masked"
            );
        }
    }

    #[test]
    fn rules_depend_on_capabilities_and_kernel() {
        let profile = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64",
            "subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[
            {"names":["mount","nonsense"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["clone"],"action":"SCMP_ACT_KILL_PROCESS","excludes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["ptrace"],"action":"SCMP_ACT_TRACE","errnoRet":7,"includes":{"minKernel":"4.8"}},
            {"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.1"}},
            {"name":"write","action":"SCMP_ACT_LOG","args":null}]}"#;
        let admin = 1 << 21;
        assert_eq!(told(profile, admin, "mount", [0; 6]), ALLOW);
        assert_eq!(told(profile, 0, "mount", [0; 6]), ERRNO | 1);
        assert_eq!(told(profile, 0, "clone", [0; 6]), 0x8000_0000);
        assert_eq!(told(profile, admin, "clone", [0; 6]), ERRNO | 1);
        assert_eq!(told(profile, 0, "ptrace", [0; 6]), 0x7ff0_0007);
        assert_eq!(told(profile, 0, "bpf", [0; 6]), ERRNO | 1);
        assert_eq!(told(profile, 0, "write", [0; 6]), 0x7ffc_0000);
    }

    #[test]
    fn one_argument_twice_means_either() {
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ERRNO",
            "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#;
        for (value, expected) in [(1, ERRNO | 1), (2, ERRNO | 1), (3, ALLOW)] {
            assert_eq!(told(profile, 0, "personality", [value, 0, 0, 0, 0, 0]), expected);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (profile, word) in [
            ("{", "does not read"),
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "NOTIFY"),
            (r#"{"defaultAction":"SCMP_ACT_FLY"}"#, "FLY"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#, "'X'"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#,
                "listenerPath",
            ),
        ] {
            let refused = plan(profile, 0).expect_err(profile);
            assert!(refused.reason.contains(word), "{}", refused.reason);
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(kernel_version("6.18.44-fc") > kernel_version("6.1"));
        assert!(kernel_version("4.8") >= kernel_version("4.8.0-rc1"));
    }
}
