//! `config.json`, property by property: what a process inside finds, or what the refusal says. After the list of the
//! specification's own validation suite.

use std::fs;

use serde_json::{Value, json};

use crate::support::Lab;

#[track_caller]
fn output(lab: &Lab, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let (code, output) = lab.run(script, change);
    assert_eq!(code, 0, "{output}");
    output
}

#[track_caller]
fn refusal(lab: &Lab, change: impl FnOnce(&mut Value)) -> String {
    let bundle = lab.bundle("refused", "true", change);
    let said = lab.fail([
        "create".as_ref(),
        "--bundle".as_ref(),
        bundle.as_os_str(),
        "refused".as_ref(),
    ]);
    assert!(!lab.succeed(["list", "-q"]).contains("refused"));
    fs::remove_dir_all(bundle).expect("removes");
    said
}

fn namespaces(config: &mut Value) -> &mut Vec<Value> {
    config["linux"]["namespaces"].as_array_mut().expect("a list")
}

#[test]
fn the_process_is_as_described() {
    let Some(lab) = Lab::new() else { return };
    let script = "id -u; id -g; id -G; umask; pwd; echo $COLOUR; cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; \
                  grep -e NoNewPrivs -e CapEff -e CapBnd -e CapAmb /proc/self/status";
    let said = output(&lab, script, |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [50, 60], "umask": 0o077});
        config["process"]["cwd"] = json!("/made/here");
        config["process"]["env"] = json!(["PATH=/bin", "COLOUR=blue"]);
        config["process"]["oomScoreAdj"] = json!(321);
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]);
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"],
            "effective": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        });
    });
    let expected = "1000\n1001\n1001 50 60\n0077\n/made/here\nblue\n321\n64\n128\n";
    assert!(said.starts_with(expected), "{said}");
    let line = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_string()
    };
    assert_eq!(line("CapEff:"), "0000000000000020");
    assert_eq!(line("CapAmb:"), "0000000000000020");
    assert_eq!(line("CapBnd:"), "0000000000002021");
    assert_eq!(line("NoNewPrivs:"), "1");
}

#[test]
fn a_process_without_capabilities_has_none() {
    let Some(lab) = Lab::new() else { return };
    let said = output(&lab, "grep Cap /proc/self/status", |config| {
        config["process"]["capabilities"] = Value::Null;
    });
    assert_eq!(said.matches("0000000000000000").count(), 5, "{said}");
    let (code, said) = lab.run("true", |config| {
        config["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN", "CAP_OF_LATER"]);
    });
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("warning") && said.contains("CAP_OF_LATER"), "{said}");
}

#[test]
fn scheduling_is_as_described() {
    let Some(lab) = Lab::new() else { return };
    let said = output(&lab, "awk '{print $19, $41}' /proc/self/stat; ionice -p $$", |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    });
    assert!(said.contains("7 3"), "{said}");
    assert!(said.contains("best-effort: prio 6"), "{said}");
    assert!(
        refusal(&lab, |config| config["process"]["scheduler"] =
            json!({"policy": "SCHED_X"}))
        .contains("SCHED_X")
    );
}

#[test]
fn names_of_host_and_domain_are_its_own() {
    let Some(lab) = Lab::new() else { return };
    let said = output(&lab, "hostname; cat /proc/sys/kernel/domainname", |config| {
        config["hostname"] = json!("box");
        config["domainname"] = json!("example.org");
    });
    assert_eq!(said, "box\nexample.org\n");
}

