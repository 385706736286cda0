//! `gantry registry`: what other programs need to use the cluster's registry.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use gantry_api::kind;
use gantry_api::v1::{CreateRegistryTokenRequest, CreateTokenReply, RevokeTokensRequest};
use gantry_env::{Env, System};
use gantry_model::object::{RegistryAction, RegistryToken};
use gantry_model::{Class, DurationMs, Problem, Timestamp};
use gantry_rpc::Repeat;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, Read};
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, Column, Format, Table, age};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Print the certificate that clients must trust, for /etc/docker/certs.d/HOST:7600/ca.crt
    Ca,
    /// Say who may pull and push
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum TokenCommand {
    /// Make a token, the password of `docker login HOST:7600`
    Create(CreateArgs),
    /// List tokens, without their secrets
    Ls,
    /// Make a token stop working
    Revoke {
        /// Its id or name
        token: String,
    },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What to call it
    #[arg(default_value = "")]
    name: String,
    /// Let it push too
    #[arg(long)]
    push: bool,
    /// Let it delete too
    #[arg(long)]
    delete: bool,
    /// Repositories it is for; '*' stands for any characters
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    repository: String,
    /// How long it works [default: until it is revoked]
    #[arg(long, value_name = "DURATION")]
    ttl: Option<DurationMs>,
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Ca => {
            let (identity, _) = Context::load(global)?;
            output::emit(&format!("{}\n", identity.ca_pem.trim_end()))?;
            Ok(())
        }
        Command::Token(command) => token(global, command).await,
    }
}

async fn token(global: &Global, command: TokenCommand) -> Outcome {
    let client = Client::open(global).await?;
    match command {
        TokenCommand::Create(args) => show(global, &args, &create(&client, &args).await?),
        TokenCommand::Ls => list(global, &client).await,
        TokenCommand::Revoke { token } => {
            let request = RevokeTokensRequest {
                role: String::new(),
                id: token,
            };
            let reply = client
                .call(Repeat::OnlyUnsent, |mut cluster| {
                    let request = request.clone();
                    async move { cluster.revoke_registry_token(request).await }
                })
                .await?;
            output::emit(&format!("{} revoked\n", reply.revoked))?;
            Ok(())
        }
    }
}

fn actions(args: &CreateArgs) -> BTreeSet<RegistryAction> {
    let mut actions = BTreeSet::from([RegistryAction::Pull]);
    actions.extend(args.push.then_some(RegistryAction::Push));
    actions.extend(args.delete.then_some(RegistryAction::Delete));
    actions
}

async fn create(client: &Client, args: &CreateArgs) -> Result<CreateTokenReply, Problem> {
    if args.ttl == Some(DurationMs::ZERO) {
        return Err(Problem::new(Class::Invalid, "--ttl", "must be longer than nothing"));
    }
    let request = CreateRegistryTokenRequest {
        name: args.name.clone(),
        actions: actions(args).iter().map(ToString::to_string).collect(),
        repositories: args.repository.clone(),
        ttl_ms: args.ttl.unwrap_or_default().0,
    };
    client
        .call(Repeat::OnlyUnsent, |mut cluster| {
            let request = request.clone();
            async move { cluster.create_registry_token(request).await }
        })
        .await
}

/// The token alone goes to standard output, so that a script can take it.
fn show(global: &Global, args: &CreateArgs, reply: &CreateTokenReply) -> Outcome {
    let expires_at = (reply.expires_at_ms > 0).then_some(reply.expires_at_ms);
    let json = json!({ "token": reply.token, "repositories": args.repository, "expires_at": expires_at });
    output::object(global.output, &reply.token, &json, || format!("{}\n", reply.token))?;
    if matches!(global.output, Format::Table | Format::Wide) {
        let may = words(&actions(args));
        let until = match expires_at {
            Some(at) => format!("expires {}", age::until(System.now(), Timestamp(at))),
            None => "works until it is revoked".to_string(),
        };
        let repositories = &args.repository;
        output::note(&format!(
            "It may {may} in {repositories}, and {until}. Log in with any user name, and it as the password."
        ));
    }
    Ok(())
}

fn words(actions: &BTreeSet<RegistryAction>) -> String {
    let words: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
    words.join(", ")
}

async fn list(global: &Global, client: &Client) -> Outcome {
    let tokens: Vec<Read<RegistryToken>> = client.read(kind::REGISTRY_TOKEN, "", "").await?;
    let now = System.now();
    let mut table = Table::new(vec![
        Column::new("ID"),
        Column::new("NAME"),
        Column::new("MAY"),
        Column::new("REPOSITORIES"),
        Column::new("CREATED"),
        Column::new("EXPIRES"),
    ]);
    for Read { object: token, json } in tokens {
        let expires = token.expires_at.map(|at| age::until(now, at));
        let cells = [
            token.id.to_string(),
            token.name.clone(),
            words(&token.actions),
            token.repositories.to_string(),
            age::ago(now, token.created_at),
            expires.unwrap_or_default(),
        ];
        table.push(token.id.to_string(), cells, json);
    }
    output::list(global.output, &table, "there are no tokens of the registry")?;
    Ok(())
}
