//! What each replica runs: the fields of a service that describe its container.

use std::collections::BTreeMap;

use gantry_model::Name;
use gantry_model::spec::{ContainerSpec, DataKind, Ulimit, User};

use super::scalar::{boolean, integer, labels, pairs, parsed, scalar, some_text, text, texts};
use super::{Context, data, devices, environment, health, image, keys, mounts, namespaces, resolver};
use crate::limits::SECCOMP_BYTES_MAX;
use crate::words::{WordsError, split};
use crate::yaml::cursor::Cursor;

/// Signals by name (`signal(7)`), without the real-time ones, which are `RTMIN+N` and `RTMAX-N`.
const SIGNALS: &[&str] = &[
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "IOT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
    "WINCH", "IO", "POLL", "PWR", "SYS",
];

/// Resource limits of `getrlimit(2)`.
const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Largest signal number of Linux (SIGRTMAX).
const SIGNAL_MAX: i64 = 64;

/// The container of a service.
pub(crate) fn container(service: &Cursor<'_>, name: &Name, context: &Context<'_>) -> ContainerSpec {
    let mut container = ContainerSpec {
        image: image::name(service, name, context),
        environment: environment::environment(service, context),
        labels: environment::label_files(service, context),
        mounts: mounts::mounts(service, context),
        configs: data::data_mounts(service, DataKind::Config, context),
        secrets: data::data_mounts(service, DataKind::Secret, context),
        ..ContainerSpec::default()
    };
    container
        .labels
        .extend(service.read("labels", labels).unwrap_or_default());
    process(service, &mut container);
    security(service, &mut container, context);
    devices::devices(service, &mut container);
    namespaces::namespaces(service, &mut container);
    kernel(service, &mut container);
    resolver::resolver(service, &mut container);
    container
}

fn process(service: &Cursor<'_>, container: &mut ContainerSpec) {
    container.entrypoint = service.read("entrypoint", command_line);
    container.command = service.read("command", command_line);
    container.user = service.read("user", user);
    container.group_add = service.read("group_add", texts).unwrap_or_default();
    container.working_dir = service.read("working_dir", |at| {
        let path = some_text(at)?;
        if !path.starts_with('/') {
            at.error(format!("'{path}' must be an absolute path"));
        }
        Some(path)
    });
    container.hostname = service.read("hostname", hostname);
    container.domainname = service.read("domainname", hostname);
    container.init = flag(service, "init");
    container.tty = flag(service, "tty");
    container.stdin_open = flag(service, "stdin_open");
    container.healthcheck = service.read("healthcheck", health::healthcheck);
    container.stop_signal = service.read("stop_signal", signal);
    container.stop_grace_period = service.read("stop_grace_period", parsed);
}

fn flag(service: &Cursor<'_>, key: &str) -> bool {
    service.read(key, boolean).unwrap_or(false)
}

/// A list as it is, a text split as a shell would; an empty one takes the image's away.
fn command_line(at: &Cursor<'_>) -> Option<Vec<String>> {
    if at.is_list() {
        return Some(at.items().iter().filter_map(text).collect());
    }
    let line = text(at)?;
    match split(&line) {
        Ok(words) => Some(words),
        Err(error @ (WordsError::Quote(_) | WordsError::Backslash)) => {
            at.error_with(format!("cannot split the command: {error}"), "write it as a list");
            None
        }
    }
}

fn user(at: &Cursor<'_>) -> Option<User> {
    let text = some_text(at)?;
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group.to_string())),
        None => (text.as_str(), None),
    };
    if user.is_empty()
        || group
            .as_deref()
            .is_some_and(|group| group.is_empty() || group.contains(':'))
    {
        at.error_with(
            format!("'{text}' is not a user"),
            "write USER or USER:GROUP, names or numbers",
        );
        return None;
    }
    Some(User {
        user: user.to_string(),
        group,
    })
}

/// A host name of RFC 1123, or a template that becomes one per replica.
fn hostname(at: &Cursor<'_>) -> Option<String> {
    let text = some_text(at)?;
    let label = |label: &str| {
        let characters = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        !label.is_empty() && label.len() <= 63 && characters && !label.starts_with('-')
    };
    let valid = text.contains("{{") || (text.len() <= 253 && text.split('.').all(label));
    if !valid {
        at.error(format!("'{text}' is not a host name"));
    }
    Some(text)
}

/// A number or a name; the name comes out as `SIG…` in upper case.
fn signal(at: &Cursor<'_>) -> Option<String> {
    let text = some_text(at)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return integer(at, 1, SIGNAL_MAX).map(|number| number.to_string());
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = name.strip_prefix("RTMIN").or_else(|| name.strip_prefix("RTMAX"));
    let real_time = offset.is_some_and(|offset| {
        offset.is_empty()
            || offset
                .strip_prefix(['+', '-'])
                .is_some_and(|number| number.parse::<u8>().is_ok())
    });
    if !real_time && !SIGNALS.contains(&name) {
        at.error_with(
            format!("'{text}' is not a signal"),
            "use a name such as SIGTERM or a number",
        );
        return None;
    }
    Some(format!("SIG{name}"))
}

