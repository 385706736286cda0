//! Lost power: servers killed at random moments forget nothing that they acknowledged.
//!
//! What is not here: a disk that forgets what it did not flush. The kernel outlives these servers and keeps their writes.
//!
//! `GANTRY_POWER_ROUNDS` and `GANTRY_POWER_ROUNDS_3` set how often, for one server and for three.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use gantry_tests::{Cluster, Process, Shape, Stopwatch, until};

/// Power fails at a moment up to this long after the first write of a round; a write takes a tenth of it.
const KILL_WITHIN_MS: u64 = 500;

/// What a writer knows of one key.
#[derive(Debug, Default, Clone, Copy)]
struct Written {
    /// The last value that was acknowledged.
    acknowledged: u64,
    /// The last value that was sent.
    sent: u64,
}

#[test]
fn one_server_loses_no_acknowledged_write() {
    lose_power(1, rounds("GANTRY_POWER_ROUNDS", 10));
}

#[test]
fn three_servers_lose_no_acknowledged_write() {
    lose_power(3, rounds("GANTRY_POWER_ROUNDS_3", 4));
}

fn rounds(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn lose_power(servers: usize, rounds: usize) {
    let cluster = Cluster::start(Shape {
        servers,
        agents: 1,
        lease_s: 3,
    });
    let node = cluster.agents().remove(0);
    let mut keys: BTreeMap<String, Written> = BTreeMap::new();
    let watch = Stopwatch::start();
    for round in 1..=rounds {
        let victims: Vec<Process> = cluster
            .servers()
            .iter()
            .map(|host| cluster.process("server", host))
            .collect();
        let moment = Duration::from_millis(random() % KILL_WITHIN_MS);
        let power = std::thread::spawn(move || {
            std::thread::sleep(moment);
            victims.iter().for_each(|victim| victim.signal("KILL"));
            victims.iter().for_each(|victim| victim.kill());
        });
        let written = keys.entry(format!("round{round}")).or_default();
        while !power.is_finished() {
            written.sent += 1;
            let label = format!("round{round}={}", written.sent);
            if cluster.gantry(&["node", "update", &node, "--label-add", &label]).code == 0 {
                written.acknowledged = written.sent;
            }
        }
        power.join().expect("the servers can be killed");
        for host in cluster.servers() {
            cluster.start_server(&host);
        }
        let labels = until("the servers answer again", || {
            cluster
                .json(&["node", "inspect", &node])
                .map(|found| found["labels"].clone())
        });
        for (key, written) in &keys {
            let found = labels[key].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            assert!(
                (written.acknowledged..=written.sent).contains(&found),
                "round {round}: {key} is {found}, {written:?}"
            );
        }
    }
    let acknowledged: u64 = keys.values().map(|written| written.acknowledged).sum();
    let ms = watch.ms();
    println!(
        "FIGURE lost power: {servers} server(s), {rounds} rounds in {ms} ms, {acknowledged} acknowledged writes, none lost"
    );
    assert!(acknowledged > 0, "a test that writes nothing proves nothing");
}

/// A number from the kernel.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let mut source = std::fs::File::open("/dev/urandom").expect("the kernel has random numbers");
    source.read_exact(&mut bytes).expect("it gives as many as asked for");
    u64::from_ne_bytes(bytes)
}
