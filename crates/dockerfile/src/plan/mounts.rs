//! `RUN --mount=type=…`.

use gantry_model::ByteSize;

use crate::operation::{Mount, Sharing, Source};
use crate::paths::{absolute, file_name};
use crate::suggest::did_you_mean;

const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];
const TYPES: &[&str] = &["bind", "cache", "tmpfs", "secret", "ssh"];

/// Why a mount cannot be understood, and what to do.
pub(crate) type Wrong = (String, Option<String>);

/// A mount's fields before they are a mount.
#[derive(Debug, Default)]
struct Fields {
    kind: String,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    required: Option<bool>,
    size: Option<ByteSize>,
    id: Option<String>,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    variable: Option<String>,
}

/// What a mount needs to know of its stage.
pub(crate) struct Surroundings<'s> {
    pub working_dir: &'s str,
    /// SSH sockets of the same instruction so far.
    pub ssh_count: usize,
    /// Finds a tree by the name of `from=`.
    pub source: &'s dyn Fn(&str) -> Result<Source, Wrong>,
    /// Replaces variables.
    pub expand: &'s mut dyn FnMut(&str) -> Result<String, Wrong>,
}

/// The tree that a mount names, without looking at the rest.
pub(crate) fn from_of(text: &str) -> Option<String> {
    let fields = split(text).ok()?;
    let from = fields.iter().filter_map(|field| field.split_once('='));
    from.filter(|(key, _)| key.eq_ignore_ascii_case("from"))
        .map(|(_, value)| value.to_string())
        .next_back()
}

/// Reads a mount.
pub(crate) fn parse(text: &str, around: &mut Surroundings<'_>) -> Result<Mount, Wrong> {
    let mut fields = Fields {
        kind: "bind".to_string(),
        ..Fields::default()
    };
    for field in split(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        let key = key.to_ascii_lowercase();
        let value = match value {
            Some(value) if key == "from" => Some(value.to_string()),
            Some(value) => Some((around.expand)(value)?),
            None => None,
        };
        fields.set(&key, value)?;
    }
    fields.check()?;
    fields.build(around)
}

/// Comma-separated, where double quotes keep commas.
fn split(text: &str) -> Result<Vec<String>, Wrong> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.last_mut().expect("never empty");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    if quoted {
        return Err(("the quote in --mount is not closed".to_string(), None));
    }
    Ok(fields)
}

fn wrong(message: impl Into<String>) -> Wrong {
    (message.into(), None)
}

impl Fields {
    fn set(&mut self, key: &str, value: Option<String>) -> Result<(), Wrong> {
        match (key, value) {
            ("readonly" | "ro", value) => self.read_only = Some(truth(key, value)?),
            ("readwrite" | "rw", value) => self.read_only = Some(!truth(key, value)?),
            ("required", value) => self.required = Some(truth(key, value)?),
            ("type", Some(value)) => {
                self.kind = value.to_ascii_lowercase();
                if !TYPES.contains(&self.kind.as_str()) {
                    let help = did_you_mean(&value, TYPES.iter().copied());
                    let help = help.or_else(|| Some(format!("the types are {}", TYPES.join(", "))));
                    return Err((format!("'{value}' is no type of mount"), help));
                }
            }
            ("from", Some(value)) => self.from = Some(value),
            ("source" | "src", Some(value)) => self.source = Some(value),
            ("target" | "dst" | "destination", Some(value)) => self.target = Some(value),
            ("id", Some(value)) => self.id = Some(value),
            ("env", Some(value)) => self.variable = Some(value),
            ("size", Some(value)) => self.size = Some(size(&value)?),
            ("sharing", Some(value)) => self.sharing = Some(sharing(&value)?),
            ("mode", Some(value)) => {
                let mode = u32::from_str_radix(&value, 8);
                self.mode = Some(mode.map_err(|_| wrong(format!("mode={value}: write an octal number such as 0600")))?);
            }
            ("uid", Some(value)) => self.uid = Some(number(key, &value)?),
            ("gid", Some(value)) => self.gid = Some(number(key, &value)?),
            (key, None) if KEYS.contains(&key) => return Err(wrong(format!("'{key}' in --mount needs a value"))),
            (key, _) => {
                let help = did_you_mean(key, KEYS.iter().copied());
                return Err((format!("a mount has no '{key}'"), help));
            }
        }
        Ok(())
    }

    /// Fields that mean nothing for the type are refused.
    fn check(&self) -> Result<(), Wrong> {
        let kind = self.kind.as_str();
        let owned = ["secret", "ssh", "cache"];
        let secret = ["secret", "ssh"];
        let allowed: [(&str, bool, &[&str]); 9] = [
            ("mode", self.mode.is_some(), &owned),
            ("uid", self.uid.is_some(), &owned),
            ("gid", self.gid.is_some(), &owned),
            ("required", self.required.is_some(), &secret),
            ("size", self.size.is_some(), &["tmpfs"]),
            ("sharing", self.sharing.is_some(), &["cache"]),
            ("from", self.from.is_some(), &["bind", "cache"]),
            ("env", self.variable.is_some(), &["secret"]),
            ("id", self.id.is_some(), &["secret", "ssh", "cache"]),
        ];
        match allowed
            .iter()
            .find(|(_, given, kinds)| *given && !kinds.contains(&kind))
        {
            Some((key, _, kinds)) => Err(wrong(format!(
                "'{key}' means nothing for a mount of type {kind}, only for {}",
                kinds.join(" and ")
            ))),
            None => Ok(()),
        }
    }

