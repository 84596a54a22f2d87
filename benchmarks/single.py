"""Measure one machine: its image, its cold creation, its memory, and short commands."""

from __future__ import annotations

import re
import shutil
import statistics
import sys
import time

from bench import Bench, Cost, memory_of_processes


def image(bench: Bench) -> None:
    """Measure a build with an empty package cache, and builds with a full one."""
    cold = {"PYMACHINE_CACHE": str(bench.folder / "cold")}
    first, _ = bench.call("image", "build", env=cold)
    bench.row(
        "image build, empty package cache", f"{first.wall:.1f} s", "including downloads over this host's connection"
    )

    def again() -> Cost:
        shutil.rmtree(bench.folder / "cold" / "images")
        return bench.call("image", "build", env=cold)[0]

    warm = bench.median(bench.rounds, again)
    bench.row("image build, full package cache", f"{warm.wall:.1f} s", "goal: 15 s on two cores")
    shutil.rmtree(bench.folder / "cold")
    bench.call("image", "build")


def create(bench: Bench) -> None:
    """Measure cold creates, step by step. The last machine is kept for the next measurements."""
    parts: dict[str, list[float]] = {}
    walls = []
    for number in range(bench.rounds):
        if number:
            bench.call("rm", "-y", "bench")
        cost, text = bench.call("create", "--timings", "--no-template", "bench")
        walls.append(cost.wall)
        for name, seconds in re.findall(r"^(\w+)\t([0-9.]+)$", text, re.MULTILINE):
            parts.setdefault(name, []).append(float(seconds))
    bench.cold_create = statistics.median(walls)
    bench.row("cold create, whole", f"{bench.cold_create:.1f} s", "goal: 25 s in software emulation")
    for name, seconds in parts.items():
        bench.row(f"- {name}", f"{statistics.median(seconds):.2f} s")


def lifecycle(bench: Bench) -> None:
    """Measure stop and start."""
    stops, starts = [], []
    for _ in range(bench.rounds):
        stops.append(bench.call("stop", "bench")[0].wall)
        starts.append(bench.call("start", "bench")[0].wall)
    bench.row("stop", f"{statistics.median(stops):.1f} s")
    bench.row("start", f"{statistics.median(starts):.1f} s")


def commands(bench: Bench) -> None:
    """Measure short commands as whole processes, compared with an interpreter that does nothing."""
    times = 20
    bare = bench.median(times, lambda: bench.call("-c", "pass", program=sys.executable)[0])
    bench.row("python -c pass", f"{bare.wall * 1000:.0f} ms", f"{bare.cpu * 1000:.0f} ms CPU")
    for command in (("env", "bench"), ("ip", "bench"), ("status", "bench"), ("ls",)):
        cost = bench.median(times, lambda command=command: bench.call(*command)[0])
        goal = "; goal: 40 ms CPU" if command[0] == "env" else ""
        note = f"{cost.cpu * 1000:.0f} ms CPU, {cost.cpu / bare.cpu:.1f} times the bare interpreter's{goal}"
        bench.row(" ".join(["pymachine", *command]), f"{cost.wall * 1000:.0f} ms", note)


def memory(bench: Bench) -> None:
    """Measure the memory that the processes of an idle machine use on the host."""
    time.sleep(20)
    total = {"QEMU": 0, "port forwarder": 0}
    for command, text in memory_of_processes(str(bench.folder)):
        if pss := re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE):
            total["QEMU" if "qemu-system" in command else "port forwarder"] += int(pss[1])
    for name, kib in total.items():
        bench.row(f"memory of an idle machine: {name}", f"{kib / 1024:.0f} MiB", "proportional set size")
