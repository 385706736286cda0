//! `gantry events`: what happened in the cluster.

use clap::Args;
use gantry_api::kind;
use gantry_api::v1::{Document, WatchRequest};
use gantry_env::{Env, System};
use gantry_model::Timestamp;
use gantry_model::explain::Event;
use gantry_rpc::Repeat;

use crate::args::Global;
use crate::client::{Client, Read, parse, stream_problem};
use crate::failure::Outcome;
use crate::output::{self, Format, age};

// Arguments of `gantry events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Only since then: a time, or a duration such as 10m
    #[arg(long, value_name = "TIME", value_parser = point)]
    since: Option<Timestamp>,
}

fn point(text: &str) -> Result<Timestamp, String> {
    age::point(text, System.now())
}

/// Prints events, oldest first.
pub async fn run(global: &Global, args: &EventsArgs) -> Outcome {
    let client = Client::open(global).await?;
    let since = args.since.unwrap_or_default();
    if !args.follow {
        let (documents, _) = client.documents(kind::EVENT, &global.namespace(), "").await?;
        for document in &documents {
            print(global.output, document, since)?;
        }
        return Ok(());
    }
    let request = WatchRequest {
        kinds: vec![kind::EVENT.to_string()],
        namespace: global.namespace(),
        only_changes: false,
    };
    let mut stream = client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.watch(request).await }
        })
        .await?;
    while let Some(reply) = stream.message().await.map_err(|status| stream_problem(&status))? {
        if let Some(document) = &reply.document {
            print(global.output, document, since)?;
        }
    }
    Ok(())
}

fn print(format: Format, document: &Document, since: Timestamp) -> Outcome {
    let Read { object: event, json } = parse::<Event>(document, kind::EVENT)?;
    if event.at >= since {
        output::stream_item(format, &event.object, &json, || line(&event))?;
    }
    Ok(())
}

fn line(event: &Event) -> String {
    let message = if event.message.is_empty() {
        String::new()
    } else {
        format!(": {}", event.message)
    };
    format!(
        "{}  {}  {}{message}\n",
        age::precise(event.at),
        event.object,
        event.kind
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let mut event = Event {
            sequence: 1,
            at: Timestamp(1000),
            object: "replica shop/web.2".to_string(),
            kind: "failed".to_string(),
            message: "exit status 1".to_string(),
        };
        assert_eq!(
            line(&event),
            "1970-01-01T00:00:01.000Z  replica shop/web.2  failed: exit status 1\n"
        );
        event.message.clear();
        assert_eq!(line(&event), "1970-01-01T00:00:01.000Z  replica shop/web.2  failed\n");
    }
}
