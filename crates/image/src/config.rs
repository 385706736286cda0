//! What an image says about the container to be made of it.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::spec::{HealthCheck, HealthTest};
use gantry_model::{Digest, DurationMs, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::document::{architecture, invalid, json as parse_json, to_json};
use crate::error::Result;

/// The configuration of an image (OCI image specification, with Docker's health check, shell and build triggers).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `linux`.
    pub os: String,
    /// Processor, as Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Variant of the processor, such as `v7`.
    pub variant: Option<String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// `NAME=value`, in the image's order.
    pub env: Vec<String>,
    /// What to run.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint, or what to run when there is none.
    pub cmd: Vec<String>,
    /// `user`, `user:group`, names or numbers; empty is root.
    pub user: String,
    /// Absolute folder to start in; empty is `/`.
    pub working_dir: String,
    /// `8080/tcp`, always with the protocol.
    pub exposed_ports: BTreeSet<String>,
    /// Folders that get an anonymous volume.
    pub volumes: BTreeSet<String>,
    /// The image's own health check; `None` is none given, [`HealthTest::Disabled`] is switched off.
    pub healthcheck: Option<HealthCheck>,
    /// Name or number of the signal that ends it.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The shell of shell-form commands; empty is `/bin/sh -c`.
    pub shell: Vec<String>,
    /// Digests of the decompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
}

/// What `import` puts into the configuration of the image it makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Arguments of the entrypoint, or what to run when there is none.
    pub cmd: Vec<String>,
    /// What to run.
    pub entrypoint: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute folder to start in.
    pub working_dir: String,
    /// `user` or `user:group`, names or numbers.
    pub user: String,
    /// `8080`, `53/udp`.
    pub exposed_ports: Vec<String>,
    /// Folders that get an anonymous volume.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Name or number of the signal that ends it.
    pub stop_signal: Option<String>,
    /// The image's own health check.
    pub healthcheck: Option<HealthCheck>,
    /// When it was made; the same input with the same time makes the same digest.
    pub created_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    created: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    config: RawRuntime,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

/// Every field may be missing or null: builders differ.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRuntime {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    exposed_ports: BTreeMap<String, Value>,
    #[serde(deserialize_with = "or_default")]
    volumes: BTreeMap<String, Value>,
    healthcheck: Option<RawHealthcheck>,
    stop_signal: Option<String>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    shell: Vec<String>,
}

/// Docker's form: times in nanoseconds, 0 for the default.
#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    #[serde(deserialize_with = "or_default")]
    test: Vec<String>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    pub(crate) fn parse(digest: Digest, bytes: &[u8]) -> Result<Self> {
        let document = format!("configuration {digest}");
        let raw: RawConfig = parse_json(&document, bytes)?;
        if raw.os != "linux" && !raw.os.is_empty() {
            return Err(invalid(
                document,
                format!("the image is for {}, only linux is supported", raw.os),
            ));
        }
        let RawConfig { config, rootfs, .. } = raw;
        let with_protocol = |port: String| {
            if port.contains('/') {
                port
            } else {
                format!("{port}/tcp")
            }
        };
        Ok(Self {
            os: "linux".to_string(),
            architecture: if raw.architecture.is_empty() {
                architecture().to_string()
            } else {
                raw.architecture
            },
            variant: raw.variant.filter(|variant| !variant.is_empty()),
            created_at: raw.created.as_deref().and_then(timestamp),
            env: config.env,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            user: config.user,
            working_dir: config.working_dir,
            exposed_ports: config.exposed_ports.into_keys().map(with_protocol).collect(),
            volumes: config.volumes.into_keys().collect(),
            healthcheck: config.healthcheck.as_ref().and_then(health_check),
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
            labels: config.labels,
            shell: config.shell,
            diff_ids: rootfs.diff_ids,
        })
    }

    /// `linux/amd64`, `linux/arm/v7`.
    #[must_use]
    pub fn platform(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}/{}/{variant}", self.os, self.architecture),
            None => format!("{}/{}", self.os, self.architecture),
        }
    }
}

