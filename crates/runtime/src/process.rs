//! The process of a container: command, environment, user, limits, privileges.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gantry_model::spec::{ContainerSpec, Ulimit};
use gantry_model::{Class, Problem};
use gantry_shim::plan::{CapabilitySets, ProcessPlan, UserPlan};

use crate::{ImageDefaults, LaunchInput, capability, seccomp};

/// `RLIM_INFINITY`.
const UNLIMITED: u64 = u64::MAX;

pub(crate) fn plan(input: &LaunchInput<'_>) -> Result<ProcessPlan, Problem> {
    let (container, image) = (input.container, input.image);
    let (user, group) = user(container, image);
    let capabilities = if container.privileged {
        capability::ALL
    } else {
        capability::resolve(&container.cap_add, &container.cap_drop)?
    };
    let filter = if container.privileged || container.seccomp_unconfined {
        None
    } else {
        Some(seccomp::plan(container.seccomp_profile.as_deref(), capabilities)?)
    };
    Ok(ProcessPlan {
        args: command(container, image)?,
        env: environment(&image.env, &container.environment),
        cwd: working_folder(container, image)?,
        usual_env: true,
        user: UserPlan::Named {
            user,
            group,
            group_add: container.group_add.clone(),
        },
        umask: None,
        capabilities: CapabilitySets::alike(capabilities),
        no_new_privileges: container.no_new_privileges,
        seccomp: filter,
        apparmor: apparmor(container)?,
        rlimits: container
            .ulimits
            .iter()
            .map(|(name, limit)| rlimit(name, *limit))
            .collect::<Result<_, _>>()?,
        oom_score_adj: Some(container.oom_score_adj.unwrap_or(0)),
        scheduler: None,
        io_priority: None,
        personality: None,
        tty: container.tty,
        console_size: input.options.console_size,
        stdin: container.stdin_open,
        passed_fds: 0,
        console_socket: None,
    })
}

/// A profile that cannot be applied is an error: it would protect from nothing, silently.
fn apparmor(container: &ContainerSpec) -> Result<Option<String>, Problem> {
    let profile = container
        .apparmor_profile
        .as_deref()
        .filter(|name| *name != "unconfined");
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let is_enabled = enabled.is_ok_and(|text| text.starts_with('Y'));
    match profile {
        Some(name) if !is_enabled && !container.privileged => {
            let reason = format!("AppArmor profile '{name}' cannot be applied: this node's kernel has no AppArmor");
            Err(Problem::new(Class::Invalid, "", reason)
                .remedy("leave out `security_opt: apparmor:…`, or constrain the service to nodes that have AppArmor"))
        }
        profile => Ok(profile.filter(|_| !container.privileged).map(str::to_string)),
    }
}

/// The image's command only counts together with the image's own entrypoint.
fn command(container: &ContainerSpec, image: &ImageDefaults) -> Result<Vec<String>, Problem> {
    let (entrypoint, default) = match &container.entrypoint {
        Some(entrypoint) => (entrypoint, &[][..]),
        None => (&image.entrypoint, &image.cmd[..]),
    };
    let rest = container.command.as_deref().unwrap_or(default);
    let args: Vec<String> = entrypoint.iter().chain(rest).cloned().collect();
    if args.is_empty() {
        let problem = Problem::new(Class::Invalid, "", "neither the image nor the spec has a command");
        return Err(problem.remedy("set `command` or `entrypoint`"));
    }
    Ok(args)
}

