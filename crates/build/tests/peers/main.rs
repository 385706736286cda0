//! Dockerfiles as people write them, built here and by Docker Engine: the files and the configuration must be the same.
//!
//! Takes minutes, and needs the node's package mirror: `cargo test -p gantry-build --test peers -- --ignored`.

mod docker;
mod figures;
mod files;

#[path = "../suite/support.rs"]
#[expect(dead_code, reason = "shared with the suite, which uses more of it")]
mod support;

use std::fs;

use docker::{Docker, debian};
use files::{Files, differences};
use serde_json::Value;
use support::Lab;

/// Text of a Dockerfile and the files of its context.
struct Case {
    name: &'static str,
    dockerfile: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// Contents that differ from run to run, by whatever builds them: logs with times, caches, keys.
    volatile: &'static [&'static str],
}

/// What package tools write times or the machine's order of things into.
const VOLATILE: &[&str] = &[
    "/var/log/",
    "/var/cache/",
    "/var/lib/apt/",
    "/var/lib/dpkg/triggers/",
    "/etc/ld.so.cache",
    "/etc/ssl/certs/java",
    "/usr/lib/python3/dist-packages/__pycache__",
    ".pyc",
];

const CASES: &[Case] = &[
    Case {
        name: "instructions",
        dockerfile: "FROM debian-peer\n\
            ARG VERSION=1.0\n\
            ENV APP_HOME=/srv/app VERSION=$VERSION\n\
            LABEL org.example.version=\"$VERSION\" org.example.text=\"two words\"\n\
            RUN groupadd -r app && useradd -r -g app -d $APP_HOME app\n\
            WORKDIR $APP_HOME\n\
            COPY --chown=app:app . .\n\
            COPY config/*.conf /etc/app/\n\
            ADD files.tar /unpacked/\n\
            RUN chmod +x bin/run && ln -s bin/run start && mkdir -p data/a/b && touch data/a/b/c && rm -rf config\n\
            RUN rm /etc/issue && mkdir /etc/new && mv /etc/issue.net /etc/new/\n\
            VOLUME /srv/app/data\n\
            EXPOSE 8080 53/udp\n\
            USER app\n\
            STOPSIGNAL SIGINT\n\
            HEALTHCHECK --interval=10s --timeout=2s --retries=5 CMD bin/run --check\n\
            ENTRYPOINT [\"bin/run\"]\n\
            CMD [\"--serve\", \"8080\"]\n",
        files: &[
            ("bin/run", "#!/bin/sh\necho run\n"),
            ("config/a.conf", "a"),
            ("config/b.conf", "b"),
            ("README", "read"),
        ],
        volatile: &[],
    },
    Case {
        name: "apt",
        dockerfile: "FROM debian-peer\n\
            RUN apt-get update && apt-get install -y --no-install-recommends curl jq && rm -rf /var/lib/apt/lists/*\n\
            SHELL [\"/bin/bash\", \"-eo\", \"pipefail\", \"-c\"]\n\
            RUN echo '{\"a\":1}' | jq .a > /answer\n\
            CMD curl --version\n",
        files: &[],
        volatile: &[],
    },
    Case {
        name: "python",
        dockerfile: "FROM debian-peer\n\
            ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1\n\
            RUN apt-get update \\\n    && apt-get install -y --no-install-recommends python3 python3-flask \\\n    && rm -rf /var/lib/apt/lists/*\n\
            WORKDIR /app\n\
            COPY requirements.txt ./\n\
            COPY app ./app\n\
            RUN python3 -c 'import flask' && python3 -m compileall -q app || true\n\
            EXPOSE 5000\n\
            CMD [\"python3\", \"-m\", \"app\"]\n",
        files: &[
            ("requirements.txt", "flask\n"),
            ("app/__main__.py", "import flask\napp = flask.Flask(__name__)\n"),
        ],
        volatile: &[],
    },
    Case {
        name: "node, in stages",
        dockerfile: "FROM debian-peer AS base\n\
            RUN apt-get update && apt-get install -y --no-install-recommends nodejs && rm -rf /var/lib/apt/lists/*\n\
            FROM base AS build\n\
            WORKDIR /src\n\
            COPY package.json index.js ./\n\
            RUN mkdir dist && node -e \"require('fs').writeFileSync('dist/bundle.js', require('fs').readFileSync('index.js'))\"\n\
            FROM base\n\
            ENV NODE_ENV=production\n\
            COPY --from=build /src/dist /app\n\
            COPY --from=build --chown=1000:1000 /src/package.json /app/\n\
            WORKDIR /app\n\
            USER 1000\n\
            ENTRYPOINT [\"node\"]\n\
            CMD [\"bundle.js\"]\n",
        files: &[("package.json", "{\"name\":\"x\"}\n"), ("index.js", "console.log(1)\n")],
        volatile: &[],
    },
    Case {
        name: "triggers and scratch",
        dockerfile: "FROM debian-peer AS tools\n\
            RUN mkdir -p /out/bin /out/etc && cp -a /bin/true /out/bin/ && ln /out/bin/true /out/bin/same && ln -s ../bin/true /out/etc/link && chmod 2750 /out/etc\n\
            FROM scratch\n\
            COPY --from=tools /out/ /\n\
            COPY file /etc/deep/er/\n\
            ENV EMPTY=\n\
            ONBUILD COPY . /app\n\
            ONBUILD RUN [\"/bin/true\"]\n\
            CMD [\"/bin/true\"]\n",
        files: &[("file", "x")],
        volatile: &[],
    },
];

