"""Measure a cold create with the driver libvirt, in the same run as that of the driver qemu."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from bench import Bench

ROOT = Path(__file__).resolve().parents[1]


def create(bench: Bench) -> None:
    """Measure the steps of a create and its calls of libvirt, if this host can run the driver's tests."""
    if os.geteuid() or not Path("/usr/sbin/libvirtd").exists():
        bench.row("libvirt: cold create, whole", "-", "not measured: needs root, and scripts/setup --tests")
        return
    command = [
        str(ROOT / "tests" / "support" / "in-namespaces"),
        sys.executable,
        str(ROOT / "benchmarks" / "libvirt_create.py"),
    ]
    output = subprocess.run(
        [*command, str(bench.folder), str(bench.rounds)],
        env={**bench.env, "PYTHONPATH": str(ROOT / "tests")},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    runs = json.loads(output)
    bench.row("libvirt: cold create, whole", f"{statistics.median(run['wall'] for run in runs):.1f} s")
    for name in runs[0]["parts"]:
        bench.row(f"- {name}", f"{statistics.median(run['parts'].get(name, 0.0) for run in runs):.2f} s")
    note = "without the pieces of the image's upload"
    bench.row("- calls to libvirt", f"{statistics.median(run['calls'] for run in runs):.0f}", note)
