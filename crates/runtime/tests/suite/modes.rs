//! What `docker run` can ask for: shared namespaces, devices, privileges, options of mounts, filters of one's own.

use std::fs;
use std::path::PathBuf;

use gantry_model::spec::{DeviceSpec, NamespaceMode};
use gantry_runtime::{LaunchError, Peers, ResolvedMount, ResolvedMountKind};

use crate::support::{DEADLINE, Lab, can_run, eventually};

fn own(name: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{name}"))
        .expect("namespace")
        .display()
        .to_string()
}

#[test]
fn namespaces_of_the_node_are_shared_where_asked_for() {
    if !can_run() {
        return;
    }
    let mut lab =
        Lab::script("for n in pid ipc uts cgroup net; do readlink /proc/self/ns/$n; done; ls -d /proc/[0-9]* | wc -l");
    lab.container.pid = NamespaceMode::Host;
    lab.container.ipc = NamespaceMode::Host;
    lab.container.uts = NamespaceMode::Host;
    lab.container.cgroup = NamespaceMode::Host;
    let (_, output) = lab.run();
    for name in ["pid", "ipc", "uts", "cgroup"] {
        assert!(output.contains(&own(name)), "{name} is not shared:\n{output}");
    }
    assert!(!output.contains(&own("net")));
    let processes: usize = output
        .lines()
        .last()
        .and_then(|count| count.parse().ok())
        .expect("a count");
    assert!(processes > 5, "the node's processes are seen: {output}");
    assert_ne!(
        nix::unistd::gethostname().expect("name"),
        "box",
        "the node keeps its name"
    );
}

#[test]
fn one_that_shares_the_nodes_processes_still_ends_as_a_whole() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("(trap '' TERM HUP; sleep 1000) & setsid sleep 1000 & echo ready; exit 3");
    lab.container.pid = NamespaceMode::Host;
    let (exit, _) = lab.run();
    assert_eq!(exit.code, 3);
    let procs = lab.cgroup_file("pids/cgroup.procs", "cgroup.procs");
    eventually("an empty group", || {
        fs::read_to_string(&procs).expect("group").is_empty().then_some(())
    });
}

#[test]
fn namespaces_of_another_container_are_joined() {
    if !can_run() {
        return;
    }
    let mut first = Lab::script("echo shared > /dev/shm/file; hostname first; echo ready; sleep 1000");
    first.container.cap_add = vec!["SYS_ADMIN".to_string()];
    let (launched, handle) = first.start();
    first.wait_for_output("ready");
    let mut second = Lab::script("hostname; cat /dev/shm/file; ps | grep -c 'sleep 100[0]'; echo $$");
    let named = NamespaceMode::Container("first".to_string());
    second.container.pid = named.clone();
    second.container.ipc = named.clone();
    second.container.uts = named;
    let refused = second.try_start().map(|(launched, _)| launched);
    assert!(matches!(refused, Err(LaunchError::Invalid(problem)) if problem.reason.contains("'first'")));
    second.options.peers = Peers {
        pid: Some(launched.pid),
        ipc: Some(launched.pid),
        uts: Some(launched.pid),
        cgroup: None,
    };
    let (exit, output) = second.run();
    assert_eq!(exit.code, 0, "{output}");
    assert!(
        output.starts_with("first\nshared\n1\n") && !output.ends_with("\n1\n"),
        "{output}"
    );
    handle.signal(nix::libc::SIGKILL).expect("signal");
    handle.wait_timeout(DEADLINE).expect("waits").expect("ends");
}

