//! `gantry namespace`: who owns names.

use clap::Subcommand;
use gantry_api::kind;
use serde_json::Value;

use crate::args::Global;
use crate::client::{Client, json};
use crate::failure::Outcome;
use crate::output::{self, Column, Table};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// List namespaces that hold something
    Ls,
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Ls => list(global).await,
    }
}

async fn list(global: &Global) -> Outcome {
    let client = Client::open(global).await?;
    let (documents, _) = client.documents(kind::NAMESPACE, &global.namespace(), "").await?;
    let mut table = Table::new(vec![
        Column::new("NAME"),
        Column::new("SERVICES"),
        Column::new("REPLICAS"),
    ]);
    for document in &documents {
        let json = json(document);
        let number = |key: &str| json[key].as_u64().unwrap_or_default();
        let name = json["name"].as_str().unwrap_or_default().to_string();
        let replicas = format!("{}/{}", number("ready"), number("replicas"));
        let cells = [name.clone(), number("services").to_string(), replicas];
        table.push(name, cells, Value::clone(&json));
    }
    output::list(
        global.output,
        &table,
        "there are no namespaces: `gantry apply` makes them",
    )?;
    Ok(())
}