impl ImportOptions {
    /// The configuration of an image with these options and one layer.
    pub(crate) fn to_config(&self, diff_id: Digest) -> Result<Vec<u8>> {
        self.check()?;
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| {
            let empty = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                Value::Bool(_) | Value::Number(_) => false,
            };
            if !empty {
                config.insert(key.to_string(), value);
            }
        };
        let keys = |items: &mut dyn Iterator<Item = String>| Value::Object(items.map(|key| (key, json!({}))).collect());
        let port = |port: &String| {
            if port.contains('/') {
                port.clone()
            } else {
                format!("{port}/tcp")
            }
        };
        set("User", json!(self.user));
        set("ExposedPorts", keys(&mut self.exposed_ports.iter().map(port)));
        set("Env", json!(self.env));
        set("Entrypoint", json!(self.entrypoint));
        set("Cmd", json!(self.cmd));
        set(
            "Healthcheck",
            self.healthcheck.as_ref().map_or(Value::Null, raw_health_check),
        );
        set("Volumes", keys(&mut self.volumes.iter().cloned()));
        set("WorkingDir", json!(self.working_dir));
        set("Labels", json!(self.labels));
        set("StopSignal", json!(self.stop_signal));
        let mut document = Map::new();
        if let Some(created) = self.created_at.and_then(rfc3339) {
            document.insert("created".to_string(), json!(created));
        }
        document.insert("architecture".to_string(), json!(architecture()));
        document.insert("os".to_string(), json!("linux"));
        document.insert("config".to_string(), Value::Object(config));
        document.insert("rootfs".to_string(), json!({"type": "layers", "diff_ids": [diff_id]}));
        let comment = match document.get("created") {
            Some(created) => json!([{"created": created, "comment": "imported by gantry"}]),
            None => json!([{"comment": "imported by gantry"}]),
        };
        document.insert("history".to_string(), comment);
        Ok(to_json(&document))
    }

    fn check(&self) -> Result<()> {
        let wrong = |reason: String| Err(invalid("import options", reason));
        if let Some(entry) = self
            .env
            .iter()
            .find(|entry| !entry.contains('=') || entry.starts_with('='))
        {
            return wrong(format!("'{entry}' is no environment variable: write NAME=value"));
        }
        if !self.working_dir.is_empty() && !self.working_dir.starts_with('/') {
            return wrong(format!("the working directory '{}' is not absolute", self.working_dir));
        }
        let is_port = |port: &String| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            number.parse::<u16>().is_ok_and(|number| number > 0) && ["tcp", "udp", "sctp"].contains(&protocol)
        };
        if let Some(port) = self.exposed_ports.iter().find(|port| !is_port(port)) {
            return wrong(format!("'{port}' is no port: write 8080, 8080/tcp or 53/udp"));
        }
        Ok(())
    }
}

const NANOS_PER_MS: i64 = 1_000_000;

fn health_check(raw: &RawHealthcheck) -> Option<HealthCheck> {
    let test = match raw.test.split_first()? {
        (kind, _) if kind == "NONE" => HealthTest::Disabled,
        (kind, [line]) if kind == "CMD-SHELL" => HealthTest::Shell(line.clone()),
        (kind, arguments) if kind == "CMD" && !arguments.is_empty() => HealthTest::Exec(arguments.to_vec()),
        _ => return None,
    };
    let mut check = HealthCheck::with_defaults(test);
    let set = |target: &mut DurationMs, nanos: i64| {
        if let Ok(ms @ 1..) = u64::try_from(nanos / NANOS_PER_MS) {
            *target = DurationMs(ms);
        }
    };
    set(&mut check.interval, raw.interval);
    set(&mut check.timeout, raw.timeout);
    set(&mut check.start_period, raw.start_period);
    set(&mut check.start_interval, raw.start_interval);
    if let Ok(retries @ 1..) = u32::try_from(raw.retries) {
        check.retries = retries;
    }
    Some(check)
}

