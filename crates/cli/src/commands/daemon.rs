//! What server, agent and dev share: addresses, tokens, logging, and when to stop.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gantry_model::{Class, Problem};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::failure::file_problem;

/// Folder of a server.
pub const SERVER_FOLDER: &str = "/var/lib/gantry/server";
/// Folder of an agent.
pub const AGENT_FOLDER: &str = "/var/lib/gantry/agent";
/// Folder of what need not outlive the machine's running.
pub const RUN_FOLDER: &str = "/run/gantry";

/// Exit status of a process that a person did not let finish, as shells have it for SIGINT.
const INTERRUPTED: i32 = 130;

/// An address of the documentation range (RFC 5737): nothing is sent there, it only asks for the default route.
const ANYWHERE: &str = "192.0.2.1:9";

// How to join a cluster; needed only the first time.
#[derive(Debug, Clone, Default, Args)]
pub struct JoinArgs {
    /// Servers of the cluster to join
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub join: Vec<String>,
    /// Join token, of `gantry cluster token create`
    #[arg(long, env = "GANTRY_TOKEN", hide_env_values = true, requires = "join")]
    token: Option<String>,
    /// File with the join token, which then is in no process list
    #[arg(long, value_name = "FILE", conflicts_with = "token", requires = "join")]
    token_file: Option<PathBuf>,
}

impl JoinArgs {
    /// Servers and token, if the person wants to join.
    ///
    /// # Errors
    /// When the token is missing or its file cannot be read.
    pub fn resolve(&self, port: u16) -> Result<Option<(Vec<String>, String)>, Problem> {
        if self.join.is_empty() {
            return Ok(None);
        }
        let servers = self.join.iter().map(|server| with_port(server, port)).collect();
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| file_problem("be read", path, &error))?
                .trim()
                .to_string(),
            (None, None) => {
                return Err(Problem::new(Class::Invalid, "join", "needs a token")
                    .remedy("give it with --token or --token-file; `gantry cluster token create` makes one"));
            }
        };
        Ok(Some((servers, token)))
    }
}

/// Parts that say more than people want of them, and the most they may say unless a filter names them.
const QUIETER: [(&str, &str); 4] = [
    ("openraft", "error"),
    ("h2", "info"),
    ("hyper_util", "info"),
    ("rustls", "info"),
];

// What is logged, and how.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, also per part such as info,gantry_raft=debug
    #[arg(long, value_name = "FILTER", env = "GANTRY_LOG", default_value = "info")]
    log: String,
    /// As lines for people, or as JSON
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    /// Logs to standard error from now on.
    ///
    /// # Errors
    /// When the filter is malformed.
    pub fn start(&self) -> Result<(), Problem> {
        let filter = EnvFilter::try_new(directives(&self.log)).map_err(|error| {
            let reason = format!("is not a filter: {error}");
            Problem::new(Class::Invalid, format!("--log {}", self.log), reason)
        })?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr);
        let started = match self.log_format {
            LogFormat::Text => builder.with_ansi(crate::output::style::on_stderr()).try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
        started.map_err(|error| Problem::new(Class::Internal, "log", error.to_string()))
    }
}

fn directives(filter: &str) -> String {
    let quieter = QUIETER.iter().filter(|(part, _)| !filter.contains(part));
    let quieter: String = quieter.map(|(part, level)| format!("{part}={level},")).collect();
    format!("{quieter}{filter}")
}

/// Cancelled by the first SIGTERM or SIGINT; a second one ends the process at once.
///
/// # Errors
/// When signals cannot be received.
pub fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        for urgent in [false, true] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if urgent {
                tracing::warn!(signal = name, "ending at once");
                // No exit handlers: those of the database abort the process while it is open.
                gantry_sys::process::exit_now(INTERRUPTED);
            }
            tracing::info!(signal = name, "stopping");
            stop.cancel();
        }
    });
    Ok(token)
}

/// The address with the port, unless it has one. IPv6 addresses are written in brackets.
pub fn with_port(address: &str, port: u16) -> String {
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        let whole_host = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        whole_host && port.parse::<u16>().is_ok()
    });
    if has_port {
        return address.to_string();
    }
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("{address}:{port}"),
    }
}

/// What to tell others when the person did not: the address listened on if it is one, else the one towards `servers`.
pub fn advertised(listen: SocketAddr, servers: &[String]) -> String {
    if listen.ip().is_unspecified() {
        return own_address(servers, listen.port());
    }
    listen.to_string()
}

/// This machine's address towards the first of the servers that has a route, else towards anywhere, else the loopback.
pub fn own_address(servers: &[String], port: u16) -> String {
    let toward = |target: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(target).ok()?;
        socket.local_addr().ok()
    };
    let targets = servers.iter().map(String::as_str).chain([ANYWHERE]);
    let found = targets.into_iter().find_map(toward);
    let ip = found.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip());
    SocketAddr::new(ip, port).to_string()
}

/// The name of this machine.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_default_port() {
        for (text, address) in [
            ("10.0.0.1", "10.0.0.1:7600"),
            ("10.0.0.1:99", "10.0.0.1:99"),
            ("alpha", "alpha:7600"),
            ("alpha:99", "alpha:99"),
            ("fe80::1", "[fe80::1]:7600"),
            ("[fe80::1]:99", "[fe80::1]:99"),
        ] {
            assert_eq!(with_port(text, 7600), address);
        }
    }

    #[test]
    fn what_is_listened_on_is_advertised_if_it_is_an_address() {
        let fixed: SocketAddr = "127.0.0.9:7600".parse().expect("an address");
        assert_eq!(advertised(fixed, &[]), "127.0.0.9:7600");
        let any: SocketAddr = "0.0.0.0:7600".parse().expect("an address");
        let found = advertised(any, &["127.0.0.1:1".to_string()]);
        assert_eq!(found, "127.0.0.1:7600");
    }

    #[test]
    fn talkative_parts_are_quiet_unless_named() {
        assert_eq!(
            directives("info"),
            "openraft=error,h2=info,hyper_util=info,rustls=info,info"
        );
        assert!(!directives("openraft=debug").contains("openraft=error"));
    }

    #[test]
    fn a_token_may_come_from_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "GNTRY-1-x\n").expect("written");
        let mut args = JoinArgs {
            join: vec!["alpha".to_string()],
            token: None,
            token_file: Some(path),
        };
        let (servers, token) = args.resolve(7600).expect("valid").expect("wanted");
        assert_eq!((servers[0].as_str(), token.as_str()), ("alpha:7600", "GNTRY-1-x"));
        args.token_file = None;
        assert!(args.resolve(7600).is_err());
    }
}