#[test]
fn mounts_are_made_in_order_with_their_options() {
    let Some(lab) = Lab::new() else { return };
    fs::create_dir_all(lab.path("shared/below")).expect("folder");
    fs::write(lab.path("shared/file"), "from the node\n").expect("file");
    let (shared, file) = (lab.path("shared"), lab.path("shared/file"));
    let script = "cat /mnt/file /one; echo x > /mnt/file || echo ro; mount | grep -e ' /mnt' -e ' /mem' -e ' /one'; ls /mem; \
                  cat /copied/kept";
    let said = output(&lab, script, |config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.push(json!({"destination": "/mnt", "source": shared, "options": ["rbind", "ro", "nosuid", "nodev"]}));
        mounts.push(json!({"destination": "/one", "type": "bind", "source": file, "options": ["bind"]}));
        mounts.push(json!({"destination": "mem", "type": "tmpfs", "source": "mine", "options": ["size=64k", "noexec", "mode=700"]}));
        mounts.push(json!({"destination": "/mem/deep", "type": "tmpfs", "source": "tmpfs"}));
        mounts.push(json!({"destination": "/copied", "type": "tmpfs", "options": ["tmpcopyup"]}));
        fs::create_dir_all(lab.path("run/rootfs/copied")).expect("folder");
        fs::write(lab.path("run/rootfs/copied/kept"), "of the image\n").expect("file");
    });
    assert!(
        said.contains("from the node\nfrom the node\n") && said.contains("\nro\n"),
        "{said}"
    );
    let line = |target: &str| {
        said.lines()
            .find(|line| line.contains(&format!(" on {target} ")))
            .unwrap_or_default()
            .to_string()
    };
    assert!(line("/mnt").contains("ro,nosuid,nodev"), "{said}");
    assert!(
        line("/mem").starts_with("mine on") && line("/mem").contains("noexec") && line("/mem").contains("size=64k"),
        "{said}"
    );
    assert!(said.contains("deep\n") && said.contains("of the image"), "{said}");
}

#[test]
fn a_mount_that_makes_no_sense_is_located() {
    let Some(lab) = Lab::new() else { return };
    let with = |mount: Value| {
        refusal(&lab, |config| {
            config["mounts"].as_array_mut().expect("a list").push(mount)
        })
    };
    assert!(with(json!({"destination": "/x", "type": "bind"})).contains("mounts[7]"));
    assert!(with(json!({"destination": "/x"})).contains("neither a type nor bind"));
    let said = with(json!({"destination": "/x", "source": "/no/such/folder", "options": ["bind"]}));
    assert!(said.contains("/no/such/folder"), "{said}");
    let said = with(json!({"destination": "/x", "type": "nosuchfs"}));
    assert!(said.contains("nosuchfs") || said.contains("/x"), "{said}");
}

#[test]
fn the_root_can_be_read_only_and_paths_hidden() {
    let Some(lab) = Lab::new() else { return };
    let script = "echo x > /file || echo ro; cat /etc/secret; ls /data; echo x > /tmp/kept/file || echo kept; \
                  echo 1 > /proc/sys/kernel/panic || echo sys";
    let said = output(&lab, script, |config| {
        config["root"]["readonly"] = json!(true);
        let linux = config["linux"].as_object_mut().expect("an object");
        let paths = |key: &str, path: &str| {
            let mut list = linux[key].as_array().expect("a list").clone();
            list.push(json!(path));
            list.into_iter()
                .map(|path| path.as_str().unwrap_or_default().to_string())
                .collect::<Vec<_>>()
        };
        let mut masked = paths("maskedPaths", "/etc/secret");
        masked.push("/data".to_string());
        let read_only = paths("readonlyPaths", "/tmp/kept");
        linux["maskedPaths"] = json!(masked);
        linux["readonlyPaths"] = json!(read_only);
        let root = lab.path("run/rootfs");
        fs::create_dir_all(root.join("tmp/kept")).expect("folder");
        fs::write(root.join("etc/secret"), "secret\n").expect("file");
        fs::write(root.join("data/hidden"), "").expect("file");
    });
    assert!(!said.contains("secret\n") && !said.contains("hidden"), "{said}");
    for word in ["ro\n", "kept\n", "sys\n"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn namespaces_are_new_shared_or_joined() {
    let Some(lab) = Lab::new() else { return };
    let kinds = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
    let script = "for kind in pid net ipc uts mnt cgroup time; do readlink /proc/self/ns/$kind; done";
    let own = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}"))
            .expect("a link")
            .display()
            .to_string()
    };
    let said = output(&lab, script, |_| {});
    for kind in kinds {
        assert!(!said.contains(&own(kind)), "{kind} is its own");
    }
    assert!(said.contains(&own("time")), "what is not named is the node's");

    let said = output(&lab, script, |config| {
        namespaces(config).retain(|namespace| namespace["type"] == "mount")
    });
    for kind in kinds.into_iter().filter(|kind| *kind != "mnt") {
        assert!(said.contains(&own(kind)), "{kind} is the node's: {said}");
    }

    let first = lab.create("first", "sleep 1000", |_| {});
    lab.succeed(["start", "first"]);
    let joined = [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")];
    let said = output(&lab, script, |config| {
        for namespace in namespaces(config) {
            if let Some((_, file)) = joined.iter().find(|(kind, _)| namespace["type"] == *kind) {
                namespace["path"] = json!(format!("/proc/{}/ns/{file}", first.pid));
            }
        }
    });
    for (_, file) in joined {
        let its = fs::read_link(format!("/proc/{}/ns/{file}", first.pid)).expect("a link");
        assert!(said.contains(&its.display().to_string()), "{file} is joined: {said}");
    }
    let wrong = refusal(&lab, |config| {
        let uts = format!("/proc/{}/ns/uts", first.pid);
        for namespace in namespaces(config)
            .iter_mut()
            .filter(|namespace| namespace["type"] == "network")
        {
            namespace["path"] = json!(uts);
        }
    });
    assert!(wrong.contains("/ns/uts"), "{wrong}");
    assert!(refusal(&lab, |config| namespaces(config).push(json!({"type": "pid"}))).contains("twice"));
    assert!(
        refusal(&lab, |config| namespaces(config)
            .retain(|namespace| namespace["type"] != "mount"))
        .contains("mount")
    );
}

#[test]
fn clocks_can_differ() {
    let Some(lab) = Lab::new() else { return };
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        eprintln!("SKIPPED: this kernel has no time namespaces");
        return;
    }
    let said = output(&lab, "cat /proc/self/timens_offsets /proc/uptime", |config| {
        namespaces(config).push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5}});
    });
    let uptime = said
        .lines()
        .next_back()
        .and_then(|line| line.split('.').next()?.parse::<u64>().ok());
    assert!(uptime.is_some_and(|seconds| seconds > 1_000_000), "{said}");
    let said = refusal(&lab, |config| {
        config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 5}})
    });
    assert!(said.contains("time namespace"), "{said}");
}

