//! A server killed at any moment has everything it acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gantry_env::{Env, System};
use gantry_raft::{Options, Replicated};
use tempfile::TempDir;

use crate::harness::{eventually, id, put, tag};
use crate::restart::Nowhere;

const DIR: &str = "GANTRY_TEST_KILL_DIR";
const FIRST: &str = "GANTRY_TEST_KILL_FIRST";
const KILLS: u64 = 10;

/// Numbers between the lives of the child, so that no two use the same.
const STRIDE: u64 = 1_000_000;

async fn open(dir: &Path) -> Replicated {
    let mut options = Options::new(id(1), "server-1", dir);
    // Often, so that some kills hit a snapshot and a purge.
    options.snapshot_every = 100;
    options.keep_entries = 10;
    let server = Replicated::open(options, Arc::new(Nowhere)).await.unwrap();
    server.bootstrap().await.unwrap();
    server
}

/// Not a test of its own: the process that is killed. Writes as fast as it can and prints what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let server = open(Path::new(&dir)).await;
    let writers = (0..8u64).map(|writer| {
        let server = server.clone();
        tokio::spawn(async move {
            for number in (first + writer..).step_by(8) {
                server.propose(put(number)).await.unwrap();
                let mut output = std::io::stdout().lock();
                writeln!(output, "acknowledged {number}").unwrap();
                output.flush().unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// Runs the child for about `life` after its first acknowledgement and returns what it acknowledged.
fn live_and_die(dir: &Path, first: u64, life: Duration) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--nocapture"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let numbers = output
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    let mut acknowledged = Vec::new();
    let mut killer = None;
    for number in numbers {
        acknowledged.push(number);
        killer.get_or_insert_with(|| {
            let pid = child.id().to_string();
            std::thread::spawn(move || {
                std::thread::sleep(life);
                assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            })
        });
    }
    let status = child.wait().unwrap();
    killer.expect("it acknowledged something").join().unwrap();
    assert!(!status.success());
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_missing_after_kill_9_at_random_moments() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        let life = Duration::from_millis(System.random_below(250));
        let path = dir.path().to_path_buf();
        let died = tokio::task::spawn_blocking(move || live_and_die(&path, round * STRIDE, life));
        acknowledged.extend(died.await.unwrap());
    }
    let server = open(dir.path()).await;
    eventually("leadership", || async {
        server.leadership().borrow().is_leader.then_some(())
    })
    .await;
    let state = server.state();
    let missing: Vec<_> = acknowledged
        .iter()
        .filter(|number| state.tag(&tag(**number)).is_none())
        .collect();
    println!("{} acknowledged over {KILLS} kills", acknowledged.len());
    assert!(missing.is_empty(), "{missing:?} of {} are missing", acknowledged.len());
    server.shutdown().await;
}
