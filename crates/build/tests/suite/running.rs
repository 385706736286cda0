//! `RUN` in containers, and the configuration that comes of everything.

use gantry_model::build::BuildOutputKind;

use crate::support::{Lab, can_run};

#[test]
fn what_the_node_adds_is_not_in_the_layer() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.secrets.insert("key".to_string(), b"hidden".to_vec());
    let built = lab.build(
        "FROM busybox\nRUN --mount=type=secret,id=key --mount=type=tmpfs,target=/scratch --mount=type=cache,target=/usr/cache \
         cat /etc/resolv.conf /etc/hosts > /dev/null && cat /run/secrets/key && echo x > /scratch/x && echo y > /usr/cache/y && echo z > /made\n",
    );
    assert_eq!(built.top_layer(), ["made"]);
    assert!(built.seen.log().contains("hidden"));
    let built = lab.build("FROM busybox\nRUN echo kept > /etc/made\n");
    assert_eq!(built.top_layer(), ["etc", "etc/made"]);
}

#[test]
fn commands_have_their_variables_user_folder_and_shell() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.request
        .spec
        .args
        .insert("HTTP_PROXY".to_string(), Some("http://proxy".to_string()));
    let built = lab.build(
        "FROM busybox\nENV A=1 B=$A\nARG C=3\nUSER app:logs\nWORKDIR /tmp\nUSER root\nRUN busybox chown app /tmp\nUSER app:logs\n\
         RUN id > out; env >> out; busybox pwd >> out\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $0 $- > /tmp/shell\nRUN [\"/bin/busybox\", \"touch\", \"/tmp/exec\"]\n",
    );
    let out = built.read("tmp/out");
    for line in [
        "uid=1000(app) gid=50(logs)",
        "A=1",
        "B=",
        "C=3",
        "HTTP_PROXY=http://proxy",
        "/tmp",
        "HOME=/home/app",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(built.read("tmp/shell").contains('e'));
    assert_eq!(built.owner("tmp/exec"), "644 1000 50");
    let config = &built.document.config;
    assert_eq!((config.user.as_str(), config.shell.len()), ("app:logs", 2));
    assert!(
        !built
            .document
            .history
            .iter()
            .any(|step| step.created_by.contains("http://proxy"))
    );
}

#[test]
fn mounts_show_trees_and_keep_nothing_of_what_is_written() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    lab.write("src/main", "text");
    let built = lab.build(
        "FROM busybox AS tools\nRUN mkdir /tools && echo tool > /tools/t\nFROM busybox\n\
         RUN --mount=type=bind,source=src,target=/src --mount=type=bind,from=tools,source=/tools,target=/opt,rw \
         cat /src/main /opt/t > /out && (echo no > /src/main || echo refused >> /out) && echo changed > /opt/t\n\
         RUN --mount=type=bind,from=tools,source=/tools,target=/opt cat /opt/t >> /out\n",
    );
    assert_eq!(built.read("out"), "texttool\nrefused\ntool\n");
    assert_eq!(built.top_layer(), ["out"]);
    // Another content of the mount is another command.
    lab.write("src/main", "other");
    let dockerfile = "FROM busybox\nRUN --mount=type=bind,source=src,target=/src cat /src/main > /out\n";
    assert_eq!(lab.build(dockerfile).read("out"), "other");
    assert_eq!(lab.build(dockerfile).seen.worked().len(), 0);
    lab.write("src/main", "third");
    assert_eq!(lab.build(dockerfile).read("out"), "third");
}

#[test]
fn cache_folders_stay_between_builds() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.request.spec.no_cache = true;
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked,uid=1000,mode=0700 echo x >> /c/log; cat /c/log > /seen; stat -c '%a %u' /c >> /seen\n";
    assert_eq!(lab.build(dockerfile).read("seen"), "x\n700 1000\n");
    assert_eq!(lab.build(dockerfile).read("seen"), "x\nx\n700 1000\n");
    assert_eq!(lab.builder.usage().expect("usage").folders, 4);
}

#[test]
fn secrets_are_given_and_required() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.secrets.insert("token".to_string(), b"s3cret".to_vec());
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token,env=TOKEN --mount=type=secret,id=token,target=/k,mode=0444,uid=7 echo ${#TOKEN} > /n; stat -c '%a %u' /k >> /n\n";
    let built = lab.build(dockerfile);
    assert_eq!(built.read("n"), "6\n444 7\n");
    // Its value is no part of the key.
    lab.secrets.insert("token".to_string(), b"other value".to_vec());
    assert_eq!(lab.build(dockerfile).seen.worked().len(), 0);
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=none cat /run/secrets/none || echo without > /w\n";
    assert_eq!(lab.build(dockerfile).read("w"), "without\n");
    let (failed, _) = lab.try_build("FROM busybox\nRUN --mount=type=secret,id=none,required true\n");
    assert!(failed.expect_err("it is required").remedy.contains("--secret"));
}