fn raw_health_check(check: &HealthCheck) -> Value {
    let nanos = |duration: DurationMs| {
        i64::try_from(duration.0)
            .unwrap_or(i64::MAX)
            .saturating_mul(NANOS_PER_MS)
    };
    let word = |word: &str| vec![word.to_string()];
    let raw = RawHealthcheck {
        test: match &check.test {
            HealthTest::Disabled => word("NONE"),
            HealthTest::Exec(arguments) => [word("CMD"), arguments.clone()].concat(),
            HealthTest::Shell(line) => [word("CMD-SHELL"), vec![line.clone()]].concat(),
        },
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        start_interval: nanos(check.start_interval),
        retries: i64::from(check.retries),
    };
    json!(raw)
}

fn timestamp(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Timestamp)
}

pub(crate) fn rfc3339(time: Timestamp) -> Option<String> {
    let ms = i64::try_from(time.0).ok()?;
    jiff::Timestamp::from_millisecond(ms).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashing::digest_of;

    fn parse(text: &str) -> Result<ImageConfig> {
        ImageConfig::parse(digest_of(text.as_bytes()), text.as_bytes())
    }

    #[test]
    fn dockers_nulls_and_defaults_are_understood() {
        let config = parse(
            r#"{"os":"linux","architecture":"arm","variant":"v7","created":"2024-05-01T10:00:00.5Z",
                "config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,"ExposedPorts":{"80":{},"53/udp":{}},"Volumes":null,
                "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":1000000000},"OnBuild":null,"StopSignal":""},
                "rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .expect("a valid configuration");
        assert_eq!(config.platform(), "linux/arm/v7");
        assert_eq!(config.created_at, Some(Timestamp(1_714_557_600_500)));
        assert_eq!(Vec::from_iter(&config.exposed_ports), ["53/udp", "80/tcp"]);
        let check = config.healthcheck.expect("a health check");
        assert_eq!(
            (check.interval, check.timeout),
            (DurationMs::secs(1), DurationMs::secs(30))
        );
        assert_eq!((config.cmd, config.stop_signal), (vec!["sh".to_string()], None));
        assert!(parse(r#"{"config":null,"rootfs":{"diff_ids":null}}"#).is_ok());
        assert!(parse(r#"{"os":"windows","rootfs":{}}"#).is_err());
        assert!(parse("{}").is_err());
    }

    #[test]
    fn import_options_survive_the_configuration() {
        let mut check = HealthCheck::with_defaults(HealthTest::Exec(vec!["/ok".into()]));
        check.interval = DurationMs(1500);
        let options = ImportOptions {
            cmd: vec!["serve".into()],
            entrypoint: vec!["/app".into()],
            env: vec!["A=b=c".into()],
            working_dir: "/srv".into(),
            user: "1000:1000".into(),
            exposed_ports: vec!["8080".into()],
            volumes: vec!["/data".into()],
            labels: BTreeMap::from([("k".into(), "v".into())]),
            stop_signal: Some("SIGINT".into()),
            healthcheck: Some(check),
            created_at: Some(Timestamp(1_714_557_600_500)),
        };
        let diff_id = digest_of(b"layer");
        let bytes = options.to_config(diff_id).expect("valid options");
        let config = ImageConfig::parse(digest_of(&bytes), &bytes).expect("what was just made");
        assert_eq!(config.healthcheck, options.healthcheck);
        assert_eq!(config.created_at, options.created_at);
        assert_eq!(
            (config.cmd, config.entrypoint, config.env),
            (options.cmd, options.entrypoint, options.env)
        );
        assert_eq!((config.user, config.working_dir), (options.user, options.working_dir));
        assert_eq!(
            (config.stop_signal, config.labels),
            (options.stop_signal, options.labels)
        );
        assert_eq!(config.diff_ids, [diff_id]);
    }

    #[test]
    fn wrong_import_options_are_refused() {
        let env = |entry: &str| ImportOptions {
            env: vec![entry.into()],
            ..ImportOptions::default()
        };
        let port = |port: &str| ImportOptions {
            exposed_ports: vec![port.into()],
            ..ImportOptions::default()
        };
        let workdir = ImportOptions {
            working_dir: "srv".into(),
            ..ImportOptions::default()
        };
        for options in [env("A"), env("=b"), port("0"), port("80/ip"), port("x"), workdir] {
            assert!(options.to_config(digest_of(b"")).is_err(), "{options:?}");
        }
    }
}
