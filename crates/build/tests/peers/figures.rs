//! A Dockerfile of ten steps cold, warm, and with one late file changed, beside `docker build`.
//!
//! `cargo test --release -p gantry-build --test peers -- --ignored figures --nocapture` prints medians.

use std::fs;
use std::time::Duration;

use gantry_env::{Env, System};
use gantry_model::DurationMs;

use crate::docker::{Docker, debian, run};
use crate::support::{self, Lab};

const ROUNDS: usize = 5;

const DOCKERFILE: &str = "FROM debian-peer\n\
    ENV A=1\n\
    RUN mkdir -p /srv/app && for i in $(seq 200); do echo $i > /srv/app/$i; done\n\
    WORKDIR /srv/app\n\
    COPY early/ early/\n\
    RUN cat early/* > all\n\
    RUN cp -a /usr/share/perl5 /srv/copy || cp -a /usr/share /srv/copy\n\
    COPY middle/ middle/\n\
    RUN find / -xdev -name '*.so*' > libraries\n\
    COPY late/ late/\n\
    RUN cat late/* | md5sum > sum\n\
    CMD [\"cat\", \"sum\"]\n";

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn timed(act: impl FnOnce()) -> Duration {
    let start = System.monotonic();
    act();
    System.monotonic().saturating_sub(start).to_std()
}

fn write_context(lab: &Lab, late: &str) {
    for folder in ["early", "middle", "late"] {
        for number in 0..50 {
            lab.write(
                &format!("{folder}/{number}"),
                &format!("{folder} {number}\n").repeat(100),
            );
        }
    }
    lab.write("late/changed", late);
    fs::write(lab.context().join("Dockerfile"), DOCKERFILE).expect("writes");
}

#[test]
#[ignore = "a minute; needs Docker Engine, debootstrap and the package mirror"]
fn figures_of_ten_steps() {
    if !support::can_run() {
        return;
    }
    let Some(debian) = debian() else { return };
    let Some(docker) = Docker::start() else { return };
    let lab = Lab::new();
    docker.import(&debian, "debian-peer");
    let root = fs::File::open(&debian).expect("the root opens");
    let reference = "debian-peer".parse().expect("reference");
    let base = lab
        .store
        .import_rootfs(root, &reference, &gantry_image::ImportOptions::default())
        .expect("imports");
    lab.store.unpack(base.digest).expect("unpacks");
    let ours = || drop(lab.build(DOCKERFILE));
    let theirs = |buildkit: bool| docker.build(&lab.context(), "theirs", buildkit);
    let mut table = vec![
        ("here", Vec::new()),
        ("docker, BuildKit", Vec::new()),
        ("docker, first builder", Vec::new()),
    ];
    for (who, rows) in table.iter_mut().enumerate().map(|(who, (_, rows))| (who, rows)) {
        let build = || match who {
            0 => ours(),
            1 => theirs(true),
            _ => theirs(false),
        };
        let (mut cold, mut warm, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            write_context(&lab, &format!("{who} {round}"));
            lab.builder.prune(DurationMs(0), false).expect("prunes");
            docker_prune(&docker);
            cold.push(timed(build));
            warm.push(timed(build));
            write_context(&lab, &format!("{who} {round} changed"));
            late.push(timed(build));
        }
        rows.extend([median(cold), median(warm), median(late)]);
    }
    for (name, rows) in &table {
        println!(
            "{name:24} cold {:>8.1?} warm {:>8.1?} one late file {:>8.1?}",
            rows[0], rows[1], rows[2]
        );
    }
}

fn docker_prune(docker: &Docker) {
    // The first builder's cache are its images.
    let _ = docker.command().args(["image", "rm", "-f", "theirs"]).output();
    run(docker.command().args(["image", "prune", "-f"]));
    run(docker.command().args(["builder", "prune", "-af"]));
}
