//! Which cluster to talk to, and as whom: a folder with an identity and the addresses of servers.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use gantry_api::v1::ClusterStatusReply;
use gantry_model::{Class, Problem, Timestamp};
use gantry_pki::{AuthorityDigest, Identity};
use serde::{Deserialize, Serialize};

use crate::args::Global;
use crate::failure::file_problem;

const SERVERS_FILE: &str = "context.json";
const SYSTEM_FOLDER: &str = "/etc/gantry";

/// Servers come and go rarely, but a list from before the second joined is of no use when the first dies.
const SERVERS_FRESH: Duration = Duration::from_secs(60);

/// The part of a context that is not an identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Name of the cluster, for people.
    pub cluster: String,
    /// Addresses of its servers.
    pub servers: Vec<String>,
}

impl Context {
    /// The cluster and servers of a status.
    pub fn of(reply: &ClusterStatusReply) -> Self {
        Self {
            cluster: reply.name.clone(),
            servers: reply.servers.iter().map(|server| server.address.clone()).collect(),
        }
    }

    /// Identity and servers as the options say, else as the folder says.
    ///
    /// # Errors
    /// When there is no context, or it is damaged.
    pub fn load(global: &Global) -> Result<(Identity, Vec<String>), Problem> {
        let folder = reading_folder(global);
        if !Identity::exists(&folder) {
            return Err(missing(&folder));
        }
        let identity = Identity::load(&folder)?;
        if !global.server.is_empty() {
            return Ok((identity, global.server.clone()));
        }
        let path = folder.join(SERVERS_FILE);
        let text = fs::read(&path).map_err(|error| file_problem("be read", &path, &error))?;
        let context: Self = serde_json::from_slice(&text).map_err(|error| {
            Problem::new(
                Class::Internal,
                path.display().to_string(),
                format!("is damaged: {error}"),
            )
            .remedy("name a server with --server HOST:PORT")
        })?;
        Ok((identity, context.servers))
    }

    /// Writes identity and servers into the folder that the options name; returns the folder.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, global: &Global, identity: &Identity) -> Result<PathBuf, Problem> {
        let folder = writing_folder(global);
        self.save_in(&folder, identity)?;
        Ok(folder)
    }

    /// As [`Context::save`], into that folder.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save_in(&self, folder: &Path, identity: &Identity) -> Result<(), Problem> {
        identity.save(folder)?;
        self.save_servers(folder)
    }

    /// Takes over the servers that the cluster has now, so that commands find one when the first is gone. Options that name
    /// servers keep the folder as it is, and so does a folder that cannot be written: it works as before.
    pub fn learn(self, global: &Global) {
        if global.server.is_empty() && !self.servers.is_empty() {
            let _ = self.save_servers(&reading_folder(global));
        }
    }

    /// Whether the servers in the folder should be asked for again.
    pub fn is_stale(global: &Global, now: Timestamp) -> bool {
        let path = reading_folder(global).join(SERVERS_FILE);
        let written = fs::metadata(path).and_then(|facts| facts.modified()).ok();
        let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let age = written.map(|time| u128::from(now.0).saturating_sub(time.as_millis()));
        global.server.is_empty() && age.is_some_and(|age| age >= SERVERS_FRESH.as_millis())
    }

    fn save_servers(&self, folder: &Path) -> Result<(), Problem> {
        let path = folder.join(SERVERS_FILE);
        let json = serde_json::to_vec_pretty(self).expect("two texts and a list serialise");
        // Several commands may do this at a time.
        let fresh = folder.join(format!(".{SERVERS_FILE}.{}", std::process::id()));
        write_private(&fresh, &json)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| file_problem("be written", &path, &error))
    }
}

/// Refuses to replace the identity of another cluster than the one with this authority (none for a new cluster): it may be
/// the only one that a person has.
///
/// # Errors
/// [`Class::Conflict`] when the folder to write holds such an identity.
pub fn check_free(global: &Global, authority: Option<AuthorityDigest>) -> Result<(), Problem> {
    let folder = writing_folder(global);
    let held = Identity::load(&folder)
        .ok()
        .and_then(|identity| identity.authority_digest().ok());
    if held.is_none() || held == authority {
        return Ok(());
    }
    let object = format!("context {}", folder.display());
    Err(
        Problem::new(Class::Conflict, object, "holds an identity of another cluster")
            .remedy("name another folder with --context, or remove this one if the cluster is gone"),
    )
}

fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    std::io::Write::write_all(&mut options.open(path)?, content)
}

fn missing(folder: &Path) -> Problem {
    Problem::new(
        Class::NotFound,
        format!("context {}", folder.display()),
        "there is no identity to talk to a cluster with",
    )
    .remedy(
        "make a cluster with `gantry cluster init`, join one with `gantry cluster join --token TOKEN HOST:PORT`, or name \
         another folder with --context",
    )
}

/// The named folder, else the first of the usual ones that holds an identity.
pub fn reading_folder(global: &Global) -> PathBuf {
    if let Some(folder) = &global.context {
        return folder.clone();
    }
    let own = own_folder();
    let system = PathBuf::from(SYSTEM_FOLDER);
    match own {
        Some(own) if Identity::exists(&own) || !Identity::exists(&system) => own,
        Some(_) | None => system,
    }
}

/// The named folder, else the person's own.
pub fn writing_folder(global: &Global) -> PathBuf {
    let named = global.context.clone();
    named
        .or_else(own_folder)
        .unwrap_or_else(|| PathBuf::from(SYSTEM_FOLDER))
}

fn own_folder() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(Path::new(&home).join(".config/gantry"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_env::{Env, System};
    use gantry_model::DurationMs;
    use gantry_model::object::Role;
    use gantry_pki::{Authority, Subject, Validity};

    #[test]
    fn a_context_round_trips_and_a_named_server_wins() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut global = Global {
            context: Some(folder.path().join("context")),
            ..Global::default()
        };
        let problem = Context::load(&global).expect_err("nothing there");
        assert!(problem.remedy.contains("cluster init"), "{problem}");
        let authority = Authority::generate("test", &System).expect("an authority");
        let subject = Subject {
            role: Role::Admin,
            id: "0123456789abc".to_string(),
        };
        let validity = Validity::starting(System.now(), DurationMs::secs(60));
        let identity = authority.issue(&subject, validity, &System).expect("an identity");
        let context = Context {
            cluster: "test".to_string(),
            servers: vec!["10.0.0.1:7600".to_string()],
        };
        assert_eq!(check_free(&global, None), Ok(()));
        context.save(&global, &identity).expect("saved");
        assert_eq!(
            check_free(&global, Some(authority.digest())),
            Ok(()),
            "the same cluster again"
        );
        let problem = check_free(&global, None).expect_err("another cluster");
        assert!(problem.remedy.contains("--context"), "{problem}");
        let (loaded, servers) = Context::load(&global).expect("loaded");
        assert_eq!((loaded.id, servers), (identity.id, context.servers));
        let learned = Context {
            servers: vec!["10.0.0.1:7600".to_string(), "10.0.0.3:7600".to_string()],
            ..context
        };
        learned.clone().learn(&global);
        assert_eq!(Context::load(&global).expect("loaded").1, learned.servers);
        let later = Timestamp(System.now().0 + 61_000);
        assert!(!Context::is_stale(&global, System.now()) && Context::is_stale(&global, later));
        global.server = vec!["10.0.0.2:7600".to_string()];
        learned.learn(&global);
        assert_eq!(Context::load(&global).expect("loaded").1, ["10.0.0.2:7600"]);
        assert!(!Context::is_stale(&global, later), "named servers are not looked up");
    }
}
