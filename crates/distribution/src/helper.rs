//! Credential helpers: programs `docker-credential-NAME` that keep passwords in a key ring (docker-credential-helpers protocol).

use std::io;
use std::process::Stdio;

use gantry_model::build::RegistryAuth;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::docker_config::ConfigError;
use crate::limits::HELPER_TIMEOUT;

/// The name that says "this password is an identity token".
const TOKEN_USER: &str = "<token>";
/// What helpers say when they have nothing; part of the protocol.
const NOT_FOUND: &str = "credentials not found";
/// Its older form, of helpers without a key ring to ask.
const NOT_INITIALISED: &str = "credentials server URL is missing";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What the helper keeps for a registry.
pub(crate) async fn get(helper: &str, server: &str) -> Result<Option<RegistryAuth>, ConfigError> {
    let output = match run(helper, "get", server.as_bytes()).await {
        Err(ConfigError::Helper { reason, .. }) if is_absence(&reason) => return Ok(None),
        output => output?,
    };
    let entry: Entry = serde_json::from_slice(&output).map_err(|error| ConfigError::Helper {
        helper: program(helper),
        reason: format!("its answer is no JSON of the protocol: {error}"),
    })?;
    if entry.secret.is_empty() && entry.username.is_empty() {
        return Ok(None);
    }
    Ok(Some(if entry.username == TOKEN_USER {
        RegistryAuth::Identity(entry.secret)
    } else {
        RegistryAuth::Basic {
            user: entry.username,
            password: entry.secret,
        }
    }))
}

/// Has the helper keep credentials.
pub(crate) async fn store(helper: &str, server: &str, auth: &RegistryAuth) -> Result<(), ConfigError> {
    let (username, secret) = match auth {
        RegistryAuth::Basic { user, password } => (user.clone(), password.clone()),
        RegistryAuth::Identity(token) | RegistryAuth::Bearer(token) => (TOKEN_USER.to_string(), token.clone()),
    };
    let entry = Entry {
        server_url: server.to_string(),
        username,
        secret,
    };
    let input = serde_json::to_vec(&entry).expect("strings alone always serialise");
    run(helper, "store", &input).await.map(drop)
}

/// Has the helper forget a registry; true when it knew it.
pub(crate) async fn erase(helper: &str, server: &str) -> Result<bool, ConfigError> {
    match run(helper, "erase", server.as_bytes()).await {
        Err(ConfigError::Helper { reason, .. }) if is_absence(&reason) => Ok(false),
        output => output.map(|_| true),
    }
}

fn is_absence(reason: &str) -> bool {
    reason.contains(NOT_FOUND) || reason.contains(NOT_INITIALISED)
}

fn program(helper: &str) -> String {
    format!("docker-credential-{helper}")
}

async fn run(helper: &str, act: &str, input: &[u8]) -> Result<Vec<u8>, ConfigError> {
    let program = program(helper);
    let failed = |reason: String| ConfigError::Helper {
        helper: program.clone(),
        reason,
    };
    // The name becomes part of a program's: a path in it would run something else.
    if helper.is_empty() || helper.contains(['/', '\0']) {
        return Err(failed("this is not the name of a helper".to_string()));
    }
    let child = Command::new(&program)
        .arg(act)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            failed("there is no such program; install it, or remove it from config.json".to_string())
        }
        _ => failed(error.to_string()),
    })?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    let talk = async {
        // A helper that does not read its input says so by its status.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_TIMEOUT, talk).await;
    let output = output.map_err(|_| failed(format!("no answer within {} s", HELPER_TIMEOUT.as_secs())))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // Helpers write their errors to standard output.
    let words = [output.stdout, output.stderr].concat();
    Err(failed(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&words).trim()
    )))
}
