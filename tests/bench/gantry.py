"""Gantry on the hosts of a lab, driven by its command line."""

import json
import os
import pathlib

from lab import ROOT, alive, memory, run, timed, until

NAME = "Gantry"

MANIFEST = """\
name: bench
services:
  s:
    image: bench
    command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
    deploy:
      replicas: 1
"""


def binary():
    """The release build."""
    target = os.environ.get("CARGO_TARGET_DIR") or pathlib.Path.home() / ".cache/gantry/target"
    return os.environ.get("GANTRY_BIN") or str(pathlib.Path(target) / "release/gantry")


def version():
    commit = run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], check=False) or "unknown"
    return f"{run([binary(), '--version']).strip()}, commit {commit.strip()}"


class Gantry:
    """Servers on every host of the lab; an agent on the first when `agent` is wanted."""

    def __init__(self, lab, folder):
        self.lab = lab
        self.folder = pathlib.Path(folder)
        self.servers = {}
        self.tokens = {}

    # Starting.

    def start(self):
        """From nothing to a cluster in which all servers vote and one leads."""
        report = self.call("h1", "cluster", "init", "--advertise", "10.77.0.1:7600", "-o", "json")
        self.tokens = json.loads(report)
        for host in self.lab.hosts:
            self.start_server(host)
        self.until_complete()

    def start_server(self, host):
        address = f"10.77.0.{host[1:]}:7600"
        command = [binary(), "server", "--advertise", address]
        if host != "h1":
            command += ["--join", "10.77.0.1:7600", "--token", self.tokens["server_token"]]
        self.servers[host] = self.lab.spawn(host, "server.log", command)

    def start_agent(self):
        parent = f"gantry-{self.lab.name}-h1"
        command = [binary(), "agent", "--join", "10.77.0.1:7600", "--token", self.tokens["agent_token"]]
        self.lab.spawn("h1", "agent.log", command + ["--advertise", "10.77.0.1:7601", "--cgroup-parent", parent])
        until("the node is ready", lambda: any(node["status"] == "ready" for node in self.read("node", "ls")))

    def until_complete(self):
        until("all servers vote and one leads", self.is_complete)

    def is_complete(self):
        status = self.status("h1")
        servers = [server for server in status["servers"] if server["voter"] and server["reachable"]] if status else []
        return len(servers) == len(self.lab.hosts) and bool(status["leader"])

    # Commands.

    def call(self, host, *arguments, **options):
        env = {"GANTRY_CONTEXT": str(self.folder / "context")}
        return self.lab.run(host, [binary(), *arguments], env=env, **options)

    def read(self, *arguments):
        return json.loads(self.call("h1", *arguments, "-o", "json"))

    def status(self, host):
        server = ["--server", f"10.77.0.{host[1:]}:7600"]
        answer = self.call(host, *server, "cluster", "status", "-o", "json", check=False, timeout=5)
        return json.loads(answer) if answer else None

    # Replicas.

    def load(self, tar):
        self.call("h1", "image", "import", tar, "bench:latest", "--change", 'CMD ["sh"]')
        (self.folder / "compose.yaml").write_text(MANIFEST)

    def create(self):
        """Until `apply --wait` says that it runs."""
        self.call("h1", "apply", "-f", self.folder / "compose.yaml", "--wait", "--timeout", "60s")

    def create_polled(self):
        """Until `ps` shows that it runs."""
        self.call("h1", "apply", "-f", self.folder / "compose.yaml")
        until("the replica runs", lambda: self.running() == 1)

    def scale(self, count):
        self.call("h1", "service", "scale", f"s={count}", "-n", "bench", "--wait", "--timeout", "120s")

    def running(self):
        return sum(replica["observed"]["ready"] for replica in self.read("ps", "-n", "bench"))

    def remove(self):
        self.call("h1", "delete", "-f", self.folder / "compose.yaml", "--wait", "--timeout", "60s")

    def memory(self):
        """Memory by process: `{name: (count, RSS, PSS)}`."""
        groups = {"server": [], "agent": [], "shim": []}
        for pid, arguments in self.lab.processes("h1").items():
            if arguments[0] == binary() and arguments[1] in groups:
                groups[arguments[1]].append(pid)
            elif os.path.basename(arguments[0]).startswith("shim-"):
                groups["shim"].append(pid)
        return {f"gantry {name}": (len(pids), *memory(pids)) for name, pids in groups.items() if pids}

    # Leaders.

    def leader(self):
        def look():
            for host in self.lab.hosts:
                servers = (self.status(host) or {}).get("servers", [])
                for server in servers:
                    if server["leader"]:
                        return "h" + server["address"].split(":")[0].rsplit(".", 1)[1]
            return None

        return until("there is a leader", look)

    def fail_over(self):
        """Seconds from the leader's death until another server has written a new join token."""
        leader = self.leader()
        other = next(host for host in self.lab.hosts if host != leader)
        write = ["--server", f"10.77.0.{other[1:]}:7600", "cluster", "token", "create", "agent"]
        os.kill(self.servers[leader], 9)
        seconds = timed(lambda: until("a write", lambda: self.call(other, *write, check=False, timeout=2) is not None))
        until("the old leader is gone", lambda: not alive(self.servers[leader]))
        self.start_server(leader)
        self.until_complete()
        return seconds
