//! `linux.resources`, `update`, `events`: what the group says afterwards, in whatever layout this machine has.

use std::fs;

use gantry_cgroup::{Group, Layout};
use serde_json::{Value, json};

use crate::support::{Lab, with_input};

fn group(lab: &Lab, name: &str) -> Group {
    Group::at(&Layout::detect().expect("control groups"), &lab.parent, name)
}

#[test]
fn limits_of_the_document_hold_and_change_while_it_runs() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create("limited", "echo up; sleep 1000", |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 96 << 20});
        config["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 25000, "period": 50000, "cpus": "0"});
        config["linux"]["resources"]["pids"] = json!({"limit": 20});
    });
    lab.succeed(["start", "limited"]);
    container.wait_for_output("up");
    let stats = || group(&lab, "limited").stats().expect("stats");
    assert_eq!(stats().memory.limit.map(|limit| limit.0), Some(64 << 20));
    assert_eq!(stats().pids.limit, Some(20));
    lab.succeed([
        "update",
        "--memory",
        "128m",
        "--memory-swap",
        "-1",
        "--pids-limit",
        "30",
        "--cpu-quota",
        "-1",
        "limited",
    ]);
    assert_eq!(stats().memory.limit.map(|limit| limit.0), Some(128 << 20));
    assert_eq!((stats().memory.swap_limit, stats().pids.limit), (None, Some(30)));
    let document = json!({"memory": {"limit": 96 << 20, "swap": 96 << 20}, "pids": {"limit": -1}}).to_string();
    let output = with_input(&mut lab.command(["update", "--resources=-", "limited"]), &document);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stats().memory.limit.map(|limit| limit.0), Some(96 << 20));
    assert_eq!(stats().pids.limit, None);
    let said = lab.fail(["update", "--memory", "lots", "limited"]);
    assert!(said.contains("'lots'"), "{said}");
    let said = lab.fail(["update", "--cpu-share", "1", "limited"]);
    assert!(said.contains("shares") && said.contains("2 to 262144"), "{said}");
}

#[test]
fn devices_are_shut_but_for_those_allowed() {
    let Some(lab) = Lab::new() else { return };
    let node = json!([{"path": "/dev/mem-null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o664, "uid": 7, "gid": 8},
        {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    let script = "stat -c '%u %g %a' /dev/mem-null; cat /dev/mem-null && echo open; head -c 1 /dev/kmsg || echo shut";
    let (code, output) = lab.run(script, |config| config["linux"]["devices"] = node);
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("7 8 664\nopen\n") && output.contains("shut"),
        "{output}"
    );
    let (_, output) = lab.run(
        "mknod /tmp/d b 7 0 && echo made; cat /tmp/d >/dev/null || echo shut",
        |config| {
            config["process"]["capabilities"]["bounding"] = json!(["CAP_MKNOD"]);
            config["process"]["capabilities"]["permitted"] = json!(["CAP_MKNOD"]);
            config["process"]["capabilities"]["effective"] = json!(["CAP_MKNOD"]);
        },
    );
    assert!(output.contains("made") && output.contains("shut"), "{output}");
}

#[test]
fn events_tell_figures_and_of_kills_for_lack_of_memory() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create(
        "greedy",
        "echo up; read go < /data/go; tr '\\0' x < /dev/zero | tail -c 200000000; sleep 1000",
        |config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
        },
    );
    let fifo = lab.path("greedy/rootfs/data/go");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a pipe");
    lab.succeed(["start", "greedy"]);
    container.wait_for_output("up");
    let stats: Value = serde_json::from_str(&lab.succeed(["events", "--stats", "greedy"])).expect("a document");
    assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!("greedy")));
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], json!(16 << 20));
    assert_eq!(stats["data"]["pids"]["current"], json!(1));
    assert!(
        stats["data"]["cpu"]["usage"]["total"]
            .as_u64()
            .is_some_and(|total| total > 0)
    );

    let mut events = lab
        .command(["events", "--interval", "100ms", "greedy"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("spawns");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(events.stdout.take().expect("piped")));
    let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("reads")).expect("a document");
    assert_eq!(first["type"], "stats");
    fs::write(&fifo, "go\n").expect("goes");
    let has_oom = lines
        .map_while(Result::ok)
        .map(|line| serde_json::from_str::<Value>(&line).expect("a document"))
        .any(|event| event["type"] == "oom");
    assert!(has_oom, "the kill is told");
    lab.succeed(["delete", "--force", "greedy"]);
    let _ = events.kill();
    events.wait().expect("ends");
}

#[test]
fn two_containers_do_not_share_a_group() {
    let Some(lab) = Lab::new() else { return };
    let path = format!("/{}/shared", lab.parent);
    lab.create("first", "sleep 1000", |config| {
        config["linux"]["cgroupsPath"] = json!(path)
    });
    let bundle = lab.bundle("second", "true", |config| config["linux"]["cgroupsPath"] = json!(path));
    let said = lab.fail([
        "create".as_ref(),
        "--bundle".as_ref(),
        bundle.as_os_str(),
        "second".as_ref(),
    ]);
    assert!(said.contains("cgroupsPath") && said.contains("not empty"), "{said}");
    assert_eq!(lab.status("first"), "created");
}