#[test]
fn an_ssh_agent_is_reached_through_its_socket() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.ssh = Some("default".to_string());
    let listing =
        "FROM busybox\nRUN --mount=type=ssh ls -l $SSH_AUTH_SOCK && test -S $SSH_AUTH_SOCK && echo ok > /ok\n";
    let built = lab.build(listing);
    assert_eq!(built.top_layer(), ["ok"]);
    lab.ssh = None;
    let (failed, _) = lab.try_build("FROM busybox\nRUN --mount=type=ssh,required true\n");
    assert!(failed.expect_err("none is forwarded").remedy.contains("--ssh"));
}

#[test]
fn configuration_and_history_are_as_buildkit_writes_them() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.request
        .spec
        .labels
        .insert("from".to_string(), "command line".to_string());
    lab.write("file", "x");
    let base = lab.build(
        "FROM busybox\nENV A=1\nEXPOSE 80 53/udp\nVOLUME /data\nLABEL a=b\nSTOPSIGNAL SIGUSR1\nHEALTHCHECK --interval=5s CMD true\n\
         ENTRYPOINT [\"/bin/sh\"]\nCMD [\"-c\", \"true\"]\nONBUILD COPY file /triggered\nONBUILD RUN echo yes > /yes\n",
    );
    let config = &base.document.config;
    assert_eq!(
        config.env,
        [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "A=1"
        ]
    );
    assert!(config.exposed_ports.contains_key("80/tcp") && config.exposed_ports.contains_key("53/udp"));
    assert!(config.volumes.contains_key("/data") && config.labels["from"] == "command line");
    assert_eq!(config.stop_signal, "SIGUSR1");
    assert_eq!(
        config.healthcheck.as_ref().map(|health| health.interval),
        Some(5_000_000_000)
    );
    assert_eq!(config.on_build.len(), 2);
    let steps = &base.document.history;
    assert_eq!(
        steps.iter().filter(|step| !step.empty_layer).count(),
        base.document.rootfs.diff_ids.len()
    );
    assert!(steps.iter().all(|step| step.created.is_some()));
    lab.request.tags = vec!["child".to_string()];
    let child = lab.build("FROM test\nRUN echo more > /more\n");
    assert_eq!(
        (child.read("triggered"), child.read("yes")),
        ("x".to_string(), "yes\n".to_string())
    );
    assert!(child.document.config.on_build.is_empty());
    assert!(child.document.config.healthcheck.is_some() && child.document.config.entrypoint.is_some());
}

#[test]
fn results_can_be_sent_back() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.request.output = BuildOutputKind::Tar;
    let (built, seen) = lab.try_build("FROM scratch\nCOPY <<EOF /a/b\nhello\nEOF\n");
    built.expect("builds");
    let mut archive = tar::Archive::new(&seen.output[..]);
    let names: Vec<_> = archive
        .entries()
        .expect("tar")
        .map(|entry| entry.expect("entry").path().expect("path").display().to_string())
        .collect();
    assert_eq!(names, ["a/", "a/b"]);
    for output in [BuildOutputKind::Oci, BuildOutputKind::Docker] {
        lab.request.output = output;
        let (built, seen) = lab.try_build("FROM busybox\nRUN echo x > /x\n");
        let result = built.expect("builds");
        let other = gantry_image::Store::open(lab.folder.path().join(format!("other-{output:?}"))).expect("store");
        let loaded = other.load(&seen.output[..]).expect("loads");
        assert_eq!(loaded[0].digest.to_string(), result.digest);
        assert_eq!(loaded[0].references[0].familiar(), "test:latest");
        assert!(lab.store.resolve(&"test".parse().expect("reference")).is_none());
    }
}

#[test]
fn large_files_go_into_layers_with_and_without_holes() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.request.output = BuildOutputKind::Docker;
    let (built, seen) = lab.try_build(
        "FROM busybox\nRUN dd if=/dev/urandom of=/full bs=1M count=6 && dd if=/dev/urandom of=/holes bs=1M count=1 seek=20 && dd if=/dev/zero of=/empty bs=1M count=5\n",
    );
    built.expect("builds");
    let other = gantry_image::Store::open(lab.folder.path().join("other")).expect("store");
    let loaded = other.load(&seen.output[..]).expect("loads");
    let folders = other.unpack(loaded[0].digest).expect("unpacks");
    for (name, size) in [("full", 6 << 20), ("holes", 21 << 20), ("empty", 5 << 20)] {
        assert_eq!(
            std::fs::metadata(folders[0].join(name)).expect("is there").len(),
            size,
            "{name}"
        );
    }
}