fn security(service: &Cursor<'_>, container: &mut ContainerSpec, context: &Context<'_>) {
    container.privileged = flag(service, "privileged");
    container.read_only = flag(service, "read_only");
    container.cap_add = service.read("cap_add", capabilities).unwrap_or_default();
    container.cap_drop = service.read("cap_drop", capabilities).unwrap_or_default();
    if let Some(options) = service.get("security_opt") {
        for option in options.items() {
            security_option(&option, container, context);
        }
    }
}

fn security_option(at: &Cursor<'_>, container: &mut ContainerSpec, context: &Context<'_>) {
    let Some(text) = some_text(at) else { return };
    match text.split_once(['=', ':']).unwrap_or((&text, "")) {
        ("no-new-privileges", "" | "true") => container.no_new_privileges = true,
        ("no-new-privileges", "false") => container.no_new_privileges = false,
        ("seccomp", "unconfined") => container.seccomp_unconfined = true,
        ("seccomp", file) if !file.is_empty() => container.seccomp_profile = seccomp(at, file, context),
        ("apparmor", profile) if !profile.is_empty() => container.apparmor_profile = Some(profile.to_string()),
        ("systempaths", "unconfined") => container.system_paths_unconfined = true,
        ("label", "disable") | ("systempaths", "confined") => {}
        ("label", _) => at.error_with("labels of SELinux are not set", "remove it"),
        _ => at.error_with(
            format!("'{text}' is not a security option"),
            "use no-new-privileges, seccomp:FILE, seccomp:unconfined, apparmor:PROFILE or systempaths=unconfined",
        ),
    }
}

/// The profile itself, since nodes do not have the file.
fn seccomp(at: &Cursor<'_>, file: &str, context: &Context<'_>) -> Option<String> {
    let path = environment::resolve(file, &context.options.base_dir);
    let bytes = match context.files.read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            at.error(format!("cannot read '{}': {error}", path.display()));
            return None;
        }
    };
    if bytes.len() > SECCOMP_BYTES_MAX {
        at.error(format!("'{}' has more than {SECCOMP_BYTES_MAX} bytes", path.display()));
        return None;
    }
    match serde_json::from_slice::<serde_json::Value>(&bytes) {
        Ok(profile) if profile.is_object() => Some(profile.to_string()),
        Ok(_) | Err(_) => {
            at.error_with(
                format!("'{}' is not a seccomp profile", path.display()),
                "give a profile in Docker's JSON",
            );
            None
        }
    }
}

/// Upper case without `CAP_`.
fn capabilities(at: &Cursor<'_>) -> Option<Vec<String>> {
    let capability = |item: &Cursor<'_>| {
        let text = some_text(item)?.to_ascii_uppercase();
        let name = text.strip_prefix("CAP_").unwrap_or(&text);
        if !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
            item.error(format!("'{text}' is not a capability"));
            return None;
        }
        Some(name.to_string())
    };
    Some(at.items().iter().filter_map(capability).collect())
}

fn kernel(service: &Cursor<'_>, container: &mut ContainerSpec) {
    container.ulimits = service.read("ulimits", |at| Some(ulimits(at))).unwrap_or_default();
    container.shm_size = service.read("shm_size", parsed);
    let adjustment = service.read("oom_score_adj", |at| integer(at, -1000, 1000));
    container.oom_score_adj = adjustment.and_then(|value| i32::try_from(value).ok());
    if let Some(at) = service.get("sysctls") {
        for (key, value) in pairs(&at) {
            match value {
                Some(value) => {
                    container.sysctls.insert(key, value);
                }
                None => at.error(format!("'{key}' has no value")),
            }
        }
    }
}

/// Limits of a process by name.
pub(crate) fn ulimits(at: &Cursor<'_>) -> BTreeMap<String, Ulimit> {
    let limit = |entry: &Cursor<'_>| {
        let name = entry.key().to_ascii_lowercase();
        if !ULIMITS.contains(&name.as_str()) {
            entry.error_key(
                format!("'{name}' is not a limit"),
                Some(format!("known: {}", ULIMITS.join(", "))),
            );
            return None;
        }
        if !entry.is_map() {
            scalar(entry)?;
            let both = integer(entry, -1, i64::MAX)?;
            return Some((name, Ulimit { soft: both, hard: both }));
        }
        entry.check_keys(keys::ULIMIT);
        let bound = |key: &str| entry.read(key, |at| integer(at, -1, i64::MAX));
        let (Some(soft), Some(hard)) = (bound("soft"), bound("hard")) else {
            entry.error_key("'soft' and 'hard' are needed", None);
            return None;
        };
        if hard >= 0 && (soft > hard || soft < 0) {
            entry.error_key(format!("the soft limit {soft} is above the hard limit {hard}"), None);
        }
        Some((name, Ulimit { soft, hard }))
    };
    at.all_entries().iter().filter_map(limit).collect()
}
