//! `gantry node drain --wait`: follows a node until it is empty, and says what it waits for.

use std::time::Duration;

use clap::Args;
use gantry_api::v1::{ExplainReply, ExplainRequest};
use gantry_model::{Class, DurationMs, Problem};
use gantry_rpc::Repeat;

use crate::client::Client;
use crate::failure::{Failure, Outcome, render};
use crate::output::{self, style};

/// Pause between two looks at a node.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long is waited when only `--wait` is said.
const TIMEOUT_DEFAULT: DurationMs = DurationMs::secs(600);

// Whether to wait, and how long.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Wait until nothing is left there
    #[arg(long)]
    wait: bool,
    /// Wait, but not longer than this; then say what is left there and why [default: 10m]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<DurationMs>,
}

/// Waits if the arguments say so.
///
/// # Errors
/// When something is left after the time is over; what and why has been said.
pub async fn wait(client: &Client, args: &WaitArgs, nodes: &[String]) -> Outcome {
    if !args.wait && args.timeout.is_none() {
        return Ok(());
    }
    let timeout = args.timeout.unwrap_or(TIMEOUT_DEFAULT);
    let mut last = Vec::new();
    match tokio::time::timeout(timeout.to_std(), follow(client, nodes, &mut last)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            for reply in last.iter().filter(|reply| !is_over(reply)) {
                output::note(render(&overdue(reply, timeout), style::on_stderr()).trim_end());
            }
            Err(Failure::SAID)
        }
    }
}

/// Looks until all nodes are empty; `last` is what was seen last.
async fn follow(client: &Client, nodes: &[String], last: &mut Vec<ExplainReply>) -> Outcome {
    let mut said: Vec<String> = Vec::new();
    loop {
        let mut seen = Vec::new();
        for node in nodes {
            seen.push(look(client, node).await?);
        }
        let left: Vec<String> = seen.iter().flat_map(|reply| &reply.reasons).cloned().collect();
        for line in left.iter().filter(|line| !said.contains(line)) {
            output::note(line);
        }
        said = left;
        *last = seen;
        if last.iter().all(is_over) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(client: &Client, node: &str) -> Result<ExplainReply, Problem> {
    let request = ExplainRequest {
        node: node.to_string(),
        ..ExplainRequest::default()
    };
    client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.explain(request).await }
        })
        .await
}

fn is_over(reply: &ExplainReply) -> bool {
    reply.replicas.is_empty()
}

fn overdue(reply: &ExplainReply, timeout: DurationMs) -> Problem {
    let left = reply.reasons.join("; ");
    let count = reply.replicas.len();
    let reason = format!("{count} replica(s) are still there after {timeout}: {left}");
    Problem::new(Class::Timeout, reply.object.clone(), reason).remedy(reply.remedy.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdue_drain_says_what_is_left_and_why() {
        let reply = ExplainReply {
            object: "node alpha".to_string(),
            reasons: vec!["shop/web.1: its successor has no node: no suitable node".to_string()],
            remedy: "add a node".to_string(),
            replicas: vec![gantry_api::v1::Document::default()],
            ..ExplainReply::default()
        };
        assert!(!is_over(&reply));
        assert_eq!(
            overdue(&reply, DurationMs::secs(2)).to_string(),
            "node alpha: 1 replica(s) are still there after 2s: shop/web.1: its successor has no node: no suitable node \
             (add a node)"
        );
    }
}
