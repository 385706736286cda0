//! The options of `gantry run` and `gantry create`: those of `docker run`, with their values' syntax and defaults, as a
//! [`RunSpec`].
//!
//! **Invariant:** a wrong value is refused here, with the option, the value, the reason and what to write instead.

mod environment;
mod health;
mod namespaces;
mod ports;
mod resources;
mod security;
mod volumes;

pub use resources::ResourceOptions;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gantry_model::container::{PullPolicy, RunSpec};
use gantry_model::spec::{ContainerSpec, RestartCondition, RestartPolicy, User};
use gantry_model::{Class, DurationMs, Problem};

// What a container is made from.
#[derive(Debug, Clone, Default, Args)]
pub struct ContainerOptions {
    /// Give the container a name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Keep its standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove it when it ends
    #[arg(long)]
    rm: bool,
    /// When it is started again: no, on-failure, on-failure:MAX, always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    restart: String,
    /// When its image is pulled
    #[arg(long, value_enum, default_value_t = Pull::Missing)]
    pull: Pull,
    /// Platform of its image, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Program instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Run as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Further group of its process
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Folder to start in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Host name inside
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// NIS domain name inside
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// A process 1 that reaps zombies and passes signals on
    #[arg(long)]
    init: bool,
    /// Mount its root read-only
    #[arg(long)]
    read_only: bool,
    /// Signal to stop it with
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u64>,
    #[command(flatten)]
    environment: environment::EnvironmentOptions,
    #[command(flatten)]
    health: health::HealthOptions,
    #[command(flatten)]
    namespaces: namespaces::NamespaceOptions,
    #[command(flatten)]
    ports: ports::PortOptions,
    #[command(flatten)]
    resources: resources::ResourceOptions,
    #[command(flatten)]
    security: security::SecurityOptions,
    #[command(flatten)]
    volumes: volumes::VolumeOptions,
    /// Write the container's id to this file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Say nothing about pulling
    #[arg(short, long)]
    pub quiet: bool,
}

/// When the image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Pull {
    #[default]
    Missing,
    Always,
    Never,
}

impl ContainerOptions {
    /// Runs `command` of `image` with these options.
    ///
    /// # Errors
    /// Names the option whose value is wrong.
    pub fn spec(&self, image: &str, command: &[String]) -> Result<RunSpec, Problem> {
        let mut container = ContainerSpec {
            image: image.to_string(),
            command: (!command.is_empty()).then(|| command.to_vec()),
            entrypoint: self.entrypoint.as_ref().map(|program| words(program)),
            user: self.user.as_deref().map(user).transpose()?,
            group_add: self.group_add.clone(),
            working_dir: self.workdir.as_deref().map(working_dir).transpose()?,
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            init: self.init,
            read_only: self.read_only,
            tty: self.tty,
            stdin_open: self.interactive,
            stop_signal: self.stop_signal.clone(),
            stop_grace_period: self.stop_timeout.map(DurationMs::secs),
            ..ContainerSpec::default()
        };
        self.environment.apply(&mut container)?;
        self.health.apply(&mut container)?;
        self.security.apply(&mut container)?;
        self.volumes.apply(&mut container)?;
        let network = self.namespaces.apply(&mut container)?;
        let resources = self.resources.apply(&mut container)?;
        let (restart, unless_stopped) = restart(&self.restart)?;
        if self.rm && restart.condition != RestartCondition::None {
            let reason = "cannot go together with --rm: a removed container cannot be started again";
            return Err(
                Problem::new(Class::Invalid, format!("--restart {}", self.restart), reason).remedy("leave one out"),
            );
        }
        Ok(RunSpec {
            name: self.name.clone(),
            container,
            resources,
            restart,
            unless_stopped,
            network,
            ports: self.ports.specs()?,
            publish_all: self.ports.publish_all(),
            auto_remove: self.rm,
            pull: match self.pull {
                Pull::Missing => PullPolicy::Missing,
                Pull::Always => PullPolicy::Always,
                Pull::Never => PullPolicy::Never,
            },
            platform: self.platform.clone(),
        })
    }
}

/// A wrong value of an option.
fn wrong(option: &str, value: &str, reason: impl std::fmt::Display, remedy: &str) -> Problem {
    Problem::new(Class::Invalid, format!("{option} {value}"), reason.to_string()).remedy(remedy)
}

/// An empty program takes the image's entrypoint away.
fn words(program: &str) -> Vec<String> {
    if program.is_empty() {
        Vec::new()
    } else {
        vec![program.to_string()]
    }
}

fn user(text: &str) -> Result<User, Problem> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group.to_string())),
        None => (text, None),
    };
    if user.is_empty() || group.as_deref() == Some("") {
        return Err(wrong(
            "--user",
            text,
            "names no user or no group",
            "write USER or USER:GROUP, names or numbers",
        ));
    }
    Ok(User {
        user: user.to_string(),
        group,
    })
}

fn working_dir(text: &str) -> Result<String, Problem> {
    if text.starts_with('/') {
        return Ok(text.to_string());
    }
    Err(wrong("--workdir", text, "is not absolute", "begin it with /"))
}

