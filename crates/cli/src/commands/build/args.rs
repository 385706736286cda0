//! The command line of `gantry build`: Docker's, as far as it makes sense here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use gantry_model::spec::{BuildSecret, BuildSpec, Ulimit};
use gantry_model::{ByteSize, Class, Problem};

use super::Job;
use super::progress::Mode;
use super::sink::Target;
use crate::complete;

// Arguments of `gantry build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Name for the image
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<String>,
    /// Dockerfile; `-` is standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Value of an ARG; a name alone takes the environment's
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Secret for RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    secret: Vec<String>,
    /// SSH agent or key for RUN --mount=type=ssh
    #[arg(long, value_name = "default|ID[=SOCKET|KEY]")]
    ssh: Vec<String>,
    /// Further context: a folder, a repository, an archive's address or docker-image://NAME
    #[arg(long, value_name = "NAME=CONTEXT")]
    build_context: Vec<String>,
    /// Image of a registry whose steps need not be repeated
    #[arg(long, value_name = "[type=registry,ref=]IMAGE")]
    cache_from: Vec<String>,
    /// Where steps are kept for other machines; mode=max: those of all stages, type=inline: in the image itself
    #[arg(long, value_name = "type=registry,ref=IMAGE[,mode=max]|type=inline")]
    cache_to: Vec<String>,
    /// Do everything anew
    #[arg(long)]
    no_cache: bool,
    /// Look base images up anew
    #[arg(long)]
    pull: bool,
    /// What the image is for, such as linux/arm64; several make an index
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platform: Vec<String>,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Mode::Auto, env = "BUILDKIT_PROGRESS")]
    progress: Mode,
    /// Print the image's id alone
    #[arg(short, long)]
    quiet: bool,
    /// Send the image to its registry
    #[arg(long)]
    push: bool,
    /// Where the result goes, also spelt --output: type=image|local|tar|oci|docker|none,dest=PATH
    #[arg(long, value_name = "type=TYPE[,dest=PATH]")]
    export: Option<String>,
    /// Label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Only check the Dockerfile, without a node
    #[arg(long)]
    check: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Network of RUN: default, host or none
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Line for /etc/hosts during RUN
    #[arg(long, value_name = "HOST:ADDRESS")]
    add_host: Vec<String>,
    /// Size of /dev/shm during RUN
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<ByteSize>,
    /// Resource limit during RUN
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Allow RUN --security=insecure: security.insecure
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Node to build on, instead of this machine
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    node: Option<String>,
    /// Folder, repository or archive's address that COPY takes from; `-` is a Dockerfile or a tar from standard input
    #[arg(id = "build_folder", value_name = "CONTEXT")]
    context: String,
}

/// Docker's `--output type=…` is spelt `--export` here, since `--output` says for all commands how answers look. Both work.
pub fn spelling(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut spelt: Vec<OsString> = Vec::new();
    let mut is_build = false;
    for argument in arguments {
        let text = argument.to_str().unwrap_or_default();
        is_build |= spelt.len() == 1 && text == "build";
        let joined = text.strip_prefix("--output=").or_else(|| text.strip_prefix("-o"));
        let follows = spelt.last().is_some_and(|last| last == "--output" || last == "-o");
        match joined {
            _ if !is_build => spelt.push(argument),
            Some(value) if value.contains('=') => {
                spelt.push(format!("--export={}", value.trim_start_matches('=')).into())
            }
            None if follows && text.contains('=') => {
                spelt.pop();
                spelt.push(format!("--export={text}").into());
            }
            Some(_) | None => spelt.push(argument),
        }
    }
    spelt
}

impl BuildArgs {
    /// Whether nothing is built.
    pub const fn is_check(&self) -> bool {
        self.check
    }

    /// Whether only the id is printed.
    pub fn is_quiet(&self) -> bool {
        self.quiet || self.progress == Mode::Quiet
    }

