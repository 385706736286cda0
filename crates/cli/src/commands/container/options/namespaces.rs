//! Which namespaces the container shares, and with whom.

use clap::Args;
use gantry_model::Problem;
use gantry_model::container::NetworkMode;
use gantry_model::spec::{ContainerSpec, NamespaceMode, UserNamespace};

use super::wrong;

// What it shares with the node or with other containers.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Namespaces")]
pub struct NamespaceOptions {
    /// bridge, host, none, container:NAME, or a network of the cluster
    #[arg(long, visible_alias = "net", value_name = "NETWORK", default_value = "bridge")]
    network: String,
    /// Processes it sees: its own, host, or container:NAME
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Shared memory: private, shareable, none, host, or container:NAME
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Host name: its own, or host
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Control groups it sees: private or host
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
    /// User ids: host, or auto[:size=COUNT] for a range of its own
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
}

impl NamespaceOptions {
    pub(super) fn apply(&self, container: &mut ContainerSpec) -> Result<NetworkMode, Problem> {
        let read = |option, text: &Option<String>, words: &[&str]| match text {
            Some(text) => mode(option, text, words),
            None => Ok(NamespaceMode::Private),
        };
        container.pid = read("--pid", &self.pid, &["host", "container", "private"])?;
        container.ipc = read(
            "--ipc",
            &self.ipc,
            &["private", "shareable", "none", "host", "container"],
        )?;
        container.uts = read("--uts", &self.uts, &["host", "private"])?;
        container.cgroup = read("--cgroupns", &self.cgroupns, &["host", "private"])?;
        container.userns = self.userns.as_deref().map_or(Ok(UserNamespace::Node), userns)?;
        network(&self.network)
    }
}

fn mode(option: &str, text: &str, words: &[&str]) -> Result<NamespaceMode, Problem> {
    let (word, name) = match text.split_once(':') {
        Some((word, name)) => (word, Some(name)),
        None => (text, None),
    };
    let refused = |reason: &str| {
        let shown: Vec<String> = words
            .iter()
            .map(|word| {
                if *word == "container" {
                    "container:NAME".to_string()
                } else {
                    (*word).to_string()
                }
            })
            .collect();
        Err(wrong(option, text, reason, &format!("write {}", shown.join(", "))))
    };
    if !words.contains(&word) {
        return refused("is no mode of that namespace");
    }
    match (word, name) {
        ("container", Some(name)) if !name.is_empty() => Ok(NamespaceMode::Container(name.to_string())),
        ("container", _) => refused("names no container"),
        (_, Some(_)) => refused("takes no name"),
        ("host", None) => Ok(NamespaceMode::Host),
        ("shareable", None) => Ok(NamespaceMode::Shareable),
        ("none", None) => Ok(NamespaceMode::None),
        _ => Ok(NamespaceMode::Private),
    }
}

fn userns(text: &str) -> Result<UserNamespace, Problem> {
    let remedy = "write host, auto, or auto:size=65536";
    match text.split_once(":size=") {
        None if text == "host" => Ok(UserNamespace::Node),
        None if text == "auto" => Ok(UserNamespace::Auto { size: None }),
        Some(("auto", size)) => match size.parse() {
            Ok(size @ 1..) => Ok(UserNamespace::Auto { size: Some(size) }),
            _ => Err(wrong("--userns", text, format!("'{size}' is no count of ids"), remedy)),
        },
        _ => Err(wrong("--userns", text, "is no mode of user namespaces", remedy)),
    }
}

pub(crate) fn network(text: &str) -> Result<NetworkMode, Problem> {
    match text.split_once(':') {
        Some(("container", name)) if !name.is_empty() => Ok(NetworkMode::Container(name.to_string())),
        Some(_) => Err(wrong(
            "--network",
            text,
            "is no network",
            "write bridge, host, none, container:NAME or the name of a network",
        )),
        None => Ok(match text {
            "bridge" | "default" => NetworkMode::Bridge,
            "host" => NetworkMode::Host,
            "none" => NetworkMode::None,
            name => NetworkMode::Named(name.to_string()),
        }),
    }
}