/// The policy, and whether an explicit stop outlasts a restart of the agent. Back-off as in Docker: 100 ms doubling to 1 min.
pub(super) fn restart(text: &str) -> Result<(RestartPolicy, bool), Problem> {
    let policy = |condition, max_attempts| RestartPolicy {
        condition,
        max_attempts,
        ..RestartPolicy::default()
    };
    let (word, max) = match text.split_once(':') {
        Some((word, max)) => (word, Some(max)),
        None => (text, None),
    };
    let remedy = "write no, on-failure, on-failure:MAX, always or unless-stopped";
    match (word, max) {
        ("no", None) => Ok((policy(RestartCondition::None, None), false)),
        ("always", None) => Ok((policy(RestartCondition::Any, None), false)),
        ("unless-stopped", None) => Ok((policy(RestartCondition::Any, None), true)),
        ("on-failure", None) => Ok((policy(RestartCondition::OnFailure, None), false)),
        ("on-failure", Some(max)) => {
            let max = max
                .parse()
                .map_err(|_| wrong("--restart", text, format!("'{max}' is no count"), remedy))?;
            // Docker's 0 is no limit.
            Ok((
                policy(RestartCondition::OnFailure, Some(max).filter(|max| *max > 0)),
                false,
            ))
        }
        ("no" | "always" | "unless-stopped", Some(_)) => {
            Err(wrong("--restart", text, "only on-failure takes a count", remedy))
        }
        _ => Err(wrong("--restart", text, "is no restart policy", remedy)),
    }
}

/// `KEY=VALUE` pairs; a key alone has an empty value.
fn pairs(option: &str, texts: &[String]) -> Result<BTreeMap<String, String>, Problem> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(wrong(option, text, "has no key", "write KEY=VALUE"));
        }
        Ok((key.to_string(), value.to_string()))
    };
    texts.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use gantry_model::container::NetworkMode;
    use gantry_model::spec::MountKind;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: ContainerOptions,
        image: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    }

    fn spec(line: &str) -> Result<RunSpec, Problem> {
        let words = std::iter::once("run").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).expect("options that exist");
        line.options.spec(&line.image, &line.command)
    }

    #[test]
    fn a_bare_image_has_dockers_defaults() {
        let spec = spec("busybox true -x").expect("valid");
        assert_eq!(spec.container.command, Some(vec!["true".to_string(), "-x".to_string()]));
        assert_eq!(spec.restart.condition, RestartCondition::None);
        assert_eq!((spec.network, spec.pull), (NetworkMode::Bridge, PullPolicy::Missing));
        assert!(!spec.auto_remove && !spec.container.tty && spec.container.mounts.is_empty());
    }

    #[test]
    fn restart_policies_are_dockers() {
        let read = |text: &str| restart(text).map(|(policy, unless)| (policy.condition, policy.max_attempts, unless));
        assert_eq!(read("no"), Ok((RestartCondition::None, None, false)));
        assert_eq!(read("always"), Ok((RestartCondition::Any, None, false)));
        assert_eq!(read("unless-stopped"), Ok((RestartCondition::Any, None, true)));
        assert_eq!(read("on-failure:3"), Ok((RestartCondition::OnFailure, Some(3), false)));
        assert_eq!(read("on-failure:0"), Ok((RestartCondition::OnFailure, None, false)));
        for wrong in ["", "sometimes", "on-failure:x", "always:3"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(spec("--rm --restart always busybox").is_err());
    }

    #[test]
    fn what_is_wrong_names_option_and_value() {
        for (line, object) in [
            ("--user : busybox", "--user :"),
            ("--workdir tmp busybox", "--workdir tmp"),
            ("--memory 1x busybox", "--memory 1x"),
            ("--memory 1m busybox", "--memory 1m"),
            ("--cpus nan busybox", "--cpus nan"),
            ("-v a:b:c:d busybox", "--volume a:b:c:d"),
            ("-v data:relative busybox", "--volume data:relative"),
            ("--mount type=bind,source=/a busybox", "--mount type=bind,source=/a"),
            ("-p 99999:80 busybox", "--publish 99999:80"),
            ("--security-opt nothing busybox", "--security-opt nothing"),
            ("--pid yours busybox", "--pid yours"),
            ("--add-host name busybox", "--add-host name"),
            ("--health-interval 5 busybox", "--health-interval 5"),
            ("--ulimit nofile busybox", "--ulimit nofile"),
            ("--device /dev/null:/x:q busybox", "--device /dev/null:/x:q"),
            ("--gpus maybe busybox", "--gpus maybe"),
        ] {
            let problem = spec(line).expect_err(line);
            assert_eq!(
                (problem.object.as_str(), problem.class),
                (object, Class::Invalid),
                "{problem}"
            );
            assert!(!problem.remedy.is_empty(), "{problem}");
        }
    }

    #[test]
    fn volumes_are_binds_names_or_anonymous() {
        let spec = spec("-v /etc:/host/etc:ro,rslave -v data:/data:nocopy -v /anonymous busybox").expect("valid");
        let kinds: Vec<_> = spec
            .container
            .mounts
            .iter()
            .map(|mount| (mount.target.as_str(), mount.read_only))
            .collect();
        assert_eq!(kinds, [("/host/etc", true), ("/data", false), ("/anonymous", false)]);
        assert!(matches!(
            &spec.container.mounts[0].kind,
            MountKind::Bind {
                create_host_path: true,
                ..
            }
        ));
        let MountKind::Volume { node_name, no_copy, .. } = &spec.container.mounts[1].kind else {
            panic!("a volume")
        };
        assert_eq!((node_name.as_deref(), *no_copy), (Some("data"), true));
        assert!(matches!(
            &spec.container.mounts[2].kind,
            MountKind::Volume { node_name: None, .. }
        ));
    }
}
