"""Peers on this machine itself: Docker's engine and Docker's registry, each with folders of its own.

Invariant: each is stopped, and its folders are gone, after `end`.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess

from lab import Failed, run, until

# The distribution's, which fits its daemon, whatever else is in the path.
DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"
REGISTRY = "docker-registry"
START_S = 60


def missing(*programs):
    """Which of the programs are not here."""
    return [program for program in programs if not shutil.which(program)]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def peak_kib(pid):
    """Most memory that a process ever had resident."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def reset_peak(pid):
    """From now on the peak counts from what is resident now (proc(5), clear_refs)."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


class Daemon:
    """A process with a folder and a log."""

    def __init__(self, folder, command, answers):
        self.folder = pathlib.Path(folder)
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        until(f"{command[0]} answers", answers, pause_s=0.05, deadline_s=START_S)

    @property
    def pid(self):
        return self.process.pid

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Registry(Daemon):
    """Docker's registry, plain HTTP on loopback."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        folder.mkdir()
        self.port = free_port()
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }
        (folder / "config.yml").write_text(json.dumps(config))
        super().__init__(folder, [REGISTRY, "serve", str(folder / "config.yml")], self.answers)

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def name(self, rest):
        return f"127.0.0.1:{self.port}/{rest}"


class Docker(Daemon):
    """A daemon without a network of its own."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        folder.mkdir()
        self.host = f"unix://{folder / 'sock'}"
        self.env = {"DOCKER_CONFIG": str(folder / "config"), "DOCKER_BUILDKIT": "1"}
        command = [DOCKERD, "--bridge=none", "--iptables=false", "--ip-masq=false", f"--data-root={folder / 'data'}",
                   f"--exec-root={folder / 'exec'}", f"--pidfile={folder / 'pid'}", f"--host={self.host}"]
        super().__init__(folder, command, self.answers)

    def answers(self):
        return run(self.words("version"), check=False) is not None

    def words(self, *words):
        return [DOCKER, "--host", self.host, *map(str, words)]

    def call(self, *words, **options):
        return run(self.words(*words), env=self.env, **options)


def describe():
    """Lines about the machine for the head of a table."""
    model = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown")
    system = next((line.split("=")[1].strip('"') for line in pathlib.Path("/etc/os-release").read_text().splitlines()
                   if line.startswith("PRETTY_NAME=")), "unknown")
    return f"{os.cpu_count()} cores ({model}), Linux {os.uname().release}, {system}, load {os.getloadavg()[0]:.1f}"


__all__ = ["DOCKER", "DOCKERD", "REGISTRY", "Docker", "Failed", "Registry", "describe", "missing", "peak_kib", "reset_peak"]
