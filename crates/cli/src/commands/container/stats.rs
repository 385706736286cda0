//! `gantry stats`: what containers and replicas of a node use.

use std::collections::BTreeMap;

use clap::Args;
use gantry_api::v1::{Documents, StatsContainersRequest};
use gantry_model::ByteSize;
use gantry_model::container::ContainerStats;

use super::NodeArgs;
use crate::args::Global;
use crate::client::{json, stream_problem};
use crate::engine::Engine;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Column, Format, Table};
use crate::terminal;

// Arguments of `gantry stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Once, instead of every second
    #[arg(long)]
    no_stream: bool,
    /// Only these; all that run otherwise
    containers: Vec<String>,
}

/// Shows them, until stopped.
pub async fn run(global: &Global, args: &StatsArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = StatsContainersRequest {
        containers: args.containers.clone(),
        stream: true,
    };
    let answer = engine.client().stats_containers(engine.request(request)).await;
    let mut samples = answer.map_err(|status| stream_problem(&status))?.into_inner();
    let mut former: BTreeMap<String, ContainerStats> = BTreeMap::new();
    let is_live = terminal::is_output() && !args.no_stream && global.output == Format::Table;
    // A share of processor time needs two samples; the first one only begins it.
    let mut is_first = true;
    while let Some(documents) = samples.message().await.map_err(|status| stream_problem(&status))? {
        let (table, current) = table(&documents, &former)?;
        former = current;
        if is_first && !former.is_empty() {
            is_first = false;
            continue;
        }
        show(global, &table, is_live)?;
        if args.no_stream {
            return Ok(());
        }
    }
    Ok(())
}

fn show(global: &Global, table: &Table, is_live: bool) -> Result<(), Failure> {
    if is_live {
        output::emit("\x1b[H\x1b[2J")?;
    }
    output::list(global.output, table, "nothing runs here")?;
    Ok(())
}

fn table(
    documents: &Documents,
    former: &BTreeMap<String, ContainerStats>,
) -> Result<(Table, BTreeMap<String, ContainerStats>), Failure> {
    let mut table = Table::new(vec![
        Column::new("ID"),
        Column::new("NAME"),
        Column::new("CPU"),
        Column::new("MEMORY"),
        Column::new("LIMIT"),
        Column::new("MEM %"),
        Column::new("NET IN / OUT"),
        Column::new("DISK READ / WRITE"),
        Column::new("PIDS"),
    ]);
    let mut current = BTreeMap::new();
    for document in &documents.items {
        let stats: ContainerStats = gantry_api::decode(document, gantry_api::kind::CONTAINER_STATS)?;
        let share = former.get(&stats.id).map(|before| cpu_percent(before, &stats));
        let cells = [
            stats.id.clone(),
            stats.name.clone(),
            share.map(|share| format!("{share:.2}%")).unwrap_or_default(),
            ByteSize(stats.memory_usage).to_string(),
            ByteSize(stats.memory_limit).to_string(),
            format!("{:.2}%", percent(stats.memory_usage, stats.memory_limit)),
            format!("{} / {}", ByteSize(stats.network_rx), ByteSize(stats.network_tx)),
            format!("{} / {}", ByteSize(stats.block_read), ByteSize(stats.block_write)),
            stats.pids.to_string(),
        ];
        table.push(stats.name.clone(), cells, json(document));
        current.insert(stats.id.clone(), stats);
    }
    Ok((table, current))
}

/// Of one processor, as Docker counts: 200 % is two of them.
fn cpu_percent(before: &ContainerStats, now: &ContainerStats) -> f64 {
    let used_us = now.cpu_usage_us.saturating_sub(before.cpu_usage_us);
    let passed_us = now.at.since(before.at).0.saturating_mul(1000);
    percent(used_us, passed_us)
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::Timestamp;

    #[test]
    fn a_share_is_of_one_processor() {
        let at = |ms: u64, cpu_usage_us| ContainerStats {
            at: Timestamp(ms),
            cpu_usage_us,
            ..ContainerStats::default()
        };
        assert!((cpu_percent(&at(0, 0), &at(1000, 500_000)) - 50.0).abs() < 1e-9);
        assert!((cpu_percent(&at(0, 0), &at(1000, 2_000_000)) - 200.0).abs() < 1e-9);
        assert!(cpu_percent(&at(5, 1), &at(5, 1)).abs() < 1e-9);
    }
}
