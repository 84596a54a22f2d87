"""Helpers of the measurements: run the program, compute medians, write the table."""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "pymachine"


@dataclass(frozen=True)
class Cost:
    """Elapsed seconds, and seconds of processor time of the process and its children."""

    wall: float
    cpu: float


class Bench:
    """Runs the program on a separate store, and collects the results."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder = folder
        self.rounds = rounds
        self.rows: list[tuple[str, str, str]] = []
        self.cold_create = float("nan")
        cache = os.environ.get("PYMACHINE_CACHE") or str(Path.home() / ".cache" / "pymachine-benchmarks")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "MACHINE_"))}
        # Let Python write compiled modules, as for an installed program.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        self.env = {**kept, "MACHINE_STORAGE_PATH": str(folder / "store"), "PYMACHINE_CACHE": cache, "SHELL": "/bin/sh"}

    def call(
        self, *arguments: str, program: Path | str = PROGRAM, env: dict[str, str] | None = None
    ) -> tuple[Cost, str]:
        """Run a command and return its cost and its output."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        finished = subprocess.run(
            [str(program), *arguments], env={**self.env, **(env or {})}, check=True, capture_output=True, text=True
        )
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), finished.stdout

    def median(self, times: int, action: Callable[[], Cost]) -> Cost:
        """Return the median cost of `times` calls of `action`."""
        costs = [action() for _ in range(times)]
        return Cost(statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs))

    def row(self, what: str, value: str, note: str = "") -> None:
        """Add a line to the table, and print it."""
        self.rows.append((what, value, note))
        print(f"{what:44} {value:>12}  {note}", flush=True)

    def document(self, tool: Sequence[str] = ("qemu-system-x86_64", "--version"), condition: str = "") -> str:
        """Return the table, with a description of this computer.

        `tool` is the command that prints the version of the measured program. `condition` follows the date.
        """
        cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        version, _ = self.call(*tool[1:], program=tool[0])[1].split("\n", 1)
        processor = cpu[1] if cpu else platform.machine()
        host = f"{os.cpu_count()} x {processor}, Python {platform.python_version()}, {version}"
        lines = [
            f"Measured {time.strftime('%Y-%m-%d')}{condition} on {host}.",
            "",
            "| what | median | |",
            "|---|---:|---|",
        ]
        lines += [f"| {what} | {value} | {note} |" for what, value, note in self.rows]
        return "\n" + "\n".join(lines) + "\n\n"


def available_mib() -> float:
    """Return the available memory of the host (MemAvailable)."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def memory_of_processes(part: str) -> Iterator[tuple[str, str]]:
    """Yield command line and memory (proc_pid_smaps(5)) of the processes with `part` in their command line."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # of another user, or it has just ended
            command = (entry / "cmdline").read_text(errors="replace")
            if part in command:
                yield command, (entry / "smaps_rollup").read_text()
