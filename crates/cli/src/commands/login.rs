//! `gantry login` and `logout`: credentials for registries, kept where Docker keeps them.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use gantry_distribution::{Client, DockerConfig, Keychain, Options};
use gantry_env::System;
use gantry_model::build::RegistryAuth;
use gantry_model::{Class, Problem};
use rustix::stdio;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::failure::Outcome;
use crate::{output, terminal};

/// The registry of names without one.
const REGISTRY_DEFAULT: &str = "docker.io";

/// How this machine's operator says that registries are reached; agents read the same file.
const SETTINGS: &str = "/etc/gantry/registries.json";

// Arguments of `gantry login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Name at the registry
    #[arg(short, long, value_name = "NAME")]
    username: String,
    /// Password; better piped in with --password-stdin, where other users of this machine cannot see it
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Keep them without asking the registry, for one that only nodes reach
    #[arg(long)]
    no_check: bool,
    /// Speak HTTP with the registry: anybody in between can read the password
    #[arg(long)]
    plain_http: bool,
    /// The registry, HOST or HOST:PORT
    #[arg(default_value = REGISTRY_DEFAULT)]
    registry: String,
}

// Arguments of `gantry logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry, HOST or HOST:PORT
    #[arg(default_value = REGISTRY_DEFAULT)]
    registry: String,
}

fn config() -> Result<DockerConfig, Problem> {
    DockerConfig::of_user().ok_or_else(|| {
        Problem::new(
            Class::Invalid,
            "login",
            "there is no home folder to keep credentials in",
        )
        .remedy("set HOME or DOCKER_CONFIG")
    })
}

/// Keeps credentials that the registry takes.
pub async fn login(args: &LoginArgs) -> Outcome {
    let password = match &args.password {
        Some(password) => password.clone(),
        None => read_password(args.password_stdin)?,
    };
    if password.is_empty() {
        return Err(Problem::new(Class::Invalid, "password", "is empty")
            .remedy("pipe it in with --password-stdin")
            .into());
    }
    let auth = RegistryAuth::Basic {
        user: args.username.clone(),
        password,
    };
    let config = config()?;
    if !args.no_check {
        check(args, &auth).await?;
    }
    config.login(&args.registry, &auth).await.map_err(Problem::from)?;
    output::note(&format!(
        "credentials for {} are kept as docker keeps them, at {}",
        args.registry,
        config.path().display()
    ));
    Ok(())
}

/// Shows them to the registry.
async fn check(args: &LoginArgs, auth: &RegistryAuth) -> Result<(), Problem> {
    let mut options = Options::read(Path::new(SETTINGS))?;
    if args.plain_http {
        options.plain_http.insert(args.registry.clone());
    }
    let keychain = Keychain::of(&args.registry, auth.clone());
    let client = Client::new(options, Arc::new(System));
    let checked = client.check_login(&args.registry, &keychain).await;
    checked.map_err(|error| {
        let problem = Problem::from(error);
        match problem.class {
            Class::Denied => problem.remedy("check the name and the password: nothing was kept"),
            _ if problem.remedy.is_empty() => problem.remedy("if only nodes reach the registry, add --no-check"),
            _ => problem,
        }
    })
}

fn read_password(from_input: bool) -> Result<String, Problem> {
    let failed =
        |error: std::io::Error| Problem::new(Class::Invalid, "standard input", format!("cannot be read: {error}"));
    let mut text = String::new();
    if from_input || !terminal::is_input() {
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text.trim_end_matches(['\n', '\r']).to_string());
    }
    output::note("password:");
    let former = tcgetattr(stdio::stdin()).map_err(|error| failed(error.into()))?;
    let mut silent = former.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(stdio::stdin(), OptionalActions::Now, &silent).map_err(|error| failed(error.into()))?;
    let read = std::io::stdin().read_line(&mut text);
    // The terminal may be gone by now; then there is nothing to bring back.
    let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &former);
    read.map_err(failed)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_string())
}

/// Forgets credentials.
pub async fn logout(args: &LogoutArgs) -> Outcome {
    let was_known = config()?.logout(&args.registry).await.map_err(Problem::from)?;
    let text = if was_known {
        "credentials are gone"
    } else {
        "there were no credentials"
    };
    output::note(&format!("{text}: {}", args.registry));
    Ok(())
}
