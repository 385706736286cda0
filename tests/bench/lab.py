"""Hosts in namespaces, made by `deploy/lab`, and what runs on them.

Invariant: everything a lab made is gone after `down`, also when the benchmark failed. Times are taken outside of the hosts.
"""

import os
import pathlib
import re
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy/lab"
DEADLINE_S = 180


class Failed(Exception):
    """A command failed, or something did not come about in time."""


def run(command, check=True, timeout=None, env=None):
    """The output of a command."""
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired as expired:
        if check:
            raise Failed(f"{command}: no end within {timeout} s") from expired
        return None
    if done.returncode != 0:
        if check:
            raise Failed(f"{command} ended with {done.returncode}: {done.stderr.strip()}")
        return None
    return done.stdout


def until(what, look, pause_s=0.002, deadline_s=DEADLINE_S):
    """Looks until something is found, and returns it."""
    end = time.monotonic() + deadline_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"not within {deadline_s} s: {what}")
        time.sleep(pause_s)


def timed(act):
    """Seconds that `act` took."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


class Lab:
    """Hosts `h1`…`hN` at 10.77.0.1…N on a network of their own."""

    def __init__(self, count):
        self.name = f"b{os.getpid()}"
        self.dir = pathlib.Path("/run/gantry-lab") / self.name
        self.hosts = [f"h{index + 1}" for index in range(count)]
        try:
            run([SCRIPT, self.name, "up", str(count)])
        except Failed:
            self.down()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            self.show_logs()
        self.down()

    def down(self):
        run([SCRIPT, self.name, "down"], check=False)
        # Of many containers some processes are still ending: their groups can go a moment later.
        until("the control groups are gone", self.remove_groups, pause_s=0.1, deadline_s=20)

    def remove_groups(self):
        """Removes the lab's control groups as far as they are empty; whether none is left."""
        groups = list(pathlib.Path("/sys/fs/cgroup").glob(f"*/gantry-{self.name}-*"))
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    continue
        return not any(group.exists() for group in groups)

    def show_logs(self):
        for log in sorted(self.dir.glob("h*/*.log")):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            print(f"--- {log} ---\n{tail}", file=os.sys.stderr)

    def first_pid(self, host):
        return (self.dir / host / "pid").read_text().strip()

    def run(self, host, command, **options):
        """The output of a command on a host."""
        enter = ["nsenter", "-t", self.first_pid(host), "-m", "-u", "-p", "-i", "-n", "--"]
        return run(enter + [str(part) for part in command], **options)

    def spawn(self, host, log, command):
        """Starts a process on a host and returns its id as this machine sees it."""
        log = self.dir / host / log
        return int(run([SCRIPT, self.name, "spawn", host, log, *map(str, command)]))

    def processes(self, host):
        """Arguments by id of what runs in the host's own pid namespace: daemons and shims, not what is in containers."""
        own = os.readlink(f"/proc/{self.first_pid(host)}/ns/pid")
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.readlink(entry / "ns/pid") == own:
                    found[int(entry.name)] = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
        return found


def kill(pid):
    """Kills as a power cut would, and waits until the process is gone."""
    os.kill(pid, 9)
    until(f"process {pid} is gone", lambda: not alive(pid))


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def memory(pids):
    """Resident and proportional memory in MiB, summed over the processes."""
    total = {"Rss": 0, "Pss": 0}
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        for field in total:
            total[field] += int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)[1])
    return total["Rss"] / 1024, total["Pss"] / 1024


def busybox(folder):
    """A tar of a root filesystem with the distribution's static BusyBox."""
    root = pathlib.Path(folder) / "root"
    for part in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (root / part).mkdir(parents=True)
    run(["cp", "/bin/busybox", root / "bin"])
    for applet in run(["/bin/busybox", "--list"]).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    tar = pathlib.Path(folder) / "busybox.tar"
    run(["tar", "-C", root, "-cf", tar, "."])
    return tar
