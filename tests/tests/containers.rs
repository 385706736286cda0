//! Containers that a person runs by hand, images that a person builds: docker's verbs on a node of a running cluster.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use gantry_tests::{Cluster, Shape, until};
use serde_json::Value;

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 2,
    lease_s: 3,
};

/// The node whose agent a person on it uses without naming it.
const NODE: &str = "h2";

#[test]
fn a_person_runs_containers_and_builds_images_as_with_docker() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    streams_and_exit_statuses_are_the_containers_own(&cluster);
    a_container_lives_through_dockers_verbs(&cluster);
    limits_and_restart_policies_hold(&cluster);
    files_go_in_and_out_and_changes_become_an_image(&cluster);
    containers_outlive_their_agent(&cluster);
    another_node_is_reached_through_a_server(&cluster);
    a_dockerfile_becomes_an_image_that_the_cluster_runs(&cluster);
    nothing_is_left(&cluster);
}

fn here(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.gantry_on(NODE, arguments).ok()
}

fn inspect(cluster: &Cluster, name: &str) -> Result<Value, String> {
    cluster.json_of(NODE, &["inspect", name])
}

fn until_status(cluster: &Cluster, name: &str, status: &str) -> Value {
    until(&format!("{name} is {status}"), || {
        let found = inspect(cluster, name)?;
        if found["state"]["status"] == status {
            Ok(found)
        } else {
            Err(found["state"].to_string())
        }
    })
}

