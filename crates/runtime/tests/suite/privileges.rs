//! Who a container's processes are, and what they may do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gantry_model::spec::{Propagation, Ulimit, User};
use gantry_runtime::{LaunchError, Network, ResolvedMount, ResolvedMountKind};

use crate::support::{Lab, can_run};

#[test]
fn capabilities_are_dockers() {
    if !can_run() {
        return;
    }
    let status = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let (_, output) = Lab::script(status).run();
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ] {
        assert!(output.contains(line), "{line} is not in\n{output}");
    }
    let mut lab = Lab::script(status);
    lab.container.cap_drop = vec!["ALL".to_string()];
    lab.container.cap_add = vec!["NET_BIND_SERVICE".to_string()];
    lab.container.no_new_privileges = true;
    lab.container.seccomp_unconfined = true;
    let (_, output) = lab.run();
    for line in [
        "CapEff:\t0000000000000400",
        "CapBnd:\t0000000000000400",
        "NoNewPrivs:\t1",
        "Seccomp:\t0",
    ] {
        assert!(output.contains(line), "{line} is not in\n{output}");
    }
    let mut lab = Lab::script(status);
    lab.container.no_new_privileges = true;
    lab.container.user = Some(User {
        user: "app".into(),
        group: None,
    });
    let (_, output) = lab.run();
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(output.contains(line), "{line} is not in\n{output}");
    }
}

/// Runs inside the container, from the node's root bound at /host: calls that no shell can make.
#[test]
fn helper_makes_refused_calls() {
    if std::env::var_os("GANTRY_TEST_CALLS").is_none() {
        return;
    }
    use nix::sched::{CloneFlags, unshare};
    // The C library tries clone3 first, and falls back to clone only when told that there is no such call.
    println!(
        "thread: {:?}",
        std::thread::Builder::new()
            .spawn(|| 5)
            .map(|thread| thread.join().ok())
            .ok()
    );
    println!("unshare: {:?}", unshare(CloneFlags::CLONE_NEWUSER).err());
    println!("mount context: {:?}", gantry_sys::mount::Context::open("tmpfs").err());
}

#[test]
fn system_calls_are_filtered() {
    if !can_run() {
        return;
    }
    let program = std::env::current_exe().expect("test program");
    let call = "--exact privileges::helper_makes_refused_calls --nocapture --test-threads 1";
    let script = format!(
        "unshare -m true; echo unshare $?; mount -t tmpfs x /tmp; echo mount $?; \
         GANTRY_TEST_CALLS=1 chroot /host {} {call}",
        program.display()
    );
    let mut lab = Lab::script(&script);
    lab.mounts.push(ResolvedMount {
        target: PathBuf::from("/host"),
        read_only: true,
        kind: ResolvedMountKind::Bind {
            source: PathBuf::from("/"),
            create_host_path: false,
            propagation: Propagation::Rprivate,
        },
    });
    let (_, output) = lab.run();
    for line in [
        "unshare 1",
        "mount 1",
        "unshare: Some(EPERM)",
        "mount context: Some(EPERM)",
    ] {
        assert!(output.contains(line), "{line} is not in\n{output}");
    }
}

#[test]
fn a_privileged_container_may_mount_and_sees_devices() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "mount -t tmpfs x /tmp && echo mounted; ls /dev | wc -l; [ $(wc -c < /proc/interrupts) -gt 0 ] && echo interrupts",
    );
    lab.container.privileged = true;
    let (exit, output) = lab.run();
    assert_eq!(exit.code, 0, "{output}");
    assert!(output.contains("mounted") && output.contains("interrupts"), "{output}");
}

#[test]
fn users_groups_and_homes_resolve_in_the_image() {
    if !can_run() {
        return;
    }
    let script = "id -u; id -g; id -G; echo $HOME; echo hello > /dev/stdout";
    let mut lab = Lab::script(script);
    lab.container.user = Some(User {
        user: "app".into(),
        group: None,
    });
    lab.container.group_add = vec!["99".to_string()];
    let (exit, output) = lab.run();
    assert_eq!(output, "1000\n1001\n1001 50 99\n/home/app\nhello\n");
    assert_eq!(exit.code, 0);
    let mut lab = Lab::script(script);
    lab.image.user = "1234:logs".to_string();
    let (_, output) = lab.run();
    assert_eq!(output, "1234\n50\n50\n/\nhello\n");
}

#[test]
fn environment_host_name_and_folder() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script("env | sort; hostname; pwd");
    lab.image.env = vec!["FROM=image".to_string(), "GONE=1".to_string()];
    lab.container.environment = BTreeMap::from([
        ("GONE".to_string(), None),
        ("MORE".to_string(), Some("a b".to_string())),
    ]);
    lab.container.working_dir = Some("/made/on the way".to_string());
    let (_, output) = lab.run();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for line in [
        "FROM=image",
        "MORE=a b",
        "HOME=/root",
        "HOSTNAME=box",
        path,
        "box",
        "/made/on the way",
    ] {
        assert!(output.lines().any(|found| found == line), "{line} is not in\n{output}");
    }
    assert!(!output.contains("GONE") && !output.contains("TERM="), "{output}");
}

#[test]
fn limits_of_the_process_and_kernel_parameters_of_its_namespaces() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::script(
        "ulimit -n; ulimit -Hn; cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /proc/self/oom_score_adj",
    );
    lab.container.ulimits = BTreeMap::from([("nofile".to_string(), Ulimit { soft: 100, hard: 200 })]);
    lab.container.sysctls = BTreeMap::from([("net.core.somaxconn".to_string(), "77".to_string())]);
    lab.container.oom_score_adj = Some(300);
    assert_eq!(lab.run().1, "100\n200\n77\n0\n300\n");
    lab.container.sysctls = BTreeMap::from([("kernel.panic".to_string(), "1".to_string())]);
    let refused = lab.try_start().map(|(launched, _)| launched);
    assert!(matches!(refused, Err(LaunchError::Invalid(problem)) if problem.reason.contains("kernel.panic")));
}

#[test]
fn namespaces_are_the_containers_own() {
    if !can_run() {
        return;
    }
    let script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup; ls /sys/class/net; echo $$";
    let (_, output) = Lab::script(script).run();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let node = std::fs::read_link(format!("/proc/self/ns/{name}")).expect("namespace");
        assert!(
            !output.contains(&*node.to_string_lossy()),
            "{name} is shared:\n{output}"
        );
    }
    assert!(
        output.lines().any(|line| line.ends_with(":memory:/") || line == "0::/"),
        "{output}"
    );
    assert!(output.ends_with("lo\n1\n"), "{output}");

    let mut lab = Lab::script("readlink /proc/self/ns/net");
    let node = std::fs::read_link("/proc/self/ns/net").expect("namespace");
    lab.network = Network::Host;
    assert_eq!(lab.run().1.trim(), node.to_string_lossy());
    lab.network = Network::Path(PathBuf::from("/proc/self/ns/net"));
    let path = format!("/proc/{}/ns/net", std::process::id());
    lab.network = Network::Path(PathBuf::from(path));
    assert_eq!(lab.run().1.matches(&*node.to_string_lossy()).count(), 2);
}
