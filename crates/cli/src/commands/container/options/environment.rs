//! Variables, labels and names: what a container is told.

use std::path::PathBuf;

use clap::Args;
use gantry_model::spec::ContainerSpec;
use gantry_model::{Class, Problem};

use super::{pairs, wrong};
use crate::failure::file_problem;

// Variables, labels and name resolution.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Environment")]
pub struct EnvironmentOptions {
    /// Set a variable; the name alone takes its value from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Set the variables of a file, a line each
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Set the labels of a file, a line each
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Add a name to /etc/hosts; host-gateway is the node
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Name server instead of the node's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Search domain instead of the node's
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Option of the resolver
    #[arg(long, value_name = "OPTION", visible_alias = "dns-opt")]
    dns_option: Vec<String>,
}

impl EnvironmentOptions {
    pub(super) fn apply(&self, container: &mut ContainerSpec) -> Result<(), Problem> {
        for path in &self.env_file {
            self::lines(path)?
                .iter()
                .try_for_each(|line| variable(container, "--env-file", line))?;
        }
        self.env
            .iter()
            .try_for_each(|text| variable(container, "--env", text))?;
        for path in &self.label_file {
            container.labels.extend(pairs("--label-file", &lines(path)?)?);
        }
        container.labels.extend(pairs("--label", &self.label)?);
        container.extra_hosts = self.add_host.iter().map(|text| host(text)).collect::<Result<_, _>>()?;
        for address in &self.dns {
            if address.parse::<std::net::IpAddr>().is_err() {
                return Err(wrong(
                    "--dns",
                    address,
                    "is no address",
                    "write an IP address, such as 1.1.1.1",
                ));
            }
        }
        container.dns = self.dns.clone();
        container.dns_search = self.dns_search.clone();
        container.dns_opt = self.dns_option.clone();
        Ok(())
    }
}

/// `KEY=VALUE` sets; `KEY` takes the value from our own environment, and means nothing when there is none, as in Docker.
fn variable(container: &mut ContainerSpec, option: &str, text: &str) -> Result<(), Problem> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_string())),
        None => (text, std::env::var(text).ok()),
    };
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(wrong(
            option,
            text,
            "has no valid name",
            "write KEY=VALUE, or KEY to take it from here",
        ));
    }
    if let Some(value) = value {
        container.environment.insert(key.to_string(), Some(value));
    }
    Ok(())
}

/// Lines that say something: comments begin with `#`.
fn lines(path: &std::path::Path) -> Result<Vec<String>, Problem> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => {
            Problem::new(Class::Invalid, path.display().to_string(), "is not text in UTF-8")
        }
        _ => file_problem("read", path, &error),
    })?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_start);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_string)
        .collect())
}

fn host(text: &str) -> Result<(String, String), Problem> {
    let remedy = "write NAME:ADDRESS, such as db:10.0.0.5 or host:host-gateway";
    let (name, address) = text
        .split_once(['=', ':'])
        .filter(|(name, address)| !name.is_empty() && !address.is_empty())
        .ok_or_else(|| wrong("--add-host", text, "is no name with an address", remedy))?;
    let plain = address.trim_start_matches('[').trim_end_matches(']');
    if address != "host-gateway" && plain.parse::<std::net::IpAddr>().is_err() {
        return Err(wrong("--add-host", text, format!("'{address}' is no address"), remedy));
    }
    Ok((name.to_string(), plain.to_string()))
}
