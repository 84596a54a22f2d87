"""Measure pymachine on this host, and write the table of docs/explanation/benchmarks.md.

Everything is measured in one run; what depends on the host is also given as a ratio to something of the same run.
Medians; the machine is the default one (1 GiB, software emulation unless KVM boots Linux here). Takes about five
minutes on two cores. Nothing but this should run on the host meanwhile.

    python benchmarks/run.py [--rounds 3] [--write docs/explanation/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "pymachine"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and seconds of processor time of the process and its children."""

    wall: float
    cpu: float


class Bench:
    """Runs the program on a store of its own."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder = folder
        self.rounds = rounds
        self.rows: list[tuple[str, str, str]] = []
        cache = os.environ.get("PYMACHINE_CACHE") or str(Path.home() / ".cache" / "pymachine-benchmarks")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "MACHINE_"))}
        self.env = {**kept, "MACHINE_STORAGE_PATH": str(folder / "store"), "PYMACHINE_CACHE": cache, "SHELL": "/bin/sh"}

    def call(self, *words: str, program: Path | str = PROGRAM, env: dict[str, str] | None = None) -> tuple[Cost, str]:
        """Run a command and return what it cost and printed."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        done = subprocess.run(
            [str(program), *words], env={**self.env, **(env or {})}, check=True, capture_output=True, text=True
        )
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout

    def median(self, times: int, act: Callable[[], Cost]) -> Cost:
        """The medians over `times` calls."""
        costs = [act() for _ in range(times)]
        return Cost(statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs))

    def row(self, what: str, value: str, note: str = "") -> None:
        """Add a line to the table, and show it."""
        self.rows.append((what, value, note))
        print(f"{what:44} {value:>12}  {note}", flush=True)


def image(bench: Bench) -> None:
    """From an empty package cache once, and from a full one."""
    cold = {"PYMACHINE_CACHE": str(bench.folder / "cold")}
    first, _ = bench.call("image", "build", env=cold)
    bench.row("image build, empty package cache", f"{first.wall:.1f} s", "with the downloads of this host's connection")

    def again() -> Cost:
        shutil.rmtree(bench.folder / "cold" / "images")
        return bench.call("image", "build", env=cold)[0]

    warm = bench.median(bench.rounds, again)
    bench.row("image build, full package cache", f"{warm.wall:.1f} s", "reach: 15 s on two cores")
    shutil.rmtree(bench.folder / "cold")
    bench.call("image", "build")


def create(bench: Bench) -> None:
    """Cold creates in parts; the last machine stays for what follows."""
    parts: dict[str, list[float]] = {}
    walls = []
    for number in range(bench.rounds):
        if number:
            bench.call("rm", "-y", "bench")
        cost, text = bench.call("create", "--timings", "bench")
        walls.append(cost.wall)
        for name, seconds in re.findall(r"^(\w+)\t([0-9.]+)$", text, re.MULTILINE):
            parts.setdefault(name, []).append(float(seconds))
    bench.row("cold create, whole", f"{statistics.median(walls):.1f} s", "reach: 25 s in software emulation")
    for name, seconds in parts.items():
        bench.row(f"- {name}", f"{statistics.median(seconds):.2f} s")


def lifecycle(bench: Bench) -> None:
    """Stop and start."""
    stops, starts = [], []
    for _ in range(bench.rounds):
        stops.append(bench.call("stop", "bench")[0].wall)
        starts.append(bench.call("start", "bench")[0].wall)
    bench.row("stop", f"{statistics.median(stops):.1f} s")
    bench.row("start", f"{statistics.median(starts):.1f} s")


def commands(bench: Bench) -> None:
    """Short commands as whole processes, beside the interpreter that does nothing."""
    times = 20
    bare = bench.median(times, lambda: bench.call("-c", "pass", program=sys.executable)[0])
    bench.row("python -c pass", f"{bare.wall * 1000:.0f} ms", f"{bare.cpu * 1000:.0f} ms CPU")
    for words in (("env", "bench"), ("ip", "bench"), ("status", "bench"), ("ls",)):
        cost = bench.median(times, lambda words=words: bench.call(*words)[0])
        reach = "; reach: 40 ms CPU" if words[0] == "env" else ""
        note = f"{cost.cpu * 1000:.0f} ms CPU, {cost.cpu / bare.cpu:.1f} times the bare interpreter's{reach}"
        bench.row(" ".join(["pymachine", *words]), f"{cost.wall * 1000:.0f} ms", note)


def memory(bench: Bench) -> None:
    """What the processes of an idle machine take of the host's memory."""
    time.sleep(20)
    total = {"QEMU": 0, "port watcher": 0}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            pss = re.search(r"^Pss:\s+(\d+)", (entry / "smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue  # it has ended meanwhile
        if str(bench.folder) in command and pss:
            total["QEMU" if "qemu-system" in command else "port watcher"] += int(pss[1])
    for name, kib in total.items():
        bench.row(f"memory of an idle machine: {name}", f"{kib / 1024:.0f} MiB", "proportional set size")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pymachine-bench-") as folder:
        yield Path(folder)


def document(bench: Bench) -> str:
    """The table, with what it was measured on."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    version, _ = bench.call("--version", program="qemu-system-x86_64")[1].split("\n", 1)
    host = f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}, Python {platform.python_version()}, {version}"
    lines = [f"Measured {time.strftime('%Y-%m-%d')} on {host}.", "", "| what | median | |", "|---|---:|---|"]
    lines += [f"| {what} | {value} | {note} |" for what, value, note in bench.rows]
    return "\n" + "\n".join(lines) + "\n\n"


def main() -> None:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, default=Path(__file__).parents[1] / "docs/explanation/benchmarks.md")
    options = parser.parse_args()
    with scratch() as folder:
        bench = Bench(folder, options.rounds)
        try:
            image(bench)
            create(bench)
            memory(bench)
            commands(bench)
            lifecycle(bench)
            table = document(bench)
        finally:
            subprocess.run([str(PROGRAM), "rm", "-y", "-f", "bench"], env=bench.env, check=False, capture_output=True)
    if options.write.exists():
        options.write.write_text(TABLE.sub(lambda _: table, options.write.read_text()))
    print(json.dumps(bench.rows, indent=1) if not options.write.exists() else f"written to {options.write}")


if __name__ == "__main__":
    main()
