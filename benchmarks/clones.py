"""Measure machines that are cloned from a template, compared with those that are booted."""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import Bench, available_mib, memory_of_processes

IDLE = 20
RUNS = 10
SETTLE_SECONDS = 30.0


def template(bench: Bench) -> None:
    """Measure the first create of a shape, which builds its template."""
    cost, _ = bench.call("create", "clone")
    bench.row("first create of a shape", f"{cost.wall:.1f} s", "boots and freezes the template, and resumes a clone")


def warm(bench: Bench) -> None:
    """Measure later creates, step by step."""
    walls, cpus = [], []
    parts: dict[str, list[float]] = {}
    for _ in range(RUNS):
        cost, text = bench.call("create", "--timings", "warm")
        bench.call("rm", "-y", "warm")
        walls.append(cost.wall)
        cpus.append(cost.cpu)
        for name, seconds in re.findall(r"^(\w+)\t([0-9.]+)$", text, re.MULTILINE):
            parts.setdefault(name, []).append(float(seconds))
    wall = statistics.median(walls)
    note = f"1/{bench.cold_create / wall:.0f} of a cold one (goal: 1/15); goal: 1.0 s; best {min(walls):.2f} s"
    bench.row("warm create, whole", f"{wall:.2f} s", note)
    for name, seconds in parts.items():
        bench.row(f"- {name}", f"{statistics.median(seconds):.2f} s")
    bench.row("- pymachine's own processor time", f"{statistics.median(cpus):.2f} s")


def options(bench: Bench) -> None:
    """Measure what options add to a warm create and to QEMU's memory; all kinds alternately."""
    kinds: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
        "no option": ((), {}),
        "HTTP_PROXY": ((), {"HTTP_PROXY": "http://proxy.example:3128"}),
        "--ca-cert": (("--ca-cert", str(bench.folder / "store" / "certs" / "ca.pem")), {}),
        "--share": (("--share", str(bench.folder)), {}),
        "--socket": (("--socket",), {}),
        "--ipv6": (("--ipv6",), {}),
    }
    walls: dict[str, list[float]] = {kind: [] for kind in kinds}
    sizes: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(RUNS + 1):
        for kind, (flags, env) in kinds.items():
            cost, _ = bench.call("create", *flags, "warm", env=env)
            if number:  # the first one may make a template
                walls[kind].append(cost.wall)
                sizes[kind].append(_qemu_mib(bench.folder / "store" / "machines" / "warm"))
            bench.call("rm", "-y", "warm")
    usual, usual_size = statistics.median(walls["no option"]), statistics.median(sizes["no option"])
    for kind in kinds:
        wall, size = statistics.median(walls[kind]), statistics.median(sizes[kind])
        note = f"{wall / usual:.2f} of no option; QEMU's own memory {size:.0f} MiB, {size - usual_size:+.1f}"
        bench.row(f"warm create, {kind}", f"{wall:.2f} s", note)


def _qemu_mib(machine: Path) -> float:
    """Return the memory that QEMU shares with no other process (Private in proc_pid_smaps(5))."""
    sizes = [text for command, text in memory_of_processes(f"{machine}/") if "qemu-system" in command]
    return sum(int(kib) for text in sizes for kib in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)) / 1024


def run(bench: Bench) -> None:
    """Measure `run`, from creation to removal."""
    cost = bench.median(RUNS, lambda: bench.call("run", "--", "true")[0])
    bench.row("run -- true", f"{cost.wall:.2f} s", "goal: 2 s")


def at_once(bench: Bench) -> None:
    """Measure the creation of five machines with one command."""
    names = [f"m{number}" for number in range(5)]
    walls = []
    for _ in range(bench.rounds):
        walls.append(bench.call("create", *names)[0].wall)
        bench.call("rm", "-y", *names)
    bench.row("create of five at once", f"{statistics.median(walls):.1f} s", "until the last one answers")


def memory(bench: Bench) -> None:
    """Measure the memory that idle machines use on the host, with the default and the smallest settings."""
    names = [f"idle{number}" for number in range(IDLE)]
    small = ("--qemu-tb-size", "24")
    for flags, note in (((), "goal: 80 MiB"), (small, f"with {' '.join(small)}")):
        bench.call("create", *flags, "first")  # builds the template
        before = available_mib()
        bench.call("create", *flags, *names)
        time.sleep(SETTLE_SECONDS)
        each = (before - available_mib()) / IDLE
        bench.row(f"memory of each of {IDLE} idle clones", f"{each:.0f} MiB", f"by MemAvailable; {note}")
        bench.call("rm", "-y", "first", *names)


def later(bench: Bench) -> None:
    """Measure containers in a clone and in a machine that was booted."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support import images, registry  # noqa: PLC0415 (the tests' own registry)

    with tempfile.TemporaryDirectory() as folder, registry.running(Path(folder)) as running:
        layer = images.alpine_like("3.2", packages="")
        running.push("library/alpine", ["3.2"], layer, images.config())
        mirror = ("--engine-registry-mirror", running.url_from_guest)
        bench.call("create", "--no-template", *mirror, "booted")
        bench.call("create", *mirror, "resumed")
        pull = "docker rmi -f alpine:3.2 > /dev/null 2>&1; docker pull -q alpine:3.2"
        for what, command in (("docker pull", pull), ("docker run", "docker run --rm alpine:3.2 true")):
            booted, resumed = (_inside(bench, name, command) for name in ("booted", "resumed"))
            bench.row(f"{what} in a clone", f"{resumed:.2f} s", f"{resumed / booted:.2f} of {booted:.2f} s when booted")
        bench.call("rm", "-y", "booted", "resumed")


def _inside(bench: Bench, name: str, command: str) -> float:
    bench.call("ssh", name, command)  # a warm-up, which is not counted
    return bench.median(5, lambda: bench.call("ssh", name, command)[0]).wall
