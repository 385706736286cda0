//! `gantry explain`: why something is not as wanted, or why it is where it is; how many more would fit, and what becomes of a
//! node's replicas without it.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use gantry_api::v1::{ExplainReply, ExplainRequest};
use gantry_rpc::Repeat;
use serde_json::{Value, json};

use crate::args::Global;
use crate::client::{self, Client};
use crate::complete;
use crate::failure::Outcome;
use crate::output::{self, style};

// Arguments of `gantry explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Service, SERVICE.SLOT, id of a replica, or node
    #[arg(add = ArgValueCompleter::new(complete::replicas))]
    object: String,
}

/// Prints the explanation.
pub async fn run(global: &Global, args: &ExplainArgs) -> Outcome {
    let client = Client::open(global).await?;
    let (namespace, object) = global.qualified(&args.object);
    let request = ExplainRequest {
        namespace,
        object,
        ..ExplainRequest::default()
    };
    let reply = client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.explain(request).await }
        })
        .await?;
    let replicas: Vec<Value> = reply.replicas.iter().map(client::json).collect();
    let json = json!({
        "object": reply.object, "summary": reply.summary, "reasons": reply.reasons,
        "remedy": reply.remedy, "replicas": replicas,
    });
    output::object(global.output, &reply.object, &json, || text(&reply, style::on_stdout()))?;
    Ok(())
}

fn text(reply: &ExplainReply, colored: bool) -> String {
    let mut text = format!("{}: {}\n", reply.object, reply.summary);
    for reason in &reply.reasons {
        text.push_str(&format!("  - {reason}\n"));
    }
    if !reply.remedy.is_empty() {
        text.push_str(&format!("{} {}\n", style::help("help:", colored), reply.remedy));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_ends_with_what_to_do() {
        let reply = ExplainReply {
            object: "replica shop/web.2".to_string(),
            summary: "pending: no suitable node".to_string(),
            reasons: vec!["2 nodes lack memory".to_string()],
            remedy: "add a node".to_string(),
            replicas: Vec::new(),
        };
        let expected = "replica shop/web.2: pending: no suitable node\n  - 2 nodes lack memory\nhelp: add a node\n";
        assert_eq!(text(&reply, false), expected);
    }
}