#[test]
fn devices_of_the_node_work_as_far_as_permitted() {
    if !can_run() {
        return;
    }
    let device = |source: &str, target: &str, permissions: &str| DeviceSpec {
        source: source.to_string(),
        target: target.to_string(),
        permissions: permissions.to_string(),
    };
    let mut lab = Lab::script(
        "exec 2>&1; (: < /dev/message) && echo read; (: > /dev/message) 2>&1; stat -c '%t %T' /dev/message; \
         ls /dev/all | grep tun; mknod /tmp/tun c 10 200; (: < /tmp/tun) 2>&1",
    );
    lab.container.devices = vec![
        device("/dev/net", "/dev/all", "rwm"),
        device("/dev/net/tun", "/dev/message", "rw"),
    ];
    assert!(!lab.run().1.contains("/dev/message: "), "all of it");
    assert!(lab.output().contains("\ntun\n"), "the folder stands for its devices");
    lab.container.devices = vec![device("/dev/net/tun", "/dev/message", "r")];
    let (_, output) = lab.run();
    assert!(output.starts_with("read\n"), "{output}");
    assert!(
        output.contains("can't create /dev/message: Operation not permitted"),
        "{output}"
    );
    assert!(output.contains("a c8\n"), "{output}");
    lab.container.devices = Vec::new();
    let denied = lab.run().1;
    assert!(denied.contains("/tmp/tun: Operation not permitted"), "{denied}");
    let mut ruled = Lab::script("mknod /tmp/tun c 10 200; (: < /tmp/tun) && echo opened");
    ruled.container.device_cgroup_rules = vec!["c 10:200 rwm".to_string()];
    assert_eq!(ruled.run().1, "opened\n");
    for (devices, rules, word) in [
        (vec![device("/dev/nope", "/dev/nope", "rwm")], vec![], "/dev/nope"),
        (vec![device("/etc/passwd", "/dev/x", "rwm")], vec![], "no device"),
        (vec![device("/dev/null", "/dev/x", "rx")], vec![], "'rx'"),
        (vec![], vec!["q 1:2 r".to_string()], "'q 1:2 r'"),
    ] {
        lab.container.devices = devices;
        lab.container.device_cgroup_rules = rules;
        let refused = lab.try_start().map(|(launched, _)| launched);
        assert!(
            matches!(refused, Err(LaunchError::Invalid(problem)) if problem.reason.contains(word)),
            "{word}"
        );
    }
}

#[test]
fn memory_takes_dockers_options() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "grep /scratch /proc/mounts; cp /bin/busybox /scratch/echo; /scratch/echo executed; stat -c '%a %u' /scratch",
    );
    let options = ["rw", "exec", "size=4m", "mode=1770", "uid=5"]
        .map(str::to_string)
        .to_vec();
    lab.mounts = vec![ResolvedMount {
        target: PathBuf::from("/scratch"),
        read_only: false,
        kind: ResolvedMountKind::TmpfsWith { options },
    }];
    let (_, output) = lab.run();
    assert!(
        output.contains("tmpfs /scratch tmpfs rw,nosuid,nodev,relatime,size=4096k,mode=1770,uid=5"),
        "{output}"
    );
    assert!(output.contains("executed\n1770 5\n"), "{output}");
}

#[test]
fn a_filter_of_ones_own_decides() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "exec 2>&1; mkdir /tmp/x; echo made $?; chmod 700 /tmp; echo changed $?; grep Seccomp: /proc/self/status",
    );
    lab.container.seccomp_profile = Some(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
            {"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":448,"op":"SCMP_CMP_EQ"}]}]}"#
            .to_string(),
    );
    let (_, output) = lab.run();
    let expected = "mkdir: can't create directory '/tmp/x': No space left on device\nmade 1\n\
                    chmod: /tmp: Operation not permitted\nchanged 1\nSeccomp:\t2\n";
    assert_eq!(output, expected);
    lab.container.seccomp_profile = Some("{}".to_string());
    let refused = lab.try_start().map(|(launched, _)| launched);
    assert!(matches!(refused, Err(LaunchError::Invalid(problem)) if problem.reason.contains("seccomp")));
}

#[test]
fn names_paths_and_profiles() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "exec 2>&1; cat /proc/sys/kernel/domainname; [ $(wc -c < /proc/interrupts) -gt 0 ] && echo open; ls -d /dev/shm",
    );
    lab.container.domainname = Some("example.org".to_string());
    lab.container.system_paths_unconfined = true;
    lab.container.ipc = NamespaceMode::None;
    let (_, output) = lab.run();
    assert!(
        output.starts_with("example.org\nopen\n") && output.contains("No such file"),
        "{output}"
    );
    if !fs::exists("/sys/module/apparmor").expect("sys") {
        lab.container.apparmor_profile = Some("docker-default".to_string());
        let refused = lab.try_start().map(|(launched, _)| launched);
        assert!(matches!(refused, Err(LaunchError::Invalid(problem)) if problem.reason.contains("no AppArmor")));
        lab.container.apparmor_profile = Some("unconfined".to_string());
        assert_eq!(lab.run().0.code, 1);
    }
}
