//! `gantry cluster token`: who may join.

use clap::{Args, Subcommand};
use gantry_api::kind;
use gantry_api::v1::{CreateTokenReply, CreateTokenRequest, RevokeTokensRequest};
use gantry_env::{Env, System};
use gantry_model::object::{Role, TokenRecord};
use gantry_model::{Class, DurationMs, Problem, Timestamp};
use gantry_rpc::Repeat;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, Read};
use crate::failure::Outcome;
use crate::output::{self, Column, Format, Table, age};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Make a token for a server, an agent or a person (admin)
    Create(CreateArgs),
    /// List tokens, without their secrets
    Ls,
    /// Make a new token for a role; all older ones of the role stop working
    Rotate(CreateArgs),
    /// Make tokens stop working: one by its id, or all of a role
    Revoke {
        /// Id of a token, or server, agent, admin
        token: String,
    },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What the holder becomes: server, agent or admin
    role: Role,
    /// How long the token works [default: a day]
    #[arg(long, value_name = "DURATION")]
    ttl: Option<DurationMs>,
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    let client = Client::open(global).await?;
    match command {
        Command::Create(args) => show(global, &args, &create(&client, &args).await?),
        Command::Ls => list(global, &client).await,
        Command::Rotate(args) => {
            // The older ones end first: if this breaks off in between, no token works rather than a leaked one.
            revoke(&client, args.role.as_str(), "").await?;
            show(global, &args, &create(&client, &args).await?)
        }
        Command::Revoke { token } => {
            let revoked = match token.parse::<Role>() {
                Ok(role) => revoke(&client, role.as_str(), "").await?,
                Err(_) => revoke(&client, "", &token).await?,
            };
            if revoked == 0 {
                let problem = Problem::new(Class::NotFound, format!("token {token}"), "does not exist");
                return Err(problem.remedy("`gantry cluster token ls` lists what does").into());
            }
            output::emit(&format!("{revoked} revoked\n"))?;
            Ok(())
        }
    }
}

async fn create(client: &Client, args: &CreateArgs) -> Result<CreateTokenReply, Problem> {
    let request = CreateTokenRequest {
        role: args.role.to_string(),
        ttl_ms: args.ttl.unwrap_or_default().0,
    };
    client
        .call(Repeat::OnlyUnsent, |mut cluster| {
            let request = request.clone();
            async move { cluster.create_token(request).await }
        })
        .await
}

async fn revoke(client: &Client, role: &str, id: &str) -> Result<u32, Problem> {
    let request = RevokeTokensRequest {
        role: role.to_string(),
        id: id.to_string(),
    };
    let reply = client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.revoke_tokens(request).await }
        })
        .await?;
    Ok(reply.revoked)
}

/// The token alone goes to standard output, so that a script can take it.
fn show(global: &Global, args: &CreateArgs, reply: &CreateTokenReply) -> Outcome {
    let json = json!({ "token": reply.token, "role": args.role, "expires_at": reply.expires_at_ms });
    output::object(global.output, &reply.token, &json, || format!("{}\n", reply.token))?;
    if matches!(global.output, Format::Table | Format::Wide) {
        let expires = age::until(System.now(), Timestamp(reply.expires_at_ms));
        output::note(&format!("It works for role {}, and expires {expires}.", args.role));
    }
    Ok(())
}

async fn list(global: &Global, client: &Client) -> Outcome {
    let tokens: Vec<Read<TokenRecord>> = client.read(kind::TOKEN, "", "").await?;
    let now = System.now();
    let mut table = Table::new(vec![
        Column::new("ID"),
        Column::new("ROLE"),
        Column::new("CREATED"),
        Column::new("EXPIRES"),
    ]);
    for Read { object: token, json } in tokens {
        let cells = [
            token.id.to_string(),
            token.role.to_string(),
            age::ago(now, token.created_at),
            age::until(now, token.expires_at),
        ];
        table.push(token.id.to_string(), cells, json);
    }
    output::list(global.output, &table, "there are no tokens")?;
    Ok(())
}