fn context(lab: &Lab, case: &Case) {
    fs::remove_dir_all(lab.context()).expect("removes");
    fs::create_dir_all(lab.context()).expect("makes");
    for (path, content) in case.files {
        lab.write(path, content);
    }
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(1_000_000_000);
    header.set_size(1);
    tar.append_data(&mut header, "from/archive", &b"a"[..]).expect("tar");
    fs::write(lab.context().join("files.tar"), tar.into_inner().expect("tar")).expect("writes");
    fs::write(lab.context().join("Dockerfile"), case.dockerfile).expect("writes");
}

/// What both engines must agree about, as Docker writes it.
fn config(document: &Value) -> Value {
    let config = &document["config"];
    let keys = [
        "Env",
        "Cmd",
        "Entrypoint",
        "User",
        "WorkingDir",
        "ExposedPorts",
        "Volumes",
        "Labels",
        "Healthcheck",
        "StopSignal",
        "OnBuild",
        "Shell",
    ];
    let value = |key: &str| match &config[key] {
        Value::Array(list) if list.is_empty() => Value::Null,
        Value::Object(map) if map.is_empty() => Value::Null,
        Value::String(text) if text.is_empty() => Value::Null,
        value => value.clone(),
    };
    keys.iter()
        .map(|key| ((*key).to_string(), value(key)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
#[ignore = "minutes; needs Docker Engine, debootstrap and the package mirror"]
fn files_and_configuration_are_those_of_docker() {
    if !support::can_run() {
        return;
    }
    let Some(debian) = debian() else { return };
    let Some(docker) = Docker::start() else { return };
    let mut lab = Lab::new();
    lab.request.spec.network = Some("host".to_string());
    docker.import(&debian, "debian-peer");
    let root = fs::File::open(&debian).expect("the root opens");
    let reference = "debian-peer".parse().expect("reference");
    lab.store
        .import_rootfs(root, &reference, &gantry_image::ImportOptions::default())
        .expect("imports");
    let mut wrong = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        context(&lab, case);
        lab.request.tags = vec![format!("ours-{number}")];
        let ours = lab.build(case.dockerfile);
        let ours_document = serde_json::to_value(&ours.document).expect("JSON");
        let ours = Files::of(&lab, &format!("ours-{number}"));
        for buildkit in [true, false] {
            let engine = if buildkit { "BuildKit" } else { "Docker's first builder" };
            let name = format!("theirs-{number}-{buildkit}");
            docker.build(&lab.context(), &name, buildkit);
            let archive = docker.save(&name);
            let loaded = lab
                .store
                .load(fs::File::open(&archive).expect("the archive opens"))
                .expect("loads");
            let theirs = Files::of(&lab, &loaded[0].references[0].familiar());
            let volatile: Vec<&str> = VOLATILE.iter().chain(case.volatile).copied().collect();
            let found = differences(&ours, &theirs, &volatile, buildkit);
            wrong.extend(
                found
                    .into_iter()
                    .map(|one| format!("{} beside {engine}: {one}", case.name)),
            );
            let theirs_config = config(&docker.document(&lab, loaded[0].config_digest));
            let ours_config = config(&ours_document);
            for (key, value) in ours_config.as_object().expect("an object") {
                if *value != theirs_config[key] && !is_known(key, value, buildkit) {
                    wrong.push(format!(
                        "{} beside {engine}: {key}: {value} here, {} there",
                        case.name, theirs_config[key]
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// What Docker's first builder did otherwise than BuildKit, which is followed here.
fn is_known(key: &str, value: &Value, buildkit: bool) -> bool {
    match key {
        // It only ever appended PATH when a command ran.
        "Env" => {
            !buildkit
                && value.as_array().is_some_and(|list| {
                    list.iter()
                        .any(|one| one.as_str().is_some_and(|one| one.starts_with("PATH=")))
                })
        }
        // It leaves the folder of an empty base out.
        "WorkingDir" => !buildkit && *value == "/",
        _ => false,
    }
}