#[test]
fn a_mount_maps_ids_of_its_own() {
    let Some(lab) = Lab::new() else { return };
    let shared = lab.path("mapped");
    fs::create_dir(&shared).expect("folder");
    fs::write(shared.join("file"), "").expect("file");
    let mapping = json!([{"containerID": 0, "hostID": 4000, "size": 1000}]);
    let told = output(&lab, "stat -c '%u %g' /mnt/file", |config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.push(
            json!({"destination": "/mnt", "source": shared, "type": "bind", "options": ["bind"],
            "uidMappings": mapping, "gidMappings": mapping}),
        );
    });
    assert_eq!(told, "4000 4000\n");
}

#[test]
fn a_user_namespace_maps_ids() {
    let Some(lab) = Lab::new() else { return };
    let script = "id -u; cat /proc/self/uid_map; echo x > /data/mine; ls -ln /data/mine; cat /etc/of-root 2>/dev/null || echo shut; \
                  ls -ln /dev/null; hostname";
    let said = output(&lab, script, |config| {
        namespaces(config).push(json!({"type": "user"}));
        let mapping = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
        let root = lab.path("run/rootfs");
        for path in ["", "data", "bin", "etc", "tmp", "proc", "sys", "dev"] {
            std::os::unix::fs::chown(root.join(path), Some(200_000), Some(200_000)).expect("owner");
        }
        fs::write(root.join("etc/of-root"), "the node's root\n").expect("file");
        let shut = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        fs::set_permissions(root.join("etc/of-root"), shut).expect("mode");
        // Whoever gets here has mapped ids, and must be let in.
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(lab.folder.path(), open).expect("mode");
    });
    let fields: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(&fields[..4], ["0", "0", "200000", "65536"], "{said}");
    assert!(said.contains("shut\n") && said.contains("gantry\n"), "{said}");
    let without = refusal(&lab, |config| namespaces(config).push(json!({"type": "user"})));
    assert!(without.contains("uidMappings"), "{without}");
    let mapping = json!([{"containerID": 0, "hostID": 200_000, "size": 1}]);
    assert!(refusal(&lab, |config| config["linux"]["uidMappings"] = mapping).contains("user namespace"));
}

#[test]
fn kernel_parameters_are_set_in_its_namespaces() {
    let Some(lab) = Lab::new() else { return };
    let said = output(
        &lab,
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
        |config| {
            config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4242"});
        },
    );
    assert_eq!(said, "1\n4242\n");
}

