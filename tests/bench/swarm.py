"""Docker Swarm on the hosts of a lab: one dockerd for each, driven by Docker's command line, observed by its API."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import socket
import urllib.parse

from lab import kill, memory, run, timed, until

NAME = "Swarm"
# The distribution's, which fits its daemon, whatever else is in the path.
DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"
POLICY = pathlib.Path("/usr/sbin/policy-rc.d")

# dockerd keeps files at fixed places in /run and /etc: each host gets its own, beside what the lab mounted.
ISOLATE = """
mkdir -p /var/lib/gantry/kept /etc/docker && mount --bind /run/gantry /var/lib/gantry/kept &&
mount -t tmpfs tmpfs /run && mkdir /run/gantry /run/lock && mount --move /var/lib/gantry/kept /run/gantry &&
mount -t tmpfs tmpfs /etc/docker
"""


def install():
    """The distribution's Docker, without letting its services start."""
    if os.path.exists(DOCKERD):
        return
    made = not POLICY.exists()
    if made:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "docker.io"], env=environment)
    finally:
        if made:
            POLICY.unlink()


def version():
    containerd = run(["containerd", "--version"]).split()[2]
    return f"{run([DOCKER, '--version']).strip()}, containerd {containerd}"


class Connection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Swarm:
    """Managers on every host of the lab; they also run the replicas, as Swarm's do by default."""

    def __init__(self, lab, folder):
        self.lab = lab
        self.daemons = {}
        self.made_etc = not os.path.exists("/etc/docker")

    # Starting.

    def prepare(self):
        """Mounts; not part of any measurement."""
        for host in self.lab.hosts:
            self.lab.run(host, ["sh", "-ec", ISOLATE])

    def clean(self):
        if self.made_etc and os.path.isdir("/etc/docker"):
            os.rmdir("/etc/docker")

    def start(self):
        """From nothing to a Swarm in which all managers are reachable and one leads."""
        self.start_daemons()
        self.join()

    def start_daemons(self):
        for host in self.lab.hosts:
            self.start_daemon(host)
        for host in self.lab.hosts:
            self.until_answers(host)

    def start_daemon(self, host):
        command = [DOCKERD, "--data-root", "/var/lib/gantry/docker", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"]
        command += ["-H", "unix:///run/gantry/docker.sock", "--cgroup-parent", f"/gantry-{self.lab.name}-{host}"]
        self.daemons[host] = self.lab.spawn(host, "dockerd.log", command)

    def until_answers(self, host):
        def answers():
            try:
                return self.api("/version", host)
            except OSError:
                return None

        until(f"dockerd of {host} answers", answers)

    def join(self):
        self.docker("h1", "swarm", "init", "--advertise-addr", "10.77.0.1")
        token = self.docker("h1", "swarm", "join-token", "-q", "manager").strip()

        def join(host):
            address = f"10.77.0.{host[1:]}"
            self.docker(host, "swarm", "join", "--token", token, "--advertise-addr", address, "10.77.0.1:2377")

        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(join, self.lab.hosts[1:]))
        self.until_complete()

    def until_complete(self):
        until("all managers are reachable and one leads", self.is_complete, pause_s=0.02)

    def is_complete(self):
        nodes = self.api("/nodes")
        if not isinstance(nodes, list):
            return False
        reachable = [node for node in nodes if node.get("ManagerStatus", {}).get("Reachability") == "reachable"]
        ready = [node for node in reachable if node["Status"]["State"] == "ready"]
        leads = any(node["ManagerStatus"].get("Leader") for node in reachable)
        return leads and len(ready) == len(self.lab.hosts)

    # Commands.

    def docker(self, host, *arguments, **options):
        return self.lab.run(host, [DOCKER, "-H", "unix:///run/gantry/docker.sock", *arguments], **options)

    def api(self, path, host="h1"):
        connection = Connection(f"{self.lab.dir}/{host}/run/gantry/docker.sock")
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    # Replicas.

    def load(self, tar):
        self.docker("h1", "import", "-c", 'CMD ["sh"]', tar, "bench:latest")

    def create(self):
        program = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
        service = ["--detach", "--no-resolve-image", "--name", "s", "--replicas", "1", "bench", *program]
        self.docker("h1", "service", "create", *service)
        until("the replica runs", lambda: self.running() == 1)

    def scale(self, count):
        self.docker("h1", "service", "scale", "--detach", f"s={count}")
        until(f"{count} replicas run", lambda: self.running() == count, pause_s=0.02)

    def running(self):
        chosen = urllib.parse.quote(json.dumps({"service": ["s"], "desired-state": ["running"]}))
        return sum(task["Status"]["State"] == "running" for task in self.api(f"/tasks?filters={chosen}"))

    def remove(self):
        self.docker("h1", "service", "rm", "s")
        chosen = urllib.parse.quote(json.dumps({"label": ["com.docker.swarm.service.name=s"]}))
        until("the containers are gone", lambda: not self.api(f"/containers/json?all=1&filters={chosen}"), pause_s=0.005)

    def memory(self):
        """Memory by process: `{name: (count, RSS, PSS)}`."""
        groups = {"dockerd": [], "containerd": [], "containerd-shim-runc-v2": []}
        for pid, arguments in self.lab.processes("h1").items():
            name = os.path.basename(arguments[0])
            if name in groups:
                groups[name].append(pid)
        return {name: (len(pids), *memory(pids)) for name, pids in groups.items() if pids}

    # Leaders.

    def leader(self):
        def look():
            for host in self.lab.hosts:
                nodes = self.api("/nodes", host)
                for node in nodes if isinstance(nodes, list) else []:
                    if node.get("ManagerStatus", {}).get("Leader"):
                        return node["Description"]["Hostname"]
            return None

        return until("there is a leader", look, pause_s=0.05)

    def fail_over(self):
        """Seconds from the leader's death until another manager has written a new join token."""
        leader = self.leader()
        other = next(host for host in self.lab.hosts if host != leader)
        write = ["swarm", "join-token", "--rotate", "-q", "worker"]
        os.kill(self.daemons[leader], 9)
        seconds = timed(lambda: until("a write", lambda: self.docker(other, *write, check=False, timeout=2) is not None))
        self.revive(leader)
        until("all managers are back", lambda: self.sees_all(other), pause_s=0.1)
        return seconds

    def revive(self, host):
        for pid, arguments in self.lab.processes(host).items():
            if os.path.basename(arguments[0]) == "containerd":
                kill(pid)
        self.lab.run(host, ["rm", "-rf", "/run/docker.pid", "/run/docker/containerd/containerd.pid"])
        self.start_daemon(host)
        self.until_answers(host)

    def sees_all(self, host):
        nodes = self.api("/nodes", host)
        managers = nodes if isinstance(nodes, list) else []
        reachable = [node for node in managers if node.get("ManagerStatus", {}).get("Reachability") == "reachable"]
        return len([node for node in reachable if node["Status"]["State"] == "ready"]) == len(self.lab.hosts)
