//! `~/.docker/config.json`: where Docker's users have their credentials, and where `login` and `logout` write them.
//!
//! **Invariant:** what else is in the file stays as it was; it is replaced by renaming a complete one over it, mode 0600.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::build::RegistryAuth;
use gantry_model::{Class, Problem};
use serde_json::{Map, Value, json};

use crate::helper;
use crate::options::{Keychain, config_key, registry_key};

/// What goes wrong with stored credentials.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error("{act} {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The file is not what Docker writes.
    #[error("{}: {reason}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A helper program failed.
    #[error("{helper}: {reason}")]
    Helper {
        /// Name of the program.
        helper: String,
        /// Its words.
        reason: String,
    },
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Io { act, path, source } => Self::new(
                Class::Internal,
                path.display().to_string(),
                format!("cannot {act} it: {source}"),
            ),
            ConfigError::Document { path, reason } => Self::new(Class::Invalid, path.display().to_string(), reason)
                .remedy("correct the file, or move it away and log in again"),
            ConfigError::Helper { helper, reason } => Self::new(Class::Denied, helper, reason)
                .remedy("repair the helper, or remove credsStore or credHelpers from ~/.docker/config.json"),
        }
    }
}

/// A Docker configuration file; read anew for every operation, since other programs write it too.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
}

impl DockerConfig {
    /// The file at this path, which need not be there.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`; none without a home.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let dir = match std::env::var_os("DOCKER_CONFIG") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
        };
        Some(Self::at(dir.join("config.json")))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The credentials for a registry: of its own helper, else of the general one, else of the file.
    ///
    /// # Errors
    /// When the file or the helper fails; a registry that neither knows is no error.
    pub async fn credential(&self, registry: &str) -> Result<Option<RegistryAuth>, ConfigError> {
        let document = self.read()?;
        if let Some(helper) = helper_of(&document, registry)
            && let Some(found) = helper::get(&helper, &config_key(registry)).await?
        {
            return Ok(Some(found));
        }
        let wanted = registry_key(registry);
        let auths = document.get("auths").and_then(Value::as_object);
        let entries = auths.into_iter().flatten();
        for (_, entry) in entries.filter(|(name, _)| registry_key(name) == wanted) {
            if let Some(found) = self.decode(entry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The credentials for several registries, to be sent along with a request.
    ///
    /// # Errors
    /// As [`DockerConfig::credential`].
    pub async fn keychain<'a>(&self, registries: impl IntoIterator<Item = &'a str>) -> Result<Keychain, ConfigError> {
        let mut found = BTreeMap::new();
        for registry in registries {
            if let Some(auth) = self.credential(registry).await? {
                found.insert(registry.to_string(), auth);
            }
        }
        Ok(Keychain::new(found))
    }

    /// Keeps credentials for a registry, in the helper where one is configured, else in the file.
    ///
    /// # Errors
    /// When the file or the helper fails.
    pub async fn login(&self, registry: &str, auth: &RegistryAuth) -> Result<(), ConfigError> {
        let mut document = self.read()?;
        let key = config_key(registry);
        let entry = match helper_of(&document, registry) {
            Some(helper) => {
                helper::store(&helper, &key, auth).await?;
                // Docker keeps an empty entry, so that a list of logins can be shown.
                json!({})
            }
            None => encode(auth),
        };
        let auths = document.entry("auths").or_insert_with(|| json!({}));
        let Some(auths) = auths.as_object_mut() else {
            return Err(self.document("auths is not an object"));
        };
        auths.insert(key, entry);
        self.write(&document)
    }

    /// Forgets the credentials for a registry; true when there were any.
    ///
    /// # Errors
    /// When the file or the helper fails.
    pub async fn logout(&self, registry: &str) -> Result<bool, ConfigError> {
        let mut document = self.read()?;
        let mut was_known = false;
        if let Some(helper) = helper_of(&document, registry) {
            was_known |= helper::erase(&helper, &config_key(registry)).await?;
        }
        let wanted = registry_key(registry);
        if let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|name, _| registry_key(name) != wanted);
            if auths.len() != before {
                was_known = true;
                self.write(&document)?;
            }
        }
        Ok(was_known)
    }

    fn read(&self) -> Result<Map<String, Value>, ConfigError> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            result => result.map_err(|source| ConfigError::Io {
                act: "read",
                path: self.path.clone(),
                source,
            })?,
        };
        if bytes.trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_slice(&bytes).map_err(|error| self.document(error.to_string()))
    }

    fn write(&self, document: &Map<String, Value>) -> Result<(), ConfigError> {
        // A link to a file that is kept elsewhere stays a link.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let new = path.with_extension(format!("json.{}", std::process::id()));
        let write = || {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            let _ = fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            let mut text = serde_json::to_vec_pretty(document)?;
            text.push(b'\n');
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| ConfigError::Io {
            act: "write",
            path: path.clone(),
            source,
        })
    }

    fn decode(&self, entry: &Value) -> Result<Option<RegistryAuth>, ConfigError> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(RegistryAuth::Identity(token.to_string())));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(RegistryAuth::Bearer(token.to_string())));
        }
        if let (Some(user), Some(password)) = (text("username"), text("password")) {
            return Ok(Some(RegistryAuth::Basic {
                user: user.to_string(),
                password: password.to_string(),
            }));
        }
        let Some(auth) = text("auth") else { return Ok(None) };
        let bytes = STANDARD
            .decode(auth.trim())
            .map_err(|_| self.document("an auth is no base64"))?;
        let plain = String::from_utf8(bytes).map_err(|_| self.document("an auth is no text"))?;
        let (user, password) = plain
            .split_once(':')
            .ok_or_else(|| self.document("an auth is not base64 of user:password"))?;
        Ok(Some(RegistryAuth::Basic {
            user: user.to_string(),
            // Docker once padded them.
            password: password.trim_end_matches('\0').to_string(),
        }))
    }

    fn document(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Document {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}

fn encode(auth: &RegistryAuth) -> Value {
    match auth {
        RegistryAuth::Basic { user, password } => json!({ "auth": STANDARD.encode(format!("{user}:{password}")) }),
        RegistryAuth::Identity(token) => json!({ "auth": "", "identitytoken": token }),
        RegistryAuth::Bearer(token) => json!({ "auth": "", "registrytoken": token }),
    }
}

/// The helper of this registry, else the general one.
fn helper_of(document: &Map<String, Value>, registry: &str) -> Option<String> {
    let wanted = registry_key(registry);
    let own = document.get("credHelpers").and_then(Value::as_object);
    let own = own.into_iter().flatten().find(|(name, _)| registry_key(name) == wanted);
    let helper = own.map(|(_, helper)| helper).or_else(|| document.get("credsStore"));
    helper
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .map(str::to_string)
}