fn streams_and_exit_statuses_are_the_containers_own(cluster: &Cluster) {
    let run = |arguments: &[&str]| cluster.gantry_on(NODE, &[&["run", "--rm"], arguments].concat());
    let answer = run(&["busybox:v1", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((answer.out.as_str(), answer.code), ("out\n", 3));
    assert!(answer.err.contains("err\n"), "{}", answer.err);
    assert_eq!(run(&["busybox:v1", "true"]).code, 0);
    assert_eq!(run(&["busybox:v1", "/no/such/program"]).code, 127);
    assert_eq!(run(&["busybox:v1", "/etc"]).code, 126);
    let missing = run(&["--pull", "never", "nowhere:v1", "true"]);
    assert_eq!(missing.code, 125, "{}", missing.err);
    assert!(missing.err.contains("nowhere:v1"), "{}", missing.err);
    assert_eq!(
        run(&["busybox:v1", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?"]).code,
        128 + 15
    );

    let mut child = cluster
        .command(NODE, &["run", "--rm", "-i", "busybox:v1", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gantry can be run");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&vec![b'x'; 300_000]).expect("the container reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "300000");

    let variables = run(&[
        "-e",
        "COLOUR=blue",
        "-w",
        "/tmp",
        "-u",
        "7:8",
        "--hostname",
        "box",
        "busybox:v1",
        "sh",
        "-c",
        "echo $COLOUR $(pwd) $(id -u):$(id -g) $(hostname)",
    ]);
    assert_eq!(variables.ok(), "blue /tmp 7:8 box\n");
    for _ in 0..3 {
        assert_eq!(
            run(&["--name", "again", "busybox:v1", "true"]).code,
            0,
            "the name is free at once"
        );
    }
    until("--rm leaves nothing", || {
        let left = cluster.json_of(NODE, &["container", "ls", "-a"])?;
        if left == Value::Array(Vec::new()) {
            Ok(())
        } else {
            Err(left.to_string())
        }
    });
}

fn a_container_lives_through_dockers_verbs(cluster: &Cluster) {
    let web = "mkdir -p /www; echo from-web > /www/index.html; exec httpd -f -v -p 80 -h /www";
    let id = here(
        cluster,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "8099:80",
            "busybox:v1",
            "sh",
            "-c",
            web,
        ],
    );
    assert_eq!(id.trim().len(), 13, "{id}");
    until_status(cluster, "web", "running");
    let fetched = until("the port answers", || cluster.fetch(NODE, 8099));
    assert!(fetched.contains("from-web"), "{fetched}");

    let twice = cluster.gantry_on(NODE, &["run", "-d", "--name", "web", "busybox:v1", "true"]);
    assert_eq!(twice.code, 125);
    assert!(twice.err.contains("web"), "{}", twice.err);
    let taken = cluster.gantry_on(NODE, &["run", "-d", "-p", "8099:80", "busybox:v1", "true"]);
    assert_eq!(taken.code, 125);
    assert!(taken.err.contains("8099") && taken.err.contains("web"), "{}", taken.err);

    assert_eq!(
        here(cluster, &["exec", "web", "--", "cat", "/www/index.html"]),
        "from-web\n"
    );
    until("its log shows the request", || {
        let log = cluster.gantry_on(NODE, &["logs", "web"]);
        let text = format!("{}{}", log.out, log.err);
        if text.contains("url:/") || text.contains("response:200") {
            Ok(())
        } else {
            Err(text)
        }
    });
    assert!(here(cluster, &["top", "web"]).contains("httpd"));
    let stats = cluster
        .json_of(NODE, &["stats", "--no-stream", "web"])
        .expect("figures");
    assert!(
        stats[0]["pids"].as_u64() >= Some(1) && stats[0]["memory_usage"].as_u64() > Some(0),
        "{stats}"
    );

    let _ = here(cluster, &["pause", "web"]);
    until_status(cluster, "web", "paused");
    let _ = here(cluster, &["unpause", "web"]);
    let _ = here(cluster, &["rename", "web", "site"]);
    let _ = here(cluster, &["stop", "-t", "1", "site"]);
    let stopped = until_status(cluster, "site", "exited");
    assert!(stopped["state"]["exit_code"].is_i64(), "{stopped}");
    assert!(
        cluster.fetch(NODE, 8099).is_err(),
        "a stopped container publishes nothing"
    );
    let _ = here(cluster, &["start", "site"]);
    until("the port answers again", || cluster.fetch(NODE, 8099));
    let running = cluster.gantry_on(NODE, &["rm", "site"]);
    assert_eq!(running.code, 1, "a running container is not removed without -f");
    assert!(running.err.contains("-f"), "{}", running.err);
    let _ = here(cluster, &["rm", "-f", "site"]);
    assert!(inspect(cluster, "site").is_err());
}

fn limits_and_restart_policies_hold(cluster: &Cluster) {
    let hungry = [
        "run",
        "--name",
        "hungry",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox:v1",
        "sh",
        "-c",
        "x=a; while :; do x=$x$x; done",
    ];
    assert_eq!(cluster.gantry_on(NODE, &hungry).code, 137);
    let found = inspect(cluster, "hungry").expect("it is still there");
    assert_eq!(found["state"]["oom_killed"], true, "{found}");
    let _ = here(cluster, &["rm", "hungry"]);

    let _ = here(
        cluster,
        &[
            "run",
            "-d",
            "--name",
            "again",
            "--restart",
            "on-failure:2",
            "busybox:v1",
            "false",
        ],
    );
    let ended = until("it has been started three times", || {
        let found = inspect(cluster, "again")?;
        let state = &found["state"];
        if state["status"] == "exited" && state["restarts"] == 2 {
            Ok(found)
        } else {
            Err(state.to_string())
        }
    });
    assert_eq!(ended["state"]["exit_code"], 1);
    let _ = here(cluster, &["rm", "again"]);
}

fn files_go_in_and_out_and_changes_become_an_image(cluster: &Cluster) {
    let folder = cluster.folder().join("copied");
    fs::create_dir_all(folder.join("inner")).expect("a folder");
    fs::write(folder.join("inner/file"), "content").expect("a file");
    let waits = "until test -e /data/inner/file; do sleep 0.1; done; cat /data/inner/file";
    let _ = here(
        cluster,
        &["run", "-d", "--name", "copy", "busybox:v1", "sh", "-c", waits],
    );
    let source = folder.display().to_string();
    let _ = here(cluster, &["cp", &source, "copy:/data"]);
    assert_eq!(here(cluster, &["wait", "copy"]), "0\n");
    assert_eq!(here(cluster, &["logs", "copy"]).trim(), "content");
    let out = cluster.folder().join("out");
    let _ = here(cluster, &["cp", "copy:/data/inner/file", &out.display().to_string()]);
    assert_eq!(fs::read_to_string(&out).expect("it came out"), "content");
    let diff = here(cluster, &["diff", "copy"]);
    assert!(diff.lines().any(|line| line == "A /data/inner/file"), "{diff}");
    let _ = here(
        cluster,
        &[
            "commit",
            "-c",
            "CMD [\"cat\", \"/data/inner/file\"]",
            "copy",
            "committed:v1",
        ],
    );
    assert_eq!(here(cluster, &["run", "--rm", "committed:v1"]), "content");
    let _ = here(cluster, &["rm", "copy"]);
}

fn containers_outlive_their_agent(cluster: &Cluster) {
    let _ = here(
        cluster,
        &["run", "-d", "--name", "stays", "busybox:v1", "sleep", "100000"],
    );
    let before = until_status(cluster, "stays", "running");
    cluster.process("agent", NODE).kill();
    cluster.start_agent(NODE);
    let after = until_status(cluster, "stays", "running");
    assert_eq!(before["state"]["pid"], after["state"]["pid"], "the same process");
    let _ = here(cluster, &["rm", "-f", "stays"]);
    cluster.until_nodes_ready(SHAPE.agents);
}

fn another_node_is_reached_through_a_server(cluster: &Cluster) {
    let run = ["run", "--rm", "--node", "h3", "busybox:v1", "sh", "-c", "echo there"];
    assert_eq!(
        cluster.gantry(&run).ok(),
        "there\n",
        "its image came from the other node"
    );
    let several = cluster.gantry(&["run", "--rm", "busybox:v1", "true"]);
    assert_eq!(several.code, 125);
    assert!(several.err.contains("--node"), "{}", several.err);
}

const DOCKERFILE: &str = r#"
FROM busybox:v1 AS base
ARG GREETING=hello
RUN mkdir /app && echo "$GREETING" > /app/greeting

FROM base
WORKDIR /app
COPY late.txt .
ENV MODE=test
CMD ["sh", "-c", "cat greeting late.txt; echo $MODE"]
"#;

fn a_dockerfile_becomes_an_image_that_the_cluster_runs(cluster: &Cluster) {
    let folder = cluster.folder().join("context");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("Dockerfile"), DOCKERFILE).expect("a file");
    fs::write(folder.join("late.txt"), "one\n").expect("a file");
    let context = folder.display().to_string();
    let build = [
        "build",
        "--progress",
        "plain",
        "-t",
        "built:v1",
        "--build-arg",
        "GREETING=hi",
        &context,
    ];
    let first = cluster.gantry_on(NODE, &build);
    assert_eq!(first.code, 0, "{}", first.err);
    assert_eq!(here(cluster, &["run", "--rm", "built:v1"]), "hi\none\ntest\n");

    let again = cluster.gantry_on(NODE, &build);
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(again.err.matches("CACHED").count() >= 3, "{}", again.err);
    fs::write(folder.join("late.txt"), "two\n").expect("a file");
    let late = cluster.gantry_on(NODE, &build);
    assert_eq!(late.code, 0, "{}", late.err);
    assert!(late.err.matches("CACHED").count() >= 1, "{}", late.err);
    assert_eq!(here(cluster, &["run", "--rm", "built:v1"]), "hi\ntwo\ntest\n");

    fs::write(
        folder.join("Dockerfile"),
        "FROM busybox:v1\nRUN echo before && exit 7\n",
    )
    .expect("a file");
    let failing = cluster.gantry_on(NODE, &["build", "--progress", "plain", &context]);
    assert_eq!(failing.code, 1);
    assert!(
        failing.err.contains("Dockerfile:2") && failing.err.contains('7'),
        "{}",
        failing.err
    );
    fs::write(folder.join("Dockerfile"), "FROM busybox:v1\nRUM echo\n").expect("a file");
    let broken = cluster.gantry_on(NODE, &["build", &context]);
    assert_eq!(broken.code, 1);
    assert!(
        broken.err.contains("RUN") && broken.err.contains(":2"),
        "{}",
        broken.err
    );

    // What a node built, services run on every node.
    let manifest = cluster.manifest(
        "built.yaml",
        "name: built\nservices:\n  app:\n    image: built:v1\n    command: [sleep, '100000']\n    stop_grace_period: 0s\n    \
         deploy: {mode: global}\n",
    );
    let _ = cluster.gantry(&["apply", "-f", &manifest]).ok();
    let _ = cluster.until_ready("app", SHAPE.agents);
    let _ = cluster
        .gantry(&["delete", "-f", &manifest, "--wait", "--timeout", "60s"])
        .ok();
}

fn nothing_is_left(cluster: &Cluster) {
    for host in cluster.agents() {
        until(&format!("{host} has no container"), || {
            let left = cluster.containers(&host);
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        });
        let verified = cluster.gantry_on(&host, &["image", "verify"]);
        assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    }
}