/// The image's variables in their order, changed and removed by the spec's, then the spec's further ones.
fn environment(image: &[String], spec: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let name_of = |variable: &str| variable.split('=').next().unwrap_or_default().to_string();
    let mut variables = Vec::new();
    for variable in image {
        match spec.get(&name_of(variable)) {
            None => variables.push(variable.clone()),
            Some(Some(value)) => variables.push(format!("{}={value}", name_of(variable))),
            Some(None) => {}
        }
    }
    let is_new = |name: &str| !image.iter().any(|variable| name_of(variable) == name);
    let further = spec.iter().filter(|(name, _)| is_new(name));
    variables.extend(further.filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={value}"))));
    variables
}

fn user(container: &ContainerSpec, image: &ImageDefaults) -> (String, Option<String>) {
    match &container.user {
        Some(user) => (user.user.clone(), user.group.clone()),
        None => split_user(&image.user),
    }
}

/// `user[:group]`.
pub(crate) fn split_user(text: &str) -> (String, Option<String>) {
    match text.split_once(':') {
        Some((user, group)) => (user.to_string(), (!group.is_empty()).then(|| group.to_string())),
        None => (text.to_string(), None),
    }
}

fn working_folder(container: &ContainerSpec, image: &ImageDefaults) -> Result<PathBuf, Problem> {
    let folder = container.working_dir.as_deref().unwrap_or(&image.working_dir);
    match folder {
        "" => Ok(PathBuf::from("/")),
        folder if folder.starts_with('/') => Ok(PathBuf::from(folder)),
        folder => {
            let problem = Problem::new(
                Class::Invalid,
                "",
                format!("working folder '{folder}' is not an absolute path"),
            );
            Err(problem.remedy("start it with /"))
        }
    }
}

/// Name as in Compose, number as in `asm-generic/resource.h`.
const RLIMITS: [(&str, u32); 16] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

fn rlimit(name: &str, limit: Ulimit) -> Result<(u32, u64, u64), Problem> {
    let known = RLIMITS.iter().find(|(known, _)| *known == name);
    let (_, number) = known.ok_or_else(|| {
        let names = RLIMITS.map(|(known, _)| known).join(", ");
        Problem::new(Class::Invalid, "", format!("there is no ulimit '{name}'")).remedy(format!("use one of {names}"))
    })?;
    let value = |value: i64| u64::try_from(value).unwrap_or(UNLIMITED);
    let (soft, hard) = (value(limit.soft), value(limit.hard));
    if soft > hard {
        let problem = Problem::new(
            Class::Invalid,
            "",
            format!("ulimit {name} has a soft limit above its hard limit"),
        );
        return Err(problem.remedy("lower `soft` or raise `hard`"));
    }
    Ok((*number, soft, hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_string()).collect()
    }

    #[test]
    fn commands_combine_as_in_docker() {
        let image = ImageDefaults {
            entrypoint: texts(&["/e"]),
            cmd: texts(&["c"]),
            ..ImageDefaults::default()
        };
        let check = |entrypoint: Option<&[&str]>, cmd: Option<&[&str]>, expected: &[&str]| {
            let container = ContainerSpec {
                entrypoint: entrypoint.map(texts),
                command: cmd.map(texts),
                ..ContainerSpec::default()
            };
            assert_eq!(command(&container, &image), Ok(texts(expected)));
        };
        check(None, None, &["/e", "c"]);
        check(None, Some(&["x"]), &["/e", "x"]);
        check(Some(&["/n"]), None, &["/n"]);
        check(Some(&[]), Some(&["x"]), &["x"]);
        let nothing = command(&ContainerSpec::default(), &ImageDefaults::default());
        assert!(nothing.is_err_and(|problem| problem.reason.contains("command")));
    }

    #[test]
    fn the_spec_changes_adds_and_removes_variables() {
        let spec = [("B", Some("2")), ("C", None), ("D", Some(""))];
        let spec = spec
            .into_iter()
            .map(|(name, value)| (name.to_string(), value.map(str::to_string)))
            .collect();
        assert_eq!(
            environment(&texts(&["A=1", "B=1", "C=1"]), &spec),
            texts(&["A=1", "B=2", "D="])
        );
    }

    #[test]
    fn limits_are_checked() {
        assert_eq!(rlimit("nofile", Ulimit { soft: 10, hard: -1 }), Ok((7, 10, u64::MAX)));
        assert!(rlimit("files", Ulimit { soft: 1, hard: 1 }).is_err());
        assert!(rlimit("nofile", Ulimit { soft: -1, hard: 1 }).is_err());
    }
}