    /// What they ask for.
    ///
    /// # Errors
    /// Names the option whose value is wrong.
    pub fn job(self) -> Result<Job, Problem> {
        if self.push && self.tag.is_empty() {
            let problem = Problem::new(Class::Invalid, "--push", "the image has no name");
            return Err(problem.remedy("give it one with --tag REGISTRY/NAME:TAG"));
        }
        let target = Target::parse(self.export.as_deref())?;
        let is_quiet = self.is_quiet();
        let mut spec = BuildSpec {
            context: self.context,
            dockerfile: self.file,
            target: self.target,
            platforms: self.platform,
            network: self.network,
            pull: self.pull,
            no_cache: self.no_cache,
            cache_from: self.cache_from,
            cache_to: self.cache_to,
            ssh: self.ssh,
            shm_size: self.shm_size,
            ..BuildSpec::default()
        };
        for text in self.build_arg {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name.to_string(), Some(value.to_string())),
                None => (text, None),
            };
            spec.args.insert(name, value);
        }
        for text in &self.label {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            spec.labels.insert(key.to_string(), value.to_string());
        }
        for text in &self.build_context {
            let (name, value) = pair("--build-context", text, "NAME=CONTEXT")?;
            spec.additional_contexts.insert(name, value);
        }
        spec.secrets = self.secret.iter().map(|text| secret(text)).collect::<Result<_, _>>()?;
        spec.extra_hosts = self.add_host.iter().map(|text| host(text)).collect::<Result<_, _>>()?;
        spec.ulimits = self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?;
        spec.privileged = allowed(&self.allow)?;
        Ok(Job {
            spec,
            tags: self.tag,
            push: self.push,
            node: self.node,
            progress: if is_quiet { Mode::Quiet } else { self.progress },
            target,
        })
    }
}

fn wrong(option: &str, text: &str, remedy: &str) -> Problem {
    Problem::new(Class::Invalid, format!("{option} {text}"), "cannot be understood").remedy(format!("write {remedy}"))
}

fn pair(option: &str, text: &str, form: &str) -> Result<(String, String), Problem> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_string(), value.to_string())),
        Some(_) | None => Err(wrong(option, text, &format!("{option} {form}"))),
    }
}

fn secret(text: &str) -> Result<BuildSecret, Problem> {
    let form = "--secret id=ID,src=FILE or --secret id=ID,env=NAME";
    let mut secret = BuildSecret {
        id: String::new(),
        file: None,
        environment: None,
    };
    let mut kind = None;
    for field in text.split(',') {
        let Some((key, value)) = field.split_once('=') else {
            return Err(wrong("--secret", text, form));
        };
        match key {
            "id" => secret.id = value.to_string(),
            "src" | "source" | "file" => secret.file = Some(value.to_string()),
            "env" => secret.environment = Some(value.to_string()),
            "type" if ["file", "env"].contains(&value) => kind = Some(value),
            _ => return Err(wrong("--secret", text, form)),
        }
    }
    if kind == Some("env") && secret.environment.is_none() {
        secret.environment = secret.file.take();
    }
    if secret.id.is_empty() {
        return Err(wrong("--secret", text, form));
    }
    if secret.file.is_none() && secret.environment.is_none() {
        // As in Docker: the variable of this name where there is one, else the file.
        let is_variable = std::env::var_os(&secret.id).is_some();
        let name = Some(secret.id.clone());
        if is_variable {
            secret.environment = name
        } else {
            secret.file = name
        }
    }
    Ok(secret)
}

fn host(text: &str) -> Result<(String, String), Problem> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    match parts {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            Ok((name.to_string(), address.to_string()))
        }
        Some(_) | None => Err(wrong("--add-host", text, "--add-host NAME:ADDRESS")),
    }
}

fn ulimit(text: &str) -> Result<(String, Ulimit), Problem> {
    let refused = || wrong("--ulimit", text, "--ulimit nofile=1024:4096; -1 is unlimited");
    let (name, limits) = text.split_once('=').ok_or_else(refused)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |part: &str| {
        part.parse::<i64>()
            .ok()
            .filter(|limit| *limit >= -1)
            .ok_or_else(refused)
    };
    let limit = Ulimit {
        soft: number(soft)?,
        hard: number(hard)?,
    };
    Ok((name.to_string(), limit))
}