#[test]
fn calls_are_filtered() {
    let Some(lab) = Lab::new() else { return };
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": null,
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]},
        ],
    });
    let said = output(&lab, "mkdir /tmp/x; kill -10 $$; kill -0 $$ && echo alive", |config| {
        config["linux"]["seccomp"] = profile;
    });
    assert!(
        said.contains("No space left") && said.contains("Operation not permitted") && said.contains("alive"),
        "{said}"
    );
    let said = refusal(&lab, |config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_FLY"})
    });
    assert!(
        said.contains("linux.seccomp") && said.contains("SCMP_ACT_FLY"),
        "{said}"
    );
}

#[test]
fn the_root_shares_mounts_as_described() {
    let Some(lab) = Lab::new() else { return };
    let optional = |said: &str| {
        let line = said
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/"))
            .unwrap_or_default()
            .to_string();
        line.split(" - ").next().unwrap_or_default().to_string()
    };
    for (propagation, expected) in [("rprivate", ""), ("rshared", "shared:"), ("unbindable", "unbindable")] {
        let said = output(&lab, "cat /proc/self/mountinfo", |config| {
            config["linux"]["rootfsPropagation"] = json!(propagation);
        });
        let fields = optional(&said);
        let is_there = if expected.is_empty() {
            !fields.contains("shared:")
        } else {
            fields.contains(expected)
        };
        assert!(is_there, "{propagation}: {fields}");
    }
    assert!(refusal(&lab, |config| config["linux"]["rootfsPropagation"] = json!("wide")).contains("'wide'"));
}

#[test]
fn control_groups_are_seen_as_described() {
    let Some(lab) = Lab::new() else { return };
    let script = "find /sys/fs/cgroup -name cgroup.procs | head -n 1 | xargs cat | head -c 20; cat /proc/self/cgroup; \
                  mkdir /sys/fs/cgroup/x 2>/dev/null || echo ro";
    let said = output(&lab, script, |_| {});
    assert!(
        said.contains("1\n") && said.contains(":/\n"),
        "its group is its root: {said}"
    );
    assert!(said.ends_with("ro\n"), "nor can it make groups: {said}");
    let said = output(&lab, script, |config| {
        namespaces(config).retain(|namespace| namespace["type"] != "cgroup")
    });
    assert!(said.contains(&lab.parent), "{said}");
}

#[test]
fn documents_that_make_no_sense_are_located() {
    let Some(lab) = Lab::new() else { return };
    type Change = fn(&mut Value);
    let cases: &[(Change, &str)] = &[
        (|config| config["ociVersion"] = json!("2.0.0"), "ociVersion"),
        (|config| config["process"]["args"] = json!([]), "process.args"),
        (|config| config["process"]["cwd"] = json!("relative"), "process.cwd"),
        (
            |config| config["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            "RLIMIT_X",
        ),
        (|config| config["root"]["path"] = json!("missing"), "root.path"),
        (|config| config["process"] = Value::Null, "process"),
        (
            |config| config["linux"]["intelRdt"] = json!({"closID": "x"}),
            "linux.intelRdt",
        ),
        (|config| config["linux"]["mountLabel"] = json!("label"), "SELinux"),
        (
            |config| config["linux"]["devices"] = json!([{"path": "/dev/x", "type": "z"}]),
            "linux.devices[0]",
        ),
        (
            |config| config["linux"]["personality"] = json!({"domain": "BSD"}),
            "linux.personality.domain",
        ),
        (|config| config["process"]["user"]["uid"] = json!("root"), "line "),
    ];
    for (change, expected) in cases {
        let said = refusal(&lab, change);
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let said = output(&lab, "uname -m", |config| {
        config["x-unknown"] = json!({"later": true});
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    assert!(!said.contains("x86_64"), "{said}");
}

#[test]
fn a_changed_document_changes_nothing_any_more() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.create("kept", "echo as created", |_| {});
    fs::write(lab.path("kept/config.json"), "{}").expect("overwrites");
    lab.succeed(["start", "kept"]);
    container.wait_for_output("as created");
    container.wait_for_status("stopped");
    lab.succeed(["delete", "kept"]);
}
