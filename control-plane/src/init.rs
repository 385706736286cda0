//! `gantry cluster init`: everything of a new cluster that must exist before its first server runs.
//!
//! The authority, the first server's identity and the first tokens are made here and written to the server's folder; the server
//! stores them in the replicated state when it first starts, and then removes the file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gantry_env::{Env, FreshIds};
use gantry_model::object::{ClusterRecord, Role, TokenRecord};
use gantry_model::{Class, DurationMs, Problem};
use gantry_pki::{Authority, Identity, Subject, Token, Validity};
use serde::{Deserialize, Serialize};

use crate::api::TOKEN_TTL_DEFAULT;
use crate::config::{InitConfig, host_of};

/// Lifetime of the certificate of the person who initialises a cluster: a year, since it renews only when it is used.
const ADMIN_LIFETIME: DurationMs = DurationMs::secs(365 * 24 * 3600);

/// What the first server stores when it first starts.
#[derive(Debug, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The cluster's record.
    pub cluster: ClusterRecord,
    /// The first tokens.
    pub tokens: Vec<TokenRecord>,
}

/// What a person gets from `cluster init`.
#[derive(Debug)]
pub struct InitReport {
    /// To use the API with.
    pub admin: Identity,
    /// To join servers with.
    pub server_token: String,
    /// To join agents with.
    pub agent_token: String,
    /// When the tokens stop working.
    pub tokens_expire_after: DurationMs,
}

/// Makes a new cluster in the folder of its first server.
///
/// # Errors
/// When the folder holds a server already, or cannot be written.
pub fn init(config: &InitConfig, env: &dyn Env) -> Result<InitReport, Problem> {
    let folder = identity_dir(&config.data_dir);
    if Identity::exists(&folder) {
        let reason = "holds a server already";
        return Err(
            Problem::new(Class::Conflict, config.data_dir.display().to_string(), reason)
                .remedy("start it with `gantry server`, or give another --data-dir"),
        );
    }
    let authority = Authority::generate(&config.name, env)?;
    let now = env.now();
    let lifetime = config.config.certificate_lifetime;
    let issue = |role, id: String, hosts: &[String], lifetime| {
        authority.issue_for_hosts(&Subject { role, id }, hosts, Validity::starting(now, lifetime), env)
    };
    let hosts = [host_of(&config.advertise)];
    let server = issue(Role::Server, env.server_id().to_string(), &hosts, lifetime)?;
    let admin = issue(Role::Admin, env.node_id().to_string(), &[], ADMIN_LIFETIME)?;
    let digest = server.authority_digest()?;
    let (server_token, server_record) = Token::create(Role::Server, digest, TOKEN_TTL_DEFAULT, env);
    let (agent_token, agent_record) = Token::create(Role::Agent, digest, TOKEN_TTL_DEFAULT, env);
    let bootstrap = Bootstrap {
        cluster: ClusterRecord {
            name: config.name.clone(),
            created_at: now,
            root: authority.to_root(),
            config: config.config.clone(),
            subnets_given: 0,
        },
        tokens: vec![server_record, agent_record],
    };
    write_bootstrap(&config.data_dir, &bootstrap)?;
    server.save(&folder)?;
    Ok(InitReport {
        admin,
        server_token: server_token.to_string(),
        agent_token: agent_token.to_string(),
        tokens_expire_after: TOKEN_TTL_DEFAULT,
    })
}

/// Where a server keeps its identity.
#[must_use]
pub fn identity_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

fn bootstrap_file(data_dir: &Path) -> PathBuf {
    data_dir.join("bootstrap.json")
}

/// What is still to be stored, if this is the first server's first start.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read_bootstrap(data_dir: &Path) -> Result<Option<Bootstrap>, Problem> {
    let path = bootstrap_file(data_dir);
    let problem = |reason: String| Problem::new(Class::Internal, path.display().to_string(), reason);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| problem(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(problem(format!("cannot be read: {error}"))),
    }
}

/// Forgets what has been stored: it holds the authority's key.
///
/// # Errors
/// When the file cannot be removed.
pub fn forget_bootstrap(data_dir: &Path) -> Result<(), Problem> {
    let path = bootstrap_file(data_dir);
    fs::remove_file(&path).map_err(|error| {
        Problem::new(
            Class::Internal,
            path.display().to_string(),
            format!("cannot be removed: {error}"),
        )
    })
}

fn write_bootstrap(data_dir: &Path, bootstrap: &Bootstrap) -> Result<(), Problem> {
    let path = bootstrap_file(data_dir);
    let problem = |reason: String| {
        Problem::new(Class::Internal, path.display().to_string(), reason)
            .remedy("check the folder's owner and free space")
    };
    fs::create_dir_all(data_dir).map_err(|error| problem(format!("its folder cannot be made: {error}")))?;
    let bytes = serde_json::to_vec(bootstrap).map_err(|error| problem(error.to_string()))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| problem(format!("cannot be made: {error}")))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(|error| problem(format!("cannot be written: {error}")))
}