fn allowed(entitlements: &[String]) -> Result<bool, Problem> {
    let mut insecure = false;
    for entitlement in entitlements {
        match entitlement.as_str() {
            "security.insecure" => insecure = true,
            // The network of the host is asked for with --network=host.
            "network.host" => {}
            other => return Err(wrong("--allow", other, "--allow security.insecure")),
        }
    }
    Ok(insecure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        build: BuildArgs,
    }

    fn job(line: &str) -> Result<Job, Problem> {
        let words = std::iter::once("build").chain(line.split_whitespace());
        Command::try_parse_from(words)
            .expect("words that clap takes")
            .build
            .job()
    }

    #[test]
    fn options_become_a_spec() {
        let job = job(
            "-t web:v1 -f app/Dockerfile --target run --build-arg A=1 --build-arg B --label k=v --label bare \
             --secret id=npm,src=/x --secret id=tok,env=TOKEN --ssh default --build-context lib=../lib \
             --add-host db:10.0.0.1 --add-host six:[fe80::1] --shm-size 128m --ulimit nofile=10:20 \
             --platform linux/amd64,linux/arm64 --allow security.insecure --network none --no-cache --pull .",
        )
        .expect("valid");
        let spec = job.spec;
        assert_eq!((spec.context.as_str(), spec.target.as_deref()), (".", Some("run")));
        assert_eq!(
            (spec.args["A"].as_deref(), spec.args["B"].as_deref()),
            (Some("1"), None)
        );
        assert_eq!((spec.labels["k"].as_str(), spec.labels["bare"].as_str()), ("v", ""));
        assert_eq!(spec.secrets[0].file.as_deref(), Some("/x"));
        assert_eq!(spec.secrets[1].environment.as_deref(), Some("TOKEN"));
        assert_eq!(spec.extra_hosts[1], ("six".to_string(), "fe80::1".to_string()));
        assert_eq!(spec.shm_size, Some(ByteSize::mib(128)));
        assert_eq!(spec.ulimits["nofile"], Ulimit { soft: 10, hard: 20 });
        assert_eq!(spec.platforms.len(), 2);
        assert!(spec.privileged && spec.no_cache && spec.pull);
    }

    #[test]
    fn wrong_options_are_named() {
        for (line, object) in [
            ("--push .", "--push"),
            ("--secret src=x .", "--secret src=x"),
            ("--add-host db .", "--add-host db"),
            ("--ulimit nofile .", "--ulimit nofile"),
            ("--build-context lib .", "--build-context lib"),
            ("--allow everything .", "--allow everything"),
            ("--export type=floppy .", "--export type=floppy"),
        ] {
            let problem = job(line).expect_err(line);
            assert_eq!(problem.object, object, "{problem}");
            assert!(!problem.remedy.is_empty(), "{problem}");
        }
    }

    #[test]
    fn dockers_spelling_of_outputs_works() {
        let spelt = |line: &str| {
            let words = spelling(line.split(' ').map(OsString::from)).into_iter();
            words
                .map(|word| word.into_string().expect("text"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        for (line, expected) in [
            (
                "gantry build --output type=tar,dest=x .",
                "gantry build --export=type=tar,dest=x .",
            ),
            (
                "gantry build -o type=local,dest=x .",
                "gantry build --export=type=local,dest=x .",
            ),
            ("gantry build --output=type=tar .", "gantry build --export=type=tar ."),
            ("gantry build -otype=tar .", "gantry build --export=type=tar ."),
            ("gantry build -o json .", "gantry build -o json ."),
            ("gantry build --output=json .", "gantry build --output=json ."),
            ("gantry run -o type=x y", "gantry run -o type=x y"),
        ] {
            assert_eq!(spelt(line), expected);
        }
    }
}
