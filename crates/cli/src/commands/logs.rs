//! `gantry logs`: what replicas wrote.

use std::io::Write;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use gantry_api::v1::{LogRecord, LogsRequest};
use gantry_env::{Env, System};
use gantry_model::{Problem, ReplicaId, Timestamp};
use gantry_rpc::Repeat;
use serde_json::json;
use tonic::{Response, Streaming};

use super::container::NodeArgs;
use crate::args::Global;
use crate::client::{Client, stream_problem};
use crate::complete;
use crate::engine::Engine;
use crate::failure::Outcome;
use crate::output::{self, Format, age, style};

const STDERR: u32 = 2;

// Arguments of `gantry logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Service, SERVICE.SLOT or id of a replica, or a container run by hand
    #[arg(add = ArgValueCompleter::new(complete::replicas))]
    object: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only since then: a time, or a duration such as 10m
    #[arg(long, value_name = "TIME", value_parser = point)]
    since: Option<Timestamp>,
    /// Only until then
    #[arg(long, value_name = "TIME", value_parser = point)]
    until: Option<Timestamp>,
    /// Only the last so many lines of each replica; `all` is all
    #[arg(long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: i64,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Leave out the names of replicas
    #[arg(long)]
    no_prefix: bool,
}

fn point(text: &str) -> Result<Timestamp, String> {
    age::point(text, System.now())
}

fn tail(text: &str) -> Result<i64, String> {
    match text {
        "all" => Ok(-1),
        number => number
            .parse::<u32>()
            .map(i64::from)
            .map_err(|_| "write a number of lines, or all".to_string()),
    }
}

/// Prints the logs.
pub async fn run(global: &Global, args: &LogsArgs) -> Outcome {
    let (namespace, replica) = global.qualified(&args.object);
    let request = LogsRequest {
        replica: replica.clone(),
        follow: args.follow,
        tail: args.tail,
        since_ms: args.since.unwrap_or_default().0,
        namespace,
        until_ms: args.until.unwrap_or_default().0,
    };
    let by_hand = Engine::holding(global, args.node.name(), &args.object).await?;
    let is_one = by_hand.is_some() || names_one(&replica);
    let mut stream = open(global, by_hand, request).await?;
    let mut printer = Printer {
        format: global.output,
        prefix: !args.no_prefix && !is_one,
        timestamps: args.timestamps,
        colored: style::on_stdout(),
        open: None,
    };
    while let Some(record) = stream.message().await.map_err(|status| stream_problem(&status))? {
        printer.print(&record)?;
    }
    Ok(())
}

async fn open(global: &Global, by_hand: Option<Engine>, request: LogsRequest) -> Result<Streaming<LogRecord>, Problem> {
    if let Some(engine) = by_hand {
        let answer = engine.node_client().logs(engine.request(request)).await;
        return answer
            .map(Response::into_inner)
            .map_err(|status| stream_problem(&status));
    }
    let client = Client::open(global).await?;
    let logs = client.call(Repeat::Harmless, |mut cluster| {
        let request = request.clone();
        async move { cluster.logs(request).await }
    });
    logs.await
}

/// Whether the person named one replica, so that its name on each line would say nothing.
fn names_one(object: &str) -> bool {
    let slot = object.rsplit_once('.').map(|(_, slot)| slot);
    object.parse::<ReplicaId>().is_ok() || slot.is_some_and(|slot| slot.parse::<u32>().is_ok())
}

struct Printer {
    format: Format,
    prefix: bool,
    timestamps: bool,
    colored: bool,
    /// Replica and stream whose line has not ended yet.
    open: Option<(String, u32)>,
}

impl Printer {
    fn print(&mut self, record: &LogRecord) -> std::io::Result<()> {
        match self.format {
            Format::Table | Format::Wide | Format::Name => {
                let bytes = self.line(record);
                if record.stream == STDERR {
                    std::io::stderr().lock().write_all(&bytes)
                } else {
                    output::emit_bytes(&bytes)
                }
            }
            Format::Json | Format::Yaml => {
                let json = json!({
                    "replica": record.replica, "node": record.node, "at_ns": record.at_ns,
                    "stream": if record.stream == STDERR { "stderr" } else { "stdout" },
                    "line": String::from_utf8_lossy(&record.line), "partial": record.partial,
                });
                output::stream_item(self.format, &record.replica, &json, String::new)
            }
        }
    }

    /// A long line comes in parts; its prefix is shown once, unless another line got in between.
    fn line(&mut self, record: &LogRecord) -> Vec<u8> {
        let own = (record.replica.clone(), record.stream);
        let mut bytes = Vec::new();
        let continues = self.open.as_ref() == Some(&own);
        if self.open.is_some() && !continues {
            bytes.push(b'\n');
        }
        if !continues {
            bytes.extend(self.head(record).into_bytes());
        }
        bytes.extend_from_slice(&record.line);
        if record.partial {
            self.open = Some(own);
        } else {
            bytes.push(b'\n');
            self.open = None;
        }
        bytes
    }

    fn head(&self, record: &LogRecord) -> String {
        let mut head = String::new();
        if self.prefix {
            head.push_str(&style::name(&record.replica, self.colored));
            if !record.node.is_empty() {
                head.push_str(&format!("@{}", record.node));
            }
            head.push_str(" | ");
        }
        if self.timestamps {
            head.push_str(&age::precise(Timestamp(record.at_ns / 1_000_000)));
            head.push(' ');
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(replica: &str, line: &str, partial: bool) -> LogRecord {
        LogRecord {
            replica: replica.to_string(),
            at_ns: 1_500_000_000,
            stream: 1,
            line: line.as_bytes().to_vec().into(),
            node: "alpha".to_string(),
            partial,
        }
    }

    #[test]
    fn parts_of_a_long_line_are_joined_and_others_kept_apart() {
        let mut printer = Printer {
            format: Format::Table,
            prefix: true,
            timestamps: false,
            colored: false,
            open: None,
        };
        let mut text = String::new();
        for (replica, line, partial) in [
            ("web.1", "a", true),
            ("web.1", "b", false),
            ("web.1", "c", true),
            ("web.2", "d", false),
        ] {
            text.push_str(&String::from_utf8_lossy(&printer.line(&record(replica, line, partial))));
        }
        assert_eq!(text, "web.1@alpha | ab\nweb.1@alpha | c\nweb.2@alpha | d\n");
    }

    #[test]
    fn one_replica_needs_no_prefix() {
        assert!(names_one("web.3") && names_one("0123456789abc"));
        assert!(!names_one("web") && !names_one("my.web"));
        let printer = Printer {
            format: Format::Table,
            prefix: false,
            timestamps: true,
            colored: false,
            open: None,
        };
        assert_eq!(printer.head(&record("web.1", "", false)), "1970-01-01T00:00:01.500Z ");
    }

    #[test]
    fn tails_are_numbers_or_all() {
        assert_eq!((tail("all"), tail("10"), tail("0")), (Ok(-1), Ok(10), Ok(0)));
        assert!(tail("-1").is_err() && tail("x").is_err());
    }
}
