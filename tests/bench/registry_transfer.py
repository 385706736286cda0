#!/usr/bin/env python3
"""Measures pull (with unpack) and push of a large image beside docker and skopeo + umoci, and prints a Markdown table.

Needs root and the packages of `deploy/packages` (test). GANTRY_TRANSFER names the program that is measured, the example of
`crates/distribution` (`cargo build --release -p gantry-distribution --example transfer`). The registry is Docker's own, plain
HTTP on loopback, with a folder of its own; so has dockerd. All is gone at the end.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

LAYERS = 8
SOURCES = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/include")
START_S = 60


def log(text):
    print(f"==> {time.strftime('%H:%M:%S')} {text}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def timed(*command, **options):
    begin = time.monotonic()
    run(*command, **options)
    return time.monotonic() - begin


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, ready):
    deadline = time.monotonic() + START_S
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} does not answer")
        time.sleep(0.05)


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait()


class Registry:
    """Docker's registry with a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        folder.mkdir()
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }
        (folder / "config.yml").write_text(json.dumps(config))
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=self.log, stderr=self.log
        )
        wait_for("docker-registry", self.answers)

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def name(self, rest):
        return f"127.0.0.1:{self.port}/{rest}"

    def end(self):
        stop(self.process)
        shutil.rmtree(self.folder)


class Docker:
    """A daemon without network."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.host = f"unix://{folder / 'sock'}"
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(
            ["dockerd", "--bridge=none", "--iptables=false", "--ip-masq=false", f"--data-root={folder / 'data'}",
             f"--exec-root={folder / 'exec'}", f"--pidfile={folder / 'pid'}", f"--host={self.host}"],
            stdout=self.log, stderr=self.log,
        )
        wait_for("dockerd", lambda: subprocess.run(self.words("version"), capture_output=True).returncode == 0)

    def words(self, *words):
        return ["docker", "--host", self.host, *words]

    def peak_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))

    def end(self):
        stop(self.process)


def make_image(folder, size):
    """An image of this machine's own files in layers of equal size, as `dir:` of skopeo has it."""
    log(f"an image of {size >> 20} MiB")
    share, layers = size // LAYERS, []
    files = (path for source in SOURCES for path in sorted(pathlib.Path(source).rglob("*")))
    for number in range(LAYERS):
        names, filled = [], 0
        while filled < share:
            path = next(files, None)
            if path is None:
                break
            if path.is_symlink() or not path.is_file():
                continue
            names.append(str(path))
            filled += path.stat().st_size
        listing = folder / f"layer{number}.txt"
        listing.write_text("\0".join(names))
        layer = folder / f"layer{number}.tar"
        run("tar", "--create", "--null", "--files-from", listing, "--file", layer, "--absolute-names", "--transform", "s,^/,,")
        layers.append(layer)
    image = folder / "image"
    run("umoci", "init", "--layout", image)
    run("umoci", "new", "--image", f"{image}:latest")
    for layer in layers:
        run("umoci", "raw", "add-layer", "--image", f"{image}:latest", layer)
        layer.unlink()
    return image


def pulls(figures, memory, registry, docker, transfer, folder, rounds):
    name = registry.name("big:v1")
    for number in range(rounds + 1):
        store = folder / "store"
        begin = time.monotonic()
        answer = json.loads(run(transfer, "pull", store, name))
        gantry = time.monotonic() - begin
        shutil.rmtree(store)
        dockers = timed(*docker.words("pull", "--quiet", name))
        run(*docker.words("rmi", name))
        layout = folder / "layout"
        skopeo = timed("skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}:v1")
        skopeo += timed("umoci", "unpack", "--image", f"{layout}:v1", folder / "bundle")
        shutil.rmtree(layout)
        shutil.rmtree(folder / "bundle")
        if number > 0:  # The first round warms up the page cache.
            figures.setdefault("pull", {}).setdefault("gantry", []).append(gantry)
            figures["pull"].setdefault("docker", []).append(dockers)
            figures["pull"].setdefault("skopeo + umoci", []).append(skopeo)
            log(f"pull: gantry {gantry:.2f} s, docker {dockers:.2f} s, skopeo + umoci {skopeo:.2f} s")
        memory["gantry pull"] = max(memory.get("gantry pull", 0), answer["peak_kib"])
        memory["dockerd"] = docker.peak_kib()


def pushes(figures, memory, registry, docker, transfer, folder, rounds):
    source = registry.name("big:v1")
    store = folder / "store"
    run(transfer, "pull", store, source)
    run(*docker.words("pull", "--quiet", source))
    for number in range(rounds + 1):
        seconds = {}
        for who in ("gantry", "docker"):
            # A registry without a single layer, so that nothing can be mounted or skipped.
            empty = Registry(folder / "empty")
            target = empty.name("big:v1")
            if who == "gantry":
                own = folder / "copy"
                # The name decides where a push goes.
                run("cp", "-a", "--reflink=auto", store, own)
                tags = (own / "tags.json").read_text().replace(source, target)
                (own / "tags.json").write_text(tags)
                begin = time.monotonic()
                answer = json.loads(run(transfer, "push", own, target))
                seconds[who] = time.monotonic() - begin
                shutil.rmtree(own)
                memory["gantry push"] = max(memory.get("gantry push", 0), answer["peak_kib"])
            else:
                run(*docker.words("tag", source, target))
                seconds[who] = timed(*docker.words("push", "--quiet", target))
                run(*docker.words("rmi", target))
            empty.end()
        if number > 0:
            for who, took in seconds.items():
                figures.setdefault("push", {}).setdefault(who, []).append(took)
            log(f"push: gantry {seconds['gantry']:.2f} s, docker {seconds['docker']:.2f} s")


def shown(samples):
    return f"{statistics.median(samples):.2f} s ({min(samples):.2f}–{max(samples):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=500, help="size of the image, unpacked")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=["pull", "push"])
    arguments = parser.parse_args()
    transfer = os.environ.get("GANTRY_TRANSFER")
    missing = [word for word in ("docker-registry", "dockerd", "skopeo", "umoci") if not shutil.which(word)]
    if missing or not transfer:
        raise SystemExit(f"SKIP: {', '.join(missing) or 'GANTRY_TRANSFER'} missing")
    figures, memory = {}, {}
    with tempfile.TemporaryDirectory(prefix="gantry-transfer-") as name:
        folder = pathlib.Path(name)
        registry = Registry(folder / "registry")
        docker = Docker(folder / "docker")
        try:
            image = make_image(folder, arguments.mib << 20)
            run("skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{image}:latest", f"docker://{registry.name('big:v1')}")
            shutil.rmtree(image)
            if arguments.only != "push":
                pulls(figures, memory, registry, docker, transfer, folder, arguments.rounds)
            if arguments.only != "pull":
                pushes(figures, memory, registry, docker, transfer, folder, arguments.rounds)
        finally:
            docker.end()
            stop(registry.process)
    print(f"| {arguments.mib} MiB, {LAYERS} layers, median of {arguments.rounds} (least–most) | Gantry | docker | skopeo + umoci |")
    print("|---|---|---|---|")
    for act, peers in figures.items():
        cells = [shown(peers[who]) if who in peers else "–" for who in ("gantry", "docker", "skopeo + umoci")]
        print(f"| {act} | {' | '.join(cells)} |")
    print("\n| peak of resident memory | MiB |\n|---|---|")
    for who, kib in memory.items():
        print(f"| {who} | {kib / 1024:.0f} |")


if __name__ == "__main__":
    main()