    fn build(self, around: &mut Surroundings<'_>) -> Result<Mount, Wrong> {
        match self.kind.as_str() {
            "secret" => self.secret(around),
            "ssh" => self.ssh(around),
            "tmpfs" => Ok(Mount::Tmpfs {
                target: self.target(around)?,
                size: self.size,
            }),
            "cache" => self.cache(around),
            _ => Ok(Mount::Bind {
                target: self.target(around)?,
                from: match &self.from {
                    Some(from) => (around.source)(from)?,
                    None => Source::Context,
                },
                source: absolute("/", self.source.as_deref().unwrap_or_default()),
                read_only: self.read_only.unwrap_or(true),
            }),
        }
    }

    fn target(&self, around: &Surroundings<'_>) -> Result<String, Wrong> {
        let Some(target) = self.target.as_deref().filter(|target| !target.is_empty()) else {
            let help = "add target=/path".to_string();
            return Err((format!("a mount of type {} needs a target", self.kind), Some(help)));
        };
        match absolute(around.working_dir, target) {
            root if root == "/" => Err(wrong("the root cannot be the target of a mount")),
            target => Ok(target),
        }
    }

    fn cache(self, around: &mut Surroundings<'_>) -> Result<Mount, Wrong> {
        let target = self.target(around)?;
        Ok(Mount::Cache {
            id: self.id.filter(|id| !id.is_empty()).unwrap_or_else(|| target.clone()),
            sharing: self.sharing.unwrap_or_default(),
            from: self.from.as_deref().map(around.source).transpose()?,
            source: absolute("/", self.source.as_deref().unwrap_or_default()),
            read_only: self.read_only.unwrap_or(false),
            mode: self.mode,
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
            target,
        })
    }

    fn secret(self, around: &Surroundings<'_>) -> Result<Mount, Wrong> {
        if self.source.is_some() && self.id.is_some() {
            return Err(wrong("a secret has an id or a source, not both"));
        }
        let target = self.target.as_deref().filter(|target| !target.is_empty());
        let id = self.source.or(self.id).filter(|id| !id.is_empty());
        let Some(id) = id.or_else(|| target.map(|target| file_name(target).to_string())) else {
            let help = "add id=NAME".to_string();
            return Err(("a secret needs an id or a target".to_string(), Some(help)));
        };
        let path = match target {
            Some(target) => Some(absolute(around.working_dir, target)),
            None if self.variable.is_some() => None,
            None => Some(format!("/run/secrets/{}", file_name(&id))),
        };
        Ok(Mount::Secret {
            id,
            target: path,
            variable: self.variable,
            required: self.required.unwrap_or(false),
            mode: self.mode,
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
        })
    }

    fn ssh(self, around: &Surroundings<'_>) -> Result<Mount, Wrong> {
        let target = match self.target.as_deref().filter(|target| !target.is_empty()) {
            Some(target) => absolute(around.working_dir, target),
            None => format!("/run/buildkit/ssh_agent.{}", around.ssh_count),
        };
        let id = self.id.or(self.source).filter(|id| !id.is_empty());
        Ok(Mount::Ssh {
            id: id.unwrap_or_else(|| "default".to_string()),
            target,
            required: self.required.unwrap_or(false),
            mode: self.mode,
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
        })
    }
}

fn truth(key: &str, value: Option<String>) -> Result<bool, Wrong> {
    match value.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(wrong(format!("{key}={other}: write true or false"))),
    }
}

fn number(key: &str, value: &str) -> Result<u32, Wrong> {
    value
        .parse()
        .map_err(|_| wrong(format!("{key}={value}: write a number")))
}

fn sharing(value: &str) -> Result<Sharing, Wrong> {
    match value.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => {
            let help = did_you_mean(value, ["shared", "private", "locked"]);
            let help = help.or_else(|| Some("write shared, private or locked".to_string()));
            Err((format!("'{value}' is no way of sharing"), help))
        }
    }
}

/// `64m`, `1g`, `512k`, bytes without a unit; units are powers of 1024.
fn size(value: &str) -> Result<ByteSize, Wrong> {
    let lower = value.to_ascii_lowercase();
    let digits = lower
        .find(|next: char| !next.is_ascii_digit() && next != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong(format!("size={value}: write a number and k, m or g"))),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(1 << shift),
        Err(_) => None,
    };
    bytes
        .map(ByteSize)
        .ok_or_else(|| wrong(format!("size={value}: write a number and k, m or g")))
}
